"""`prune suspects`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from manifests.base.progress import note
from manifests.errors import UsageError
from prune_toolkit.cli.options import (
    FOLDER,
    echo_next,
    json_option,
    manifest_place,
    secret_option,
    timeout_option,
    workers_option,
)
from trainer.cli.console import echo_json, echo_table

if TYPE_CHECKING:
    from manifests.manifest import Manifest
    from prune_toolkit.suspecting.find import Suspects


@click.command(name="suspects")
@click.argument("manifest", type=manifest_place, default="manifest")
@click.option("--val", help="Validation images: also list the samples that are among them.")
@click.option("--val-split", help="Split of --val [default: validation or test, if it has splits].")
@click.option("--classes", type=FOLDER, help="With --val: file of its class names in label order.")
@click.option("--label", "--label-column", "label", help="With --val: column of its labels, if there are several.")
@click.option("--config", "configuration", help="With --val: configuration of a hub's repository.")
@click.option("--out", "-o", type=FOLDER, metavar="FILE.csv", help="Write all suspects to this file.")
@secret_option
@workers_option
@timeout_option
@json_option
def command(
    manifest: Path | str,
    val: str | None,
    val_split: str | None,
    classes: Path | None,
    label: str | None,
    configuration: str | None,
    out: Path | None,
    secret: Path | None,
    workers: int,
    as_json: bool,
) -> None:
    """List the samples of MANIFEST that are probably wrong: mislabelled, there twice, or among validation images.

    Needs neither a model nor the images. Labels are judged by the AUM of a training run (prune score --dynamics), else
    by the teacher's margin. MANIFEST may be an index: its labels are then not judged.

    \b
    prune suspects manifest --out suspects.csv
    prune suspects index --val photos --val-split test
    prune select manifest --keep 0.5 --without-suspects
    """
    from manifests.manifest import Manifest
    from prune_toolkit.api.suspects import suspects
    from prune_toolkit.images.data_spec import DataSpec

    if out is not None and out.is_dir():
        raise UsageError(f"--out {out} is a folder", hint="name a file: --out suspects.csv")
    reading = {"val-split": val_split, "classes": classes, "label": label, "config": configuration}
    if val is None and (given := [flag for flag, value in reading.items() if value is not None]):
        raise UsageError(f"--{given[0]} needs --val: it is about validation images", hint="give --val DATA")
    opened, validation = Manifest.open(manifest), None
    if val is not None:
        validation = DataSpec(
            data=val, split=val_split, classes=classes, label=label, configuration=configuration, held_out=True
        )
    found = suspects(opened, validation, val_split=val_split, out=out, secret=secret, workers=workers)
    if as_json:
        echo_json(found.as_json())
    else:
        _echo(found, opened, out)


def _echo(found: "Suspects", manifest: "Manifest", out: Path | None) -> None:
    from prune_toolkit.suspecting.find import REASONS
    from prune_toolkit.suspecting.mislabelled import LARGEST_Z

    counts = found.counts
    if found.judged_by is not None:
        note(f"mislabelled: {found.judged_by} is below 0, and its modified z-score within the class below -{LARGEST_Z}")
    for reason, why in found.not_looked_for.items():
        note(f"{reason}: not looked for; {why}")
    against = "" if found.compared is None else f", and {found.compared:,} validation images"
    click.echo(f"{manifest.where}: {found.readable:,} readable samples{against}")
    echo_table(
        [(reason, f"{counts[reason]:,}", ", ".join(found.first(reason))) for reason in REASONS if reason in counts],
        ("suspects", "samples", "first"),
    )
    if out is not None:
        click.echo(f"{out}: {len(found.rows):,} rows")
    if manifest.kind == "scores" and any(counts.values()):
        echo_next("prune", "select", manifest.where, "--keep", "0.5", "--without-suspects")
