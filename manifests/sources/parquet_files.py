"""Which Parquet files below a folder are the data, and which of them are the split that is meant."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.errors import InputError
from manifests.sources.image_files import image_folders
from manifests.sources.read_as import LeftOut
from manifests.sources.row_groups import open_shard
from manifests.sources.shards import Shards, by_split_name, by_stem, choose_shards, one_shard
from manifests.sources.splits import split_family
from manifests.sources.tree import DiskFolder

if TYPE_CHECKING:
    import pyarrow as pa


def choose_parquet_files(path: Path, split: str | None = None, config: str | None = None) -> Shards:
    """Choose the files of a split at `path`, or of one configuration below it: a folder of its own, as hubs have it.

    Raises InputError if there is no such split, more than one may be meant, or shards are missing.
    """
    if path.is_file():
        return one_shard(path, split)
    left_out = LeftOut()
    folder, by_name, found = _in_configuration(path, config, left_out)
    if not by_name:
        raise InputError(
            f"{path} has no column of encoded images in its Parquet files: {left_out or 'it holds none'}",
            hint="expected binary values, or a struct with bytes, in a column named image or img",
        )
    found += "" if folder == path else f", in {folder.relative_to(path)}/"
    return choose_shards(by_name, split, path, found=found, left_out=left_out)


def holds_parquet(path: Path) -> bool:
    """Return whether a folder is one of Parquet files: with images, or with no class folders beside them."""
    left_out = LeftOut()
    if _below(path, left_out)[0]:
        return True
    if image_folders(DiskFolder(str(path))):
        return False
    return bool(left_out.counts) or any(_below(folder, LeftOut())[0] for folder in _folders(path))


def image_column(schema: "pa.Schema") -> str | None:
    """Return the column of encoded images: image or img, else the first of binary values or structs with `bytes`."""
    columns = [column.name for column in schema if _holds_bytes(column.type)]
    return next((name for name in ("image", "img", *columns) if name in columns), None)


def _in_configuration(path: Path, config: str | None, left_out: LeftOut) -> tuple[Path, dict[str, list[Path]], str]:
    """Return the folder that was searched, its Parquet files with images by split or stem, and how these are told."""
    if config is None:
        by_name, found = _below(path, left_out)
        if by_name:
            return path, by_name, found
    configurations = {folder.name: _below(folder, LeftOut()) for folder in _folders(path)}
    configurations = {name: found for name, found in configurations.items() if found[0]}
    known = ", ".join(configurations) or "none"
    if config is not None and config not in configurations:
        raise InputError(f"{path} has no configuration {config!r}", hint=f"configurations it has: {known}")
    if len(configurations) > 1 and config is None:
        raise InputError(f"{path} holds several configurations: {known}", hint="choose one with --config")
    for name, (by_name, found) in configurations.items():
        if config in (None, name):
            return path / name, by_name, found
    return path, {}, ""


def _below(path: Path, left_out: LeftOut) -> tuple[dict[str, list[Path]], str]:
    """Return the files at `path`, `path`/data or `path`/SPLIT by split or stem, and how their splits are told."""
    for folder in (path, path / "data"):
        groups = by_stem(_parquet_files(folder))
        with_images = {stem: files for stem, files in groups.items() if _has_images(files, left_out)}
        if with_images:
            return by_split_name(with_images), "by the names of the files"
    splits = {folder.name: list(_parquet_files(folder)) for folder in _folders(path) if split_family(folder.name)}
    return {name: files for name, files in splits.items() if files and _has_images(files, left_out)}, "by its folder"


def _parquet_files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.glob("*.parquet"), key=lambda file: file.name):
        if not file.name.startswith(".") and file.is_file():
            yield file


def _folders(path: Path) -> list[Path]:
    return sorted((folder for folder in path.iterdir() if folder.is_dir()), key=lambda folder: folder.name)


def _has_images(files: list[Path], left_out: LeftOut) -> bool:
    """Return whether the first file has a column of images; a damaged one is for the reader to tell."""
    try:
        has_images = image_column(open_shard(files[0]).schema) is not None
    except InputError:
        return True
    if not has_images:
        for file in files:
            left_out.add("Parquet files without images", file.name)
    return has_images


def _holds_bytes(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
