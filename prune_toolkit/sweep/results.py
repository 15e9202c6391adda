"""Make tables from the run.json files of a sweep: one of runs, one of arms, as Parquet, CSV and Markdown."""

import csv
import io
import math
import shlex
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.base.files import atomic_file, write_atomic
from prune_toolkit.sweep.grid import ALL, Arm, all_arms, baseline_of
from prune_toolkit.sweep.runs import Row
from prune_toolkit.sweep.statistics import paired, summarise
from prune_toolkit.sweep.study import Phase, Study, job_of
from prune_toolkit.sweep.sweep_folder import SweepFolder

Record = dict[str, Any]
TABLE = pa.schema(
    [
        ("arm", pa.string()),
        ("keep", pa.float64()),
        ("labels", pa.string()),
        ("loss", pa.string()),
        ("kd_weight", pa.float64()),
        ("teacher", pa.string()),
        ("budget", pa.string()),
        ("n", pa.int64()),
        ("mean", pa.float64()),
        ("deviation", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("difference", pa.float64()),
        ("difference_low", pa.float64()),
        ("difference_high", pa.float64()),
        ("samples", pa.float64()),
        ("steps", pa.float64()),
        ("training_s", pa.float64()),
        ("total_s", pa.float64()),
        ("pays_from", pa.int64()),
        ("select", pa.string()),
        ("train", pa.string()),
    ]
)
"""Accuracies are top-1 of the last epoch in percent, differences in points, both with their 95 % interval."""
RUNS = pa.schema(
    [
        ("arm", pa.string()),
        ("keep", pa.float64()),
        ("labels", pa.string()),
        ("loss", pa.string()),
        ("kd_weight", pa.float64()),
        ("teacher", pa.string()),
        ("seed", pa.int64()),
        ("phase", pa.string()),
        ("top1", pa.float64()),
        ("samples", pa.int64()),
        ("steps", pa.int64()),
        ("training_s", pa.float64()),
        ("total_s", pa.float64()),
        ("run", pa.string()),
        ("select", pa.string()),
        ("train", pa.string()),
    ]
)


def run_records(study: Study, phase: Phase) -> list[Record]:
    """Return a record per row and finished run; a run that several rows share has a record in each of them.

    Of rows that do not differ (in labels only, with a loss that does not use labels of the teacher), only the first.
    """
    records, trained, seen = list[Record](), phase.runs(), set[tuple[Any, ...]]()
    for row in phase.rows:
        for run in row.runs:
            report = study.folder.report(run.key)
            if report is None:
                continue
            job, config = job_of(study, phase, *trained[run.key]), report["config"]
            is_kd = config["policy"] is not None
            select = ("prune", "select", *job.select, "--out", str(job.selection))
            train = ("train-student", "--manifest", str(job.selection), *job.train, "--out", str(job.folder))
            of: Record = {
                "arm": row.arm.name,
                "keep": float(row.keep.fraction),
                "labels": run.selection.labels if is_kd else "-",
                "loss": config["loss"],
                "kd_weight": config["kd_weight"] if is_kd else None,
                "teacher": row.teacher,
                "seed": run.seed,
            }
            identity = (*of.values(), run.key)
            if identity in seen:
                continue
            seen.add(identity)
            records.append(
                of
                | {
                    "phase": "tuning" if phase is study.tuning else "final",
                    "top1": 100 * report["last"]["top1"],
                    "samples": report["samples"],
                    "steps": report["steps"],
                    "training_s": report["time"]["training_s"],
                    "total_s": report["labels_time"]["total_s"],
                    "run": job.folder.name,
                    "select": shlex.join(select),
                    "train": shlex.join(train),
                    "budget": report["budget"],
                    "row": row,
                }
            )
    return records


def table_records(study: Study, records: Sequence[Record]) -> list[Record]:
    """Return a record per row with a finished run, compared with random + KD at the same keep, seed by seed."""
    by_row: dict[Row, list[Record]] = {}
    for record in records:
        by_row.setdefault(record["row"], []).append(record)
    first = baseline_of(all_arms(study.config.grid))
    table = []
    for row, runs in by_row.items():
        baseline = _baseline_of(row, by_row, first)
        top1 = {run["seed"]: run["top1"] for run in runs}
        base = None if baseline is None else {run["seed"]: run["top1"] for run in by_row[baseline]}
        is_itself = baseline is not None and baseline.run_keys == row.run_keys
        difference = None if base is None or is_itself else paired(top1, base)
        got = summarise(list(top1.values()))
        table.append(
            {name: runs[0][name] for name in ("arm", "keep", "labels", "loss", "kd_weight", "teacher", "budget")}
            | {"n": got.n, "mean": got.mean, "deviation": got.deviation, "low": got.low, "high": got.high}
            | {
                "difference": None if difference is None else difference.mean,
                "difference_low": None if difference is None else difference.low,
                "difference_high": None if difference is None else difference.high,
            }
            | {name: _whole(statistics.fmean, runs, name) for name in ("samples", "steps")}
            # The median: a run that shared its machine, or was suspended, does not show the cost of an arm.
            | {name: _whole(statistics.median, runs, name) for name in ("training_s", "total_s")}
            | {"select": runs[0]["select"], "train": runs[0]["train"], "row": row}
        )
    for record in table:
        record["pays_from"] = _pays_from(record, table)
    return table


def _baseline_of(row: Row, rows: Iterable[Row], first: Arm) -> Row | None:
    """Return the row of random + KD with this teacher and keep, and with this KD weight if there are several."""
    found = [other for other in rows if other.cell == (first, row.teacher, row.keep)]
    return found[0] if len(found) == 1 else next((other for other in found if other.weight == row.weight), None)


def _whole(average: Callable[[list[float]], float], runs: Sequence[Record], name: str) -> float | None:
    """Return the average of a column over a row's runs; None unless all of them have it."""
    known = [run[name] for run in runs if run[name] is not None]
    return average(known) if len(known) == len(runs) else None


def _pays_from(record: Record, table: Sequence[Record]) -> int | None:
    """Return the number of students from which scoring and selecting is cheaper than training on all the data.

    None if it never is.
    """
    whole = next((other for other in table if other["arm"] == ALL and other["teacher"] == record["teacher"]), None)
    if whole is None or record["total_s"] is None:
        return None
    saved = whole["training_s"] - record["training_s"]
    once = record["total_s"] - record["training_s"]
    return None if saved <= 0 else max(1, math.ceil(once / saved))


def write_tables(folder: SweepFolder, name: str, records: Sequence[Record], schema: pa.Schema) -> None:
    """Write NAME.parquet and NAME.csv, with only the columns of the schema."""
    rows = [{column: record[column] for column in schema.names} for record in records]
    with atomic_file(folder.path / f"{name}.parquet") as stream:
        pq.write_table(pa.Table.from_pylist(rows, schema), stream)
    text = io.StringIO()
    writer = csv.DictWriter(text, schema.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(folder.path / f"{name}.csv", text.getvalue().encode())


def markdown(records: Sequence[Record], judged_on: str) -> str:
    """Return the table as Markdown; columns in which all rows agree move above it, rows that share runs appear once."""
    records = _once(records)
    columns: dict[str, list[str]] = {
        "arm": [record["arm"] for record in records],
        "keep": [f"{record['keep']:g}" for record in records],
        "labels": [record["labels"] for record in records],
        "loss": [record["loss"] for record in records],
        "KD weight": [_number(record["kd_weight"], "g") for record in records],
        "teacher": [record["teacher"] for record in records],
        "budget": [record["budget"] for record in records],
        "n": [str(record["n"]) for record in records],
        "top-1": [_with_deviation(record) for record in records],
        "95 %": [_interval(record["low"], record["high"], "") for record in records],
        "vs random + KD": [_number(record["difference"], "+.2f") for record in records],
        "95 % of it": [_interval(record["difference_low"], record["difference_high"], "+") for record in records],
        "steps": [_number(record["steps"], ",.0f") for record in records],
        "training s": [_number(record["training_s"], ",.1f") for record in records],
        "total s": [_number(record["total_s"], ",.1f") for record in records],
        "pays from": [_number(record["pays_from"], "d") for record in records],
    }
    common = []
    for name in ("labels", "loss", "teacher", "budget", "n"):
        if len(set(columns[name])) == 1:
            common.append(f"{name} {columns.pop(name)[0]}")
    lines = [
        f"Top-1 of the last epoch on {judged_on}, percent, mean ± standard deviation over seeds; "
        f"intervals are Student's t; differences are paired by seed{''.join(f'; {what}' for what in common)}.",
        "",
        f"| {' | '.join(columns)} |",
        "|"
        + "".join("---|" if name in ("arm", "labels", "loss", "teacher", "budget") else "---:|" for name in columns),
        *(f"| {' | '.join(cells)} |" for cells in zip(*columns.values(), strict=True)),
    ]
    return "\n".join(lines) + "\n"


def _once(records: Sequence[Record]) -> list[Record]:
    """Return the first of the rows that share all their runs and their baseline (keep and teacher).

    "All data" comes before selections that keep all of it.
    """
    first: dict[tuple[Any, ...], Record] = {}
    for record in sorted(records, key=lambda record: record["arm"] != ALL):
        first.setdefault((record["row"].run_keys, record["keep"], record["teacher"]), record)
    shown = {id(record) for record in first.values()}
    return [record for record in records if id(record) in shown]


def _with_deviation(record: Mapping[str, Any]) -> str:
    deviation = record["deviation"]
    return f"{record['mean']:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def _interval(low: float | None, high: float | None, sign: str) -> str:
    return "-" if low is None or high is None else f"{low:{sign}.2f} to {high:{sign}.2f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
