"""The report of a sweep: tables and plots; and the facts that a dry run prints."""

from collections.abc import Mapping
from typing import Any

from manifests.base.files import write_atomic
from manifests.base.progress import note
from prune_toolkit.sweep.differences import draw_differences
from prune_toolkit.sweep.plots import draw_plots, draw_weights
from prune_toolkit.sweep.results import RUNS, TABLE, Record, markdown, run_records, table_records, write_tables
from prune_toolkit.sweep.runs import Cell
from prune_toolkit.sweep.study import Phase, Study, final_phase, one_weight


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
        plots = draw_plots(table, folder.path / "plots", _title(study, phase))
        plots += draw_differences(table, folder.path / "plots", _title(study, phase))
        plots += draw_weights(tuned or table, folder.path / "plots", _title(study, study.tuning or phase))
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


def plan_facts(study: Study) -> dict[str, Any]:
    """Return the plan of a sweep as plain values."""
    phases = [study.final] if study.tuning is None else [study.tuning, one_weight(study.final)]
    return {
        "rows": [
            {
                "arm": row.arm.name,
                "teacher": row.teacher,
                "keep": str(row.keep),
                "labels": row.runs[0].selection.labels,
                "loss": row.runs[0].loss,
                "kd_weight": row.weight or "-",
                "samples": row.runs[0].selection.count,
                "budget": " ".join(row.runs[0].budget),
            }
            for row in study.final.rows
        ],
        "phases": [_phase_facts(study, phase) for phase in phases],
    }


def _phase_facts(study: Study, phase: Phase) -> dict[str, Any]:
    runs = [run for _, run in phase.runs().values()]
    left = [run for run in runs if study.folder.report(run.key) is None]
    return {
        "judged_on": phase.judged_on,
        "runs": len(runs),
        "selections": len({run.selection.key for run in runs}),
        "finished": len(runs) - len(left),
        "images": sum(run.images for run in left),
    }
