"""Report what the run.json files of a sweep say: a table of runs, a table of arms, and plots."""

import csv
import io
import math
import shlex
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.base.files import atomic_file, write_atomic
from manifests.base.progress import note
from prune_toolkit.sweep.grid import ALL, Arm, all_arms
from prune_toolkit.sweep.plots import draw_differences, draw_plots, draw_weights
from prune_toolkit.sweep.runs import Cell, Row
from prune_toolkit.sweep.study import Phase, Study, final_phase, job_of
from prune_toolkit.sweep.sweep_folder import PLOTS_NAME, SweepFolder

Record = dict[str, Any]
WORDS = ("arm", "labels", "loss", "teacher", "budget", "phase", "run", "select", "train")
LEVEL = 0.95


def _schema(names: str, *, whole: Sequence[str]) -> pa.Schema:
    """Return the schema of these columns: WORDS are text, those in `whole` are integers, and all others are floats."""
    types = dict.fromkeys(WORDS, pa.string()) | dict.fromkeys(whole, pa.int64())
    return pa.schema([(name, types.get(name, pa.float64())) for name in names.split()])


TABLE = _schema(
    "arm keep labels loss kd_weight teacher budget n mean deviation low high difference difference_low difference_high "
    "samples steps training_s total_s pays_from select train",
    whole=("n", "pays_from"),
)
"""Accuracies are top-1 of the last epoch in percent, differences in points, both with their 95 % interval."""
RUNS = _schema(
    "arm keep labels loss kd_weight teacher seed phase top1 samples steps training_s total_s run select train",
    whole=("seed", "samples", "steps"),
)


class Summary(NamedTuple):
    """Statistics of n numbers; deviation and interval are None for a single number."""

    n: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None


def summarise(values: Sequence[float]) -> Summary:
    """Return mean, sample standard deviation and t interval of the mean of one or more numbers."""
    from scipy.special import stdtrit

    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Summary(n, mean, None, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    # The quantile of Student's t with half of 1 - LEVEL above it.
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * deviation / math.sqrt(n)
    return Summary(n, mean, deviation, mean - half, mean + half)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Summary | None:
    """Summarise value - baseline over the seeds that both have; None if there are none."""
    seeds = sorted(values.keys() & baseline.keys())
    return summarise([values[seed] - baseline[seed] for seed in seeds]) if seeds else None


def write_report(study: Study, chosen: Mapping[Cell, str]) -> dict[str, Any]:
    """Write tables and plots of the finished runs.

    Returns the rows of the table, the files (relative names) and the table as Markdown.
    """
    folder, phase = study.folder, final_phase(study, chosen)
    runs = run_records(study, phase)
    table = table_records(study, runs)
    files = ["table.md", "table.csv", "table.parquet", "runs.parquet", "runs.csv"]
    tuned: list[Record] = []
    if study.tuning is not None:
        tuning_runs = run_records(study, study.tuning)
        runs = tuning_runs + runs
        tuned = table_records(study, tuning_runs)
        write_tables(folder, "tuning", tuned, TABLE)
        write_atomic(folder.path / "tuning.md", markdown(tuned, study.tuning.judged_on).encode())
        files += ["tuning.md", "tuning.csv", "tuning.parquet"]
    write_tables(folder, "runs", runs, RUNS)
    write_tables(folder, "table", table, TABLE)
    text = markdown(table, phase.judged_on)
    write_atomic(folder.path / "table.md", text.encode())
    if table:
        plots = draw_plots(table, folder.path / PLOTS_NAME, _title(study, phase))
        plots += draw_differences(table, folder.path / PLOTS_NAME, _title(study, phase))
        plots += draw_weights(tuned or table, folder.path / PLOTS_NAME, _title(study, study.tuning or phase))
        files += [path.relative_to(folder.path).as_posix() for path in plots]
    else:
        note("no run is finished: there is nothing to plot")
    rows = [{name: record[name] for name in TABLE.names} for record in table]
    return {"rows": rows, "files": files, "markdown": text}


def _title(study: Study, phase: Phase) -> str:
    header = study.teachers[0].manifest.header
    seeds = study.config.grid.tune_seeds if phase is study.tuning else study.config.grid.seeds
    return (
        f"{header.data.name}, {header.data.readable:,} images; last epoch on {phase.judged_on}; "
        f"n = {seeds}, bars: 95 % interval"
    )


def run_records(study: Study, phase: Phase) -> list[Record]:
    """Return a record per row and finished run; a run that several rows share has a record in each of them.

    Of rows that do not differ (in labels only, with a loss that does not use labels of the teacher), only the first.
    """
    records, trained = dict[tuple[Any, ...], Record](), phase.runs()
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
                # A weight that is annealed is said by the flags of its arm.
                "kd_weight": config["kd_weight"] if is_kd and "kd_weight" not in config.get("annealed", {}) else None,
                "teacher": row.teacher,
                "seed": run.seed,
            }
            found: Record = {
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
            records.setdefault((*of.values(), run.key), of | found)
    return list(records.values())


def table_records(study: Study, records: Sequence[Record]) -> list[Record]:
    """Return a record per row with a finished run, compared with random + KD at the same keep, seed by seed."""
    by_row: dict[Row, list[Record]] = {}
    for record in records:
        by_row.setdefault(record["row"], []).append(record)
    top1 = {row: {run["seed"]: run["top1"] for run in runs} for row, runs in by_row.items()}
    of_row = ("arm", "keep", "labels", "loss", "kd_weight", "teacher", "budget", "select", "train", "row")
    first, *_ = all_arms(study.config.grid)
    table = []
    for row, runs in by_row.items():
        baseline, difference = _baseline_of(row, by_row, first), None
        if baseline is not None and baseline.run_keys != row.run_keys:
            difference = paired(top1[row], top1[baseline])
        table.append(
            {name: runs[0][name] for name in of_row}
            | summarise(list(top1[row].values()))._asdict()
            | {
                "difference": difference and difference.mean,
                "difference_low": difference and difference.low,
                "difference_high": difference and difference.high,
            }
            | {name: _whole(statistics.fmean, runs, name) for name in ("samples", "steps")}
            # The median: a run that shared its machine, or was suspended, does not show the cost of an arm.
            | {name: _whole(statistics.median, runs, name) for name in ("training_s", "total_s")}
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

    def cells(name: str, form: str = "") -> list[str]:
        return ["-" if record[name] is None else f"{record[name]:{form}}" for record in records]

    columns = {
        "arm": cells("arm"),
        "keep": cells("keep", "g"),
        "labels": cells("labels"),
        "loss": cells("loss"),
        "KD weight": cells("kd_weight", "g"),
        "teacher": cells("teacher"),
        "budget": cells("budget"),
        "n": cells("n"),
        "top-1": [_with_deviation(record) for record in records],
        "95 %": [_interval(record["low"], record["high"], "") for record in records],
        "vs random + KD": cells("difference", "+.2f"),
        "95 % of it": [_interval(record["difference_low"], record["difference_high"], "+") for record in records],
        "steps": cells("steps", ",.0f"),
        "training s": cells("training_s", ",.1f"),
        "total s": cells("total_s", ",.1f"),
        "pays from": cells("pays_from"),
    }
    alike = [name for name in ("labels", "loss", "teacher", "budget", "n") if len(set(columns[name])) == 1]
    common = "".join(f"; {name} {columns.pop(name)[0]}" for name in alike)
    lines = [
        f"Top-1 of the last epoch on {judged_on}, percent, mean ± standard deviation over seeds; "
        f"intervals are Student's t; differences are paired by seed{common}.",
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


def _with_deviation(record: Record) -> str:
    return f"{record['mean']:.2f}" + ("" if record["deviation"] is None else f" ± {record['deviation']:.2f}")


def _interval(low: float | None, high: float | None, sign: str) -> str:
    return "-" if low is None or high is None else f"{low:{sign}.2f} to {high:{sign}.2f}"
