"""`prune cut`."""

from pathlib import Path

import click

from manifests.base.progress import format_bytes
from prune_toolkit.cli.copy_options import CopyOptions, copy_options, note_unused
from prune_toolkit.cli.options import (
    FOLDER,
    dry_run_option,
    echo_train_command,
    json_option,
    manifest_place,
    timeout_option,
)
from trainer.cli.console import echo_json


@click.command(name="cut")
@click.argument("selection", type=manifest_place, default="selection")
@click.option("--out", "-o", type=FOLDER, default="cut", show_default=True, help="Folder of the new selection.")
@click.option(
    "--max-side",
    type=click.IntRange(min=8),
    metavar="PX",
    help="Shrink images whose longer side exceeds PX [default: as for SELECTION].",
)
@copy_options
@dry_run_option
@timeout_option
@json_option
def command(
    selection: Path | str,
    out: Path,
    max_side: int | None,
    copy: CopyOptions,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Cut the missing beton of SELECTION from a copy of the images; write both as a new selection.

    Samples, targets and weights are those of SELECTION. The copy is first compared with it, as in `prune select`, and
    images that do not match are left out.

    \b
    prune cut selection --data photos
    prune cut s3://bucket/half --data smaller-photos --pixels -o half
    """
    from manifests.betons.reader import Beton
    from manifests.manifest import Manifest
    from prune_toolkit.images.where import place_of
    from prune_toolkit.selection.cut_images import cut_from
    from prune_toolkit.selection.cut_selection import plan_cut, write_cut_selection
    from prune_toolkit.selection.select_config import CutConfig

    config = CutConfig(out=out, max_side=max_side, **copy.settings())
    parent = Manifest.open(selection)
    plan = plan_cut(config, parent)
    beton = place_of(parent, config.data).beton
    note_unused(config.data, beton)
    if dry_run:
        left = cut_from(config, plan)[0]
        size_bytes = left.beton_bytes(None if beton is None else Beton.open(beton))
        if as_json:
            echo_json({"count": left.count, "of": plan.count, "bytes": size_bytes, "config": left.resolved})
        else:
            click.echo(f"{left.count:,} of {plan.count:,} samples, about {format_bytes(size_bytes)}")
        return
    cut = write_cut_selection(config, plan)
    chosen, path = cut.header.selection, cut.beton_path
    assert chosen is not None
    assert path is not None
    size_bytes = path.stat().st_size
    if as_json:
        echo_json(
            {
                "id": cut.id,
                "path": str(config.out),
                "selection": chosen.model_dump(),
                "copy": cut.header.config.get("copy"),
                "beton_bytes": size_bytes,
                "seconds": cut.header.run.get("seconds"),
            }
        )
        return
    click.echo(
        f"{config.out}/: {chosen.count:,} of {plan.count:,} samples of {parent.where}; train.beton "
        f"{format_bytes(size_bytes)}; id {cut.id[:12]}"
    )
    echo_train_command(config.out, has_labels=bool(plan.targets.tables))
