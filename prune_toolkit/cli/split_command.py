"""`prune split`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune_toolkit.cli.options import FOLDER, dry_run_option, json_option, manifest_place, timeout_option
from trainer.cli.console import echo_json

if TYPE_CHECKING:
    from manifests.manifest import Manifest


@click.command(name="split")
@click.argument("manifest", type=manifest_place, default="manifest")
@click.option("--classes", multiple=True, metavar="A,B", help="Take the samples of these classes; repeatable.")
@click.option(
    "--prefix", multiple=True, metavar="TEXT", help="Take the samples whose keys start with TEXT; repeatable."
)
@click.option("--out", "-o", type=FOLDER, default="split", show_default=True, help="Folder for these samples.")
@click.option("--rest", type=FOLDER, metavar="DIR", help="Folder for all other samples [default: not written].")
@dry_run_option
@timeout_option
@json_option
def command(
    manifest: Path | str,
    classes: tuple[str, ...],
    prefix: tuple[str, ...],
    out: Path,
    rest: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Copy some samples of MANIFEST, an index or a scored manifest, into a manifest of their own.

    It keeps all class names; `prune merge` joins such pieces again.

    \b
    prune split manifest --classes hat,shoes -o part --rest others
    prune split manifest --prefix train/n01 -o part
    """
    from manifests.manifest import Manifest
    from prune_toolkit.combine.split import Split, SplitConfig, write_split

    split = Split.of(SplitConfig(out=out, rest=rest, classes=classes, prefixes=prefix), Manifest.open(manifest))
    if dry_run:
        planned = [{"out": str(path), "samples": int(rows_N.sum())} for path, rows_N in split.pieces]
        if as_json:
            echo_json(planned)
            return
        for part in planned:
            click.echo(f"{part['samples']:,} of {split.samples.count:,} samples into {part['out']}/")
        return
    written = write_split(split)
    if as_json:
        echo_json([_facts(piece) for piece in written])
        return
    for piece in written:
        facts, teacher = _facts(piece), piece.header.teacher
        share = None if teacher is None else teacher.train_top1
        top1 = "" if share is None else f", top-1 {100 * share:.2f} %"
        click.echo(
            f"{piece.path}/: {facts['samples']:,} of {split.parent.header.data.count:,} samples of "
            f"{facts['classes']:,} classes{top1}; id {piece.id[:12]}"
        )


def _facts(piece: "Manifest") -> dict[str, object]:
    """Return facts about a piece; `classes` counts those that have samples."""
    import numpy as np

    labels = piece.samples(["label"]).column("label").to_numpy()
    return {
        "path": str(piece.path),
        "id": piece.id,
        "samples": piece.header.data.count,
        "readable": piece.header.data.readable,
        "classes": len(np.unique(labels)),
    }
