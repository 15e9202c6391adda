"""Archives as sources of images: class folders in a tar or zip, one tar per class, or WebDataset's samples."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import InputError
from manifests.images.decode import ImageProblem, RawImage
from manifests.sources.archives import (
    Archive,
    ArchiveFolder,
    ArchivePath,
    TarArchive,
    is_archive,
    open_archive,
    read_image,
)
from manifests.sources.base import ReadOptions, Source
from manifests.sources.cifar import find_cifar, open_cifar
from manifests.sources.class_order import class_order, sorted_names
from manifests.sources.folder_layout import ClassFolders, find_class_folders
from manifests.sources.image_files import EXTENSIONS
from manifests.sources.labelled_files import LabelledFiles, by_folders, by_no_labels
from manifests.sources.names import (
    LAYOUTS,
    WITHOUT_LABELS,
    check_source_labels,
    check_unique_keys,
    data_set_name,
    refuse_label,
)
from manifests.sources.read_as import LeftOut, ReadAs
from manifests.sources.shards import by_split_name, by_stem, choose_shards, one_shard
from manifests.sources.splits import refuse_split

_LABEL_ENDINGS = ("cls", "json", "txt")
"""Files beside an image that may hold its label, best first."""
_LABEL_KEYS = ("label", "cls", "class", "class_name", "category", "target")
_MOST_LABEL_BYTES = 1 << 20


def find_archives(folder: Path) -> list[Path]:
    """Return the tars and zips of a folder, sorted by name."""
    files = sorted(path for path in folder.iterdir() if is_archive(path) and not path.name.startswith("."))
    return [path for path in files if path.is_file()]


def open_archives(path: Path, options: ReadOptions) -> Source:
    """Open an archive, or a folder of WebDataset's shards, or a folder of one tar per class.

    Raises InputError if there are no labels in it.
    """
    name = data_set_name(path if path.is_dir() else path.with_name(path.name.split(".")[0]))
    paths = find_archives(path) if path.is_dir() else [path]
    if len(paths) == 1:
        archive = open_archive(paths[0])
        if (batches := find_cifar(ArchivePath(paths[0], archive))) is not None:
            return open_cifar(batches, options, name)
        if not _holds_samples(archive):
            return _of_folders(paths[0], archive, name, options)
    elif not all(path.suffix.lower() == ".tar" for path in paths):
        raise InputError(f"{path} holds several archives", hint=f"name one of them: {paths[0]}")
    elif not options.unlabelled and not _holds_samples(TarArchive(paths[:1])):
        return _of_folders(paths[0], TarArchive(paths), name, options)
    groups = by_split_name(by_stem(paths))
    shards = choose_shards(groups, options.split, path) if path.is_dir() else one_shard(path, options.split)
    if len(paths) > 1:
        archive = TarArchive(shards.files)
    if options.unlabelled:
        labelled = by_no_labels(ArchiveFolder(archive), ClassFolders(None, "", [], (), LeftOut()))
    else:
        labelled = _samples(archive, options.classes, path)
    labelled.read_as.left_out.extend(shards.left_out)
    told = replace(
        labelled.read_as, split_found=shards.found, other_splits=shards.other_splits, warnings=shards.warnings
    )
    return _source("webdataset", name, archive, replace(labelled, split=shards.split, read_as=told))


def _source(kind: str, name: str, archive: Archive, labelled: LabelledFiles) -> Source:
    return labelled.source(kind=kind, name=name, read=partial(_read_images, archive, labelled.keys))


def _read_images(archive: Archive, keys: Sequence[str], rows: Sequence[int]) -> list[RawImage | ImageProblem]:
    return [read_image(archive, keys[row]) for row in rows]


def _of_folders(path: Path, archive: Archive, name: str, options: ReadOptions) -> Source:
    refuse_label(options.label, path)
    root = ArchiveFolder(archive)
    found = find_class_folders(root, options.split)
    if found.split is None:
        refuse_split(options.split, path)
    if not found.names and not options.unlabelled:
        raise InputError(f"{path} holds no class folders with images", hint=f"{WITHOUT_LABELS}; {LAYOUTS}")
    kind = "zip" if path.suffix.lower() == ".zip" else "tar"
    labelled = by_no_labels(root, found) if options.unlabelled else by_folders(root, found, options.classes)
    return _source(kind, name, archive, labelled)


def _holds_samples(archive: Archive) -> bool:
    """Return whether an archive is WebDataset's: an image has its label beside it, in a file of the same name."""
    return any(_label_file(parts) is not None for parts in _by_sample(archive.names).values())


def _samples(archive: Archive, classes: Path | None, where: Path) -> LabelledFiles:
    left_out, label_of_key, endings = LeftOut(), dict[str, str](), set[str]()
    for sample, parts in _by_sample(archive.names).items():
        image = next((file for ending, file in parts.items() if ending in EXTENSIONS), None)
        label = _label_file(parts)
        if image is None or label is None:
            left_out.add("samples without an image or a label", sample)
            continue
        endings.add(label[0])
        label_of_key[image] = _label_in(archive, *label)
    keys = sorted(label_of_key)
    check_unique_keys(keys, where)
    class_names, number_of = class_order(sorted_names(label_of_key.values()), classes, where)
    labels_N = np.array([number_of[label_of_key[key]] for key in keys], np.int32)
    return LabelledFiles(
        split=None,
        class_names=class_names,
        keys=keys,
        labels_N=check_source_labels(labels_N, class_names, keys, where),
        read_as=ReadAs(labels=f"the .{', .'.join(sorted(endings))} file of each sample", left_out=left_out),
    )


def _by_sample(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Group files as WebDataset does: by their path up to the first dot of the name; by ending in each group."""
    samples: dict[str, dict[str, str]] = {}
    for path in names:
        folder, mark, name = path.rpartition("/")
        stem, _, ending = name.partition(".")
        if stem:
            samples.setdefault(folder + mark + stem, {})[ending.lower()] = path
    return samples


def _label_file(parts: dict[str, str]) -> tuple[str, str] | None:
    """Return ending and path of the label of a sample with an image; None if it has none."""
    if not EXTENSIONS.intersection(parts):
        return None
    return next(((ending, parts[ending]) for ending in _LABEL_ENDINGS if ending in parts), None)


def _label_in(archive: Archive, ending: str, path: str) -> str:
    try:
        text = archive.read(path)[:_MOST_LABEL_BYTES].decode().strip()
        content: Any = json.loads(text) if ending == "json" else text
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} holds no label: {error}") from None
    if isinstance(content, dict):
        content = next((content[key] for key in _LABEL_KEYS if key in content), None)
    if not isinstance(content, str | int) or isinstance(content, bool) or content == "":
        raise InputError(f"{path} holds no label", hint=f"expected text, a number, or JSON with {_LABEL_KEYS[0]}")
    return str(content)
