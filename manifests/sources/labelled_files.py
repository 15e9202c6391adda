"""The keys and labels of image files, by the folders they are in or by a list."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.sources.base import UNLABELLED, ReadRows, Source
from manifests.sources.class_order import class_order, sorted_names
from manifests.sources.folder_layout import BESIDE_SPLITS, ClassFolders
from manifests.sources.image_files import EXTENSIONS, image_files
from manifests.sources.listed import Listed
from manifests.sources.names import check_source_labels, check_unique_keys, named_by
from manifests.sources.read_as import NO_LABELS, ReadAs
from manifests.sources.tree import Folder


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledFiles:
    """Image files in the order of their keys, which are their paths below the data set."""

    split: str | None
    class_names: tuple[str, ...]
    keys: list[str] = field(repr=False)
    labels_N: NDArray[np.int32] = field(repr=False)
    read_as: ReadAs

    def source(self, *, kind: str, name: str, read: ReadRows, root: Path | None = None) -> Source:
        """Return them as a source, of which `read` reads the files."""
        return Source(
            kind=kind,
            name=name,
            split=self.split,
            class_names=self.class_names,
            keys=self.keys,
            labels_N=self.labels_N,
            read=read,
            read_as=self.read_as,
            root=root,
        )


def by_folders(root: Folder, found: ClassFolders, classes: Path | None) -> LabelledFiles:
    """Label the files in class folders by the names of these."""
    top = root / found.top
    class_names, label_of = class_order(found.names, classes, top)
    prefix = f"{found.top}/" if found.top else ""
    labelled = sorted(
        (key, label_of[folder])
        for folder in found.names
        for key in image_files(top / folder, f"{prefix}{folder}/", found.left_out)
    )
    keys = [key for key, _ in labelled]
    check_unique_keys(keys, root)
    labels_N = np.array([label for _, label in labelled], np.int32)
    return LabelledFiles(
        split=found.split,
        class_names=class_names,
        keys=keys,
        labels_N=check_source_labels(labels_N, class_names, keys, top),
        read_as=ReadAs(
            labels="names of the folders" + (f" in {prefix}" if prefix else "") + named_by(classes),
            split_found=None if found.split is None else "by the name of its folder",
            other_splits=found.other_splits,
            left_out=found.left_out,
        ),
    )


def by_no_labels(root: Folder, found: ClassFolders) -> LabelledFiles:
    """List all image files of a split, or of all the data, whatever folders they are in, without labels."""
    top, prefix = root / found.top, f"{found.top}/" if found.top else ""
    left_out = found.left_out.only(BESIDE_SPLITS)
    keys = sorted(image_files(top, prefix, left_out))
    if not keys:
        raise InputError(f"{top} holds no image files", hint=f"image files end in {', '.join(sorted(EXTENSIONS))}")
    return LabelledFiles(
        split=found.split,
        class_names=UNLABELLED,
        keys=keys,
        labels_N=np.zeros(len(keys), np.int32),
        read_as=ReadAs(
            labels=NO_LABELS,
            split_found=None if found.split is None else "by the name of its folder",
            other_splits=found.other_splits,
            left_out=left_out,
        ),
    )


def by_list(listed: Listed, classes: Path | None, found: ClassFolders | None = None) -> LabelledFiles:
    """Label the files of a list as it says; `found` tells the split if that is a folder."""
    class_names, label_of = class_order(sorted_names(listed.classes), classes, listed.list_file)
    labels_N = np.array([label_of[name] for name in listed.classes], np.int32)
    split, others, how = listed.split, listed.other_splits, "by the list" if listed.split else None
    if found is not None and found.split is not None:
        split, others, how = found.split, found.other_splits, "by the name of its folder"
    return LabelledFiles(
        split=split,
        class_names=class_names,
        keys=listed.keys,
        labels_N=check_source_labels(labels_N, class_names, listed.keys, listed.list_file),
        read_as=ReadAs(
            labels=f"the list {listed.list_file.name}" + named_by(classes),
            split_found=how,
            other_splits=others,
            left_out=listed.left_out,
        ),
    )
