"""`prune export`."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.base.progress import format_bytes, note
from manifests.errors import UsageError
from prune_toolkit.cli.options import (
    FOLDER,
    DataOptions,
    data_options,
    json_option,
    manifest_place,
    timeout_option,
    typed,
    workers_option,
)
from trainer.cli.console import echo_json

if TYPE_CHECKING:
    import pyarrow as pa

    from manifests.manifest import Manifest

Written = tuple[dict[str, Any], str | None]
"""The facts that --json adds, and the line to print: None if the result itself went to stdout."""


@click.command(name="export")
@click.argument("selection", type=manifest_place, default="selection")
@click.option("--indices", type=FOLDER, metavar="F", help="Write sample_ids to F.npy (int64), or F.txt, one per line.")
@click.option("--filelist", type=FOLDER, metavar="F", help="Write keys to F, one per line; - for stdout.")
@click.option("--imagefolder", type=FOLDER, metavar="DIR", help="Write the images as DIR/CLASS/NAME.")
@click.option("--copy", is_flag=True, help="With --imagefolder: copy files instead of making hard links.")
@data_options
@workers_option
@timeout_option
@json_option
def command(
    selection: Path | str,
    indices: Path | None,
    filelist: Path | None,
    imagefolder: Path | None,
    copy: bool,
    images: DataOptions,
    workers: int,
    as_json: bool,
) -> None:
    """Write what SELECTION keeps for other tools: give exactly one of --indices, --filelist, --imagefolder.

    Needs no model. With --imagefolder, images are read from where they were scored, from --data, or else from
    train.beton; --classes names the folders, in label order, if the class names cannot be folder names.

    \b
    prune export selection --filelist - | rsync -a --files-from=- photos/ server:photos-half/
    prune export selection --imagefolder photos-half
    """
    from manifests.manifest import Manifest
    from prune_toolkit.export.export import kept_samples

    forms = {"indices": indices, "filelist": filelist, "imagefolder": imagefolder}
    asked = [(form, path) for form, path in forms.items() if path is not None]
    if len(asked) != 1:
        raise UsageError("give exactly one of --indices F, --filelist F and --imagefolder DIR")
    [(form, path)] = asked
    of_imagefolder = ("copy", "data", "split", "label", "classes")
    if form != "imagefolder" and (unused := [name for name in of_imagefolder if name in typed()]):
        raise UsageError(f"--{unused[0]} cannot be used with --{form}", hint="it goes with --imagefolder")
    manifest = Manifest.open(selection)
    samples = kept_samples(manifest, {"indices": (), "filelist": ("key",)}.get(form))
    if form == "indices":
        facts, line = _indices(path, manifest, samples)
    elif form == "filelist":
        facts, line = _filelist(path, manifest, samples, as_json=as_json)
    else:
        facts, line = _imagefolder(path, manifest, samples, images, copy=copy, workers=workers)
    if as_json:
        echo_json({"id": manifest.id, "form": form, "path": str(path), "count": len(samples), **facts})
    elif line is not None:
        click.echo(f"{line}; selection {manifest.id[:12]}")


def _indices(path: Path, manifest: "Manifest", samples: "pa.Table") -> Written:
    from prune_toolkit.export.export import image_folder_order, write_indices

    data, is_position = manifest.header.data, None
    if data.source == "folder":
        is_position = image_folder_order(manifest.samples(["key"]).column("key").to_pylist(), data.split)
        if not is_position:
            note(
                "these are rows of the manifest, not positions in torchvision's ImageFolder, which orders these files "
                "differently\n  use --filelist or --imagefolder"
            )
    write_indices(path, samples)
    return {"imagefolder_positions": is_position}, f"{path}: {len(samples):,} of {data.count:,} rows"


def _filelist(path: Path, manifest: "Manifest", samples: "pa.Table", *, as_json: bool) -> Written:
    from prune_toolkit.export.export import write_file_list

    if str(path) != "-":
        write_file_list(path, samples)
        return {}, f"{path}: {len(samples):,} of {manifest.header.data.count:,} keys"
    if as_json:
        raise UsageError("--filelist - and --json both write to stdout", hint="leave one out")
    sys.stdout.buffer.write(write_file_list(None, samples))
    return {}, None


def _imagefolder(
    path: Path, manifest: "Manifest", samples: "pa.Table", images: DataOptions, *, copy: bool, workers: int
) -> Written:
    from manifests.sources.names import read_class_names
    from prune_toolkit.export.export import refuse_existing, tree_paths, write_kept

    # --classes names the folders that are written, not those that are read.
    data = replace(images, classes=None).spec()
    if data is None and (unused := [name for name in ("split", "label") if name in typed()]):
        raise UsageError(f"--{unused[0]} needs --data: it says how to read the images", hint="give --data DATA")
    names = tuple(manifest.class_names) if images.classes is None else read_class_names(images.classes)
    if len(names) != len(manifest.class_names):
        raise UsageError(f"--classes names {len(names)} classes, {manifest.where} has {len(manifest.class_names)}")
    refuse_existing(path, folder=True)
    paths = tree_paths(manifest, samples, names)
    tree = write_kept(path, paths, manifest, samples, data, copy=copy, workers=workers)
    folders = sorted({folder.partition("/")[0] for folder in paths})
    if folders != list(names[: len(folders)]):
        note(
            "torchvision's ImageFolder numbers class folders by their sorted names: "
            f"{sum(label != names.index(folder) for label, folder in enumerate(folders))} of {len(folders)} get "
            "a different label than in the manifest"
        )
    facts = {"classes": len(folders), "linked": tree.linked, "written": tree.written, "bytes": tree.bytes}
    line = (
        f"{path}/: {len(paths):,} images in {len(folders)} class folders, {tree.linked:,} hard links, "
        f"{tree.written:,} files written ({format_bytes(tree.bytes)})"
    )
    return facts, line
