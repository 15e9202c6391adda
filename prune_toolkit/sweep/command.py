"""`prune sweep`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.base.progress import note
from manifests.errors import IncompleteError, UsageError
from prune_toolkit.cli.options import FOLDER, dry_run_option, json_option
from trainer.cli.console import echo_json, echo_table

if TYPE_CHECKING:
    from prune_toolkit.sweep.study import Phase, Study


@click.command(name="sweep")
@click.argument("manifests", metavar="MANIFEST...", nargs=-1, type=FOLDER)
@click.option(
    "--val", metavar="DATA", help="Test images, evaluated once per student  [a hold-out of the training data]."
)
@click.option("--keep", default="0.1,0.3,0.7", show_default=True, metavar="R,R,...", help="Fractions to keep.")
@click.option(
    "--select",
    "selects",
    multiple=True,
    metavar="ENTRY",
    help="[NAME=]SELECTOR [flags of prune select] [-- flags of train-student]; repeatable  [random].",
)
@click.option(
    "--labels", default="raw", show_default=True, metavar="L,L,...", help="Label transforms, with their flags."
)
@click.option("--loss", default="kd", show_default=True, metavar="L,L,...", help="Losses of train-student.")
@click.option(
    "--kd-weight",
    metavar="W,W,...",
    help="KD weights; if several, each arm uses the one that is best on the hold-out  [the loss's own].",
)
@click.option("--dynamic", metavar="D,D,...", help="infobatch, seta: train these too; rs2 is always trained.")
@click.option("--seeds", default=5, show_default=True, metavar="N", help="Students per arm: seeds 0 to N - 1.")
@click.option(
    "--first-seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="S",
    help="First of these seeds, for a claim on other ones than those explored.",
)
@click.option("--tune-seeds", default=3, show_default=True, metavar="N", help="Students per KD weight tried.")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over a selection  [by recipe].")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Instead of --epochs: steps of every student.")
@click.option(
    "--holdout", default="0.1", show_default=True, metavar="R", help="Share of the images held out to tune on."
)
@click.option("--student", metavar="SPEC", help="Same as for train-student.")
@click.option("--train", "train_flags", default="", metavar="FLAGS", help="Flags of train-student, for every run.")
@click.option("--select-flags", default="", metavar="FLAGS", help="Flags of prune select, for every selection.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs to execute at once.")
@click.option("--keep-betons", is_flag=True, help="Keep the images of selections whose runs are done.")
@click.option(
    "--out",
    "-o",
    type=FOLDER,
    default="sweep",
    show_default=True,
    help="Folder of the sweep; an unfinished one is resumed.",
)
@dry_run_option
@json_option
def command(
    manifests: tuple[Path, ...],
    val: str | None,
    keep: str,
    selects: tuple[str, ...],
    labels: str,
    loss: str,
    kd_weight: str | None,
    dynamic: str | None,
    holdout: str,
    jobs: int,
    keep_betons: bool,
    out: Path,
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train students from many selections of MANIFEST (several: several teachers) and compare them in one table.

    Besides what you ask for, every sweep trains the baselines that pruning has to beat: random + KD at the same keep,
    all the data for fewer epochs, RS2, and all the data.

    \b
    prune sweep manifest --val photos --keep 0.3,0.5 --select medium --select "hard=window --position 1"
    prune sweep manifest --kd-weight 0,0.5,0.9 --seeds 3 --jobs 2
    """
    from prune_toolkit.sweep.grid import RANDOM, Grid, spelled_keep
    from prune_toolkit.sweep.results import write_report
    from prune_toolkit.sweep.study import SweepConfig, dry_study, run_study

    grid = Grid(
        keeps=tuple(dict.fromkeys(map(spelled_keep, _items(keep, "--keep")))),
        selects=tuple(dict.fromkeys(selects)) or (RANDOM,),
        labels=_items(labels, "--labels"),
        losses=_items(loss, "--loss"),
        kd_weights=() if kd_weight is None else _numbers(kd_weight, "--kd-weight"),
        dynamics=() if dynamic is None else _items(dynamic, "--dynamic"),
        holdout=spelled_keep(holdout),
        **settings,
    )
    config = SweepConfig(
        grid=grid, manifests=manifests or (Path("manifest"),), out=out, val=val, jobs=jobs, keep_betons=keep_betons
    )
    if dry_run:
        _echo_plan(dry_study(config), as_json)
        return
    failed, written = run_study(config, write_report)
    if as_json:
        echo_json({"path": str(config.out), "failed": failed, **{name: written[name] for name in ("rows", "files")}})
    else:
        click.echo(written["markdown"])
        click.echo(f"{config.out}/: {', '.join(written['files'])}")
    if failed:
        for line in failed:
            note(f"failed: {line}")
        raise IncompleteError(
            f"{len(failed)} of the runs failed", hint="see their logs; run the same command again to retry them"
        )


def _items(text: str, option: str) -> tuple[str, ...]:
    """Return the entries between commas, each once."""
    items = tuple(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
    if not items:
        raise UsageError(f"{option} {text!r} names nothing", hint="separate several by commas")
    return items


def _numbers(text: str, option: str) -> tuple[str, ...]:
    """Return the same for numbers, each in its canonical spelling."""
    from prune_toolkit.sweep.grid import spelled_number

    if ":" in text:
        raise UsageError(
            f"{option} {text!r}: a sweep tries constant weights",
            hint=f'give an annealed one to an entry of its own: --select "random -- {option} 0.9:0.5"',
        )
    try:
        return tuple(dict.fromkeys(spelled_number(float(item)) for item in _items(text, option)))
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a list of numbers", hint="for example 0,0.5,0.9") from None


def _echo_plan(study: "Study", as_json: bool) -> None:
    from prune_toolkit.sweep.study import one_weight

    phases = [study.final] if study.tuning is None else [study.tuning, one_weight(study.final)]
    facts = {
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
    if as_json:
        echo_json(facts)
        return
    columns = ("arm", "keep", "labels", "loss", "kd_weight", "samples", "budget")
    cells = [tuple(f"{row[name]:,}" if name == "samples" else row[name] for name in columns) for row in facts["rows"]]
    echo_table(cells, tuple(name.replace("_", " ") for name in columns))
    for phase in facts["phases"]:
        click.echo(
            f"judged on {phase['judged_on']}: {phase['runs']:,} students from {phase['selections']:,} selections, "
            f"{phase['finished']:,} finished already; {phase['images']:,} images to be shown"
        )


def _phase_facts(study: "Study", phase: "Phase") -> dict[str, Any]:
    runs = [run for _, run in phase.runs().values()]
    left = [run for run in runs if study.folder.report(run.key) is None]
    return {
        "judged_on": phase.judged_on,
        "runs": len(runs),
        "selections": len({run.selection.key for run in runs}),
        "finished": len(runs) - len(left),
        "images": sum(run.images for run in left),
    }
