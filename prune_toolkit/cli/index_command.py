"""`prune index`."""

from pathlib import Path
from typing import Any

import click

from manifests.base.progress import format_bytes, format_seconds, note
from manifests.errors import UsageError
from prune_toolkit.cli.options import (
    FOLDER,
    DataOptions,
    data_options,
    dry_run_option,
    json_option,
    rank_options,
    redistributable_option,
    strict_option,
    workers_option,
)
from trainer.cli.console import echo_json


@click.command(name="index")
@click.argument("data_argument", metavar="[DATA]", required=False)
@data_options
@click.option("--out", "-o", type=FOLDER, default="index", show_default=True, help="Folder of the index.")
@click.option("--beton/--no-beton", default=False, help="Also write train.beton: all readable images, for FFCV.")
@click.option("--max-side", type=int, metavar="PX", help="Shrink images in the beton whose longer side exceeds PX.")
@click.option(
    "--check",
    type=click.Choice(["decode", "header"]),
    default="decode",
    show_default=True,
    help="Decode every image, or read only the header of JPEGs (faster, but damaged pixels are found later).",
)
@click.option("--thumbnails", is_flag=True, help="Store 8x8 pixels of each image, to recognise re-encoded copies.")
@click.option("--name", help="Name of the data set in the manifest [default: the folder's].")
@click.option("--licence", "--license", "licence", help="Licence of the data, recorded in the manifest.")
@strict_option
@redistributable_option
@workers_option
@rank_options
@dry_run_option
@json_option
def command(
    data_argument: str | None,
    images: DataOptions,
    out: Path,
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """List every image of DATA: key, label, size, content hash. Needs no model.

    \b
    prune index photos --split train --beton
    """
    from prune_toolkit.indexing.index import IndexConfig, build_index
    from prune_toolkit.indexing.reading import tell_reading
    from prune_toolkit.work.part_work import ALONE

    data = images.spec(data_argument)
    if data is None:
        raise UsageError(
            "DATA is missing: name the images to index", hint='prune index DIR, or data = "DIR" in prune.toml'
        )
    config = IndexConfig(data=data, out=out, **settings)
    if dry_run:
        config.data.refuse_out(out)
        source = config.data.open()
        tell_reading(source, strict=config.strict)
        plan = {
            "source": source.kind,
            "samples": len(source.keys),
            "classes": 0 if source.is_unlabelled else len(source.class_names),
            "parts": len(ALONE.parts(len(source.keys))),
            "out": str(out),
        }
        if as_json:
            echo_json(plan)
        else:
            click.echo(
                f"{plan['samples']:,} samples in {plan['classes']} classes ({plan['source']}) would go into {out}/"
                if plan["classes"]
                else f"{plan['samples']:,} samples without labels ({plan['source']}) would go into {out}/"
            )
        return
    manifest = build_index(config)
    if manifest is None:
        note("the parts of this rank are done; other ranks are still working")
        return
    header = manifest.header
    size_bytes = sum(entry.bytes for entry in header.files)
    result = {
        "id": manifest.id,
        "path": str(out),
        "samples": header.data.count,
        "readable": header.data.readable,
        "classes": 0 if header.data.is_unlabelled else len(header.data.class_names),
        "bytes": size_bytes,
        "seconds": header.run.get("seconds"),
    }
    if as_json:
        echo_json(result)
    else:
        click.echo(
            f"{out}/: {header.data.readable:,} of {header.data.count:,} images readable, "
            f"{header.data.classes_text}, {format_bytes(size_bytes)}, "
            f"{format_seconds(header.run.get('seconds', 0))}; id {manifest.id[:12]}"
        )
