"""The interface of sources of labelled images, and the reader for each specification."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from manifests.images.decode import ImageProblem, RawImage
from manifests.sources.names import LAYOUTS, NoSplitsError
from manifests.stores.store import is_url, without_password


class Source(Protocol):
    """Labelled images in canonical order: keys sorted by their UTF-8 bytes, row = position in that order."""

    @property
    def kind(self) -> str:
        """folder, parquet, idx, cifar, digits or beton."""

    @property
    def name(self) -> str:
        """Name of the data set: that of its folder."""

    @property
    def split(self) -> str | None:
        """The split that was opened, as the source spells it; None if there are no splits."""

    @property
    def root(self) -> Path | None:
        """Folder of the image files, whose paths below it are the keys; None where images are rows of something."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Ordered, unique; label c means class_names[c]."""

    @property
    def keys(self) -> Sequence[str]:
        """Unique, sorted by their UTF-8 bytes."""

    @property
    def labels_N(self) -> NDArray[np.int32]:
        """(N,), each in [0, C)."""

    def read(self, rows: Sequence[int]) -> list[RawImage | ImageProblem]:
        """Return the images of some rows, in the order requested, with a problem in place of an unreadable one.

        May be called from several threads at once. Nothing is decoded.
        """


def open_source(
    spec: str, *, split: str | None = None, classes: Path | None = None, label: str | None = None
) -> Source:
    """Open a folder, a .parquet or .beton file, `torchvision:NAME[=ROOT]` or `demo:digits`.

    The content of a folder decides how it is read. `split` defaults to train if there are splits; `classes` is a
    file of class names (JSON list, JSON {index: name}, or one name per line); `label` chooses the label column of
    Parquet files and of CIFAR-100. Raises InputError, with the accepted layouts, for anything else.
    """
    try:
        return _open(str(spec), split, classes, label)
    except OSError as error:
        raise InputError(f"cannot read {error.filename or spec}: {error.strerror or error}") from None


def _open(spec: str, split: str | None, classes: Path | None, label: str | None) -> Source:
    scheme, _, rest = spec.partition(":")
    if scheme == "demo":
        _refuse_label(label, spec)
        return _open_demo(rest, split, classes)
    if scheme == "torchvision":
        from manifests.sources.downloads import open_torchvision

        return open_torchvision(rest, split=split, classes=classes, label=label)
    if is_url(spec):
        raise InputError(
            f"{without_password(spec)} is a URL, but images are read from this machine only",
            hint="to fetch a manifest: prune pull URL DIR",
        )
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_folder(path, split, classes, label)
    if not path.exists():
        raise InputError(f"no data at {path}: no such file or folder", hint=LAYOUTS)
    if path.suffix == ".parquet":
        from manifests.sources.parquet import open_parquet

        return open_parquet(path, split=split, classes=classes, label=label)
    if path.suffix == ".beton":
        from manifests.sources.betons import open_beton

        _refuse_label(label, spec)
        return open_beton(path, split=split, classes=classes)
    raise InputError(f"{path} is not a data set this tool reads", hint=LAYOUTS)


def open_held_out(
    spec: str, *, split: str | None = None, classes: Path | None = None, label: str | None = None
) -> Source:
    """Open validation images: the named split, else test or validation; all of them if there are no splits."""
    if split is not None:
        return open_source(spec, split=split, classes=classes, label=label)
    try:
        return open_source(spec, split="test", classes=classes, label=label)
    except NoSplitsError:
        return open_source(spec, classes=classes, label=label)


def _open_folder(path: Path, split: str | None, classes: Path | None, label: str | None) -> Source:
    from manifests.sources.arrays import find_idx, open_idx
    from manifests.sources.cifar import find_cifar, open_cifar
    from manifests.sources.folder import open_image_folder

    if (path / "manifest.json").is_file():
        raise InputError(
            f"{path} is a manifest, not a data set", hint="name the images, or its train.beton if it has one"
        )
    if (found := find_idx(path)) is not None:
        _refuse_label(label, path)
        return open_idx(found, split=split, classes=classes)
    if (found := find_cifar(path)) is not None:
        return open_cifar(found, split=split, classes=classes, label=label)
    from manifests.sources.parquet import find_shards, open_parquet

    if find_shards(path):
        return open_parquet(path, split=split, classes=classes, label=label)
    _refuse_label(label, path)
    return open_image_folder(path, split=split, classes=classes)


def _open_demo(name: str, split: str | None, classes: Path | None) -> Source:
    from manifests.sources.digits import open_digits

    if name != "digits":
        raise UsageError(f"unknown demo data set {name!r}", hint="known: demo:digits")
    return open_digits(split=split, classes=classes)


def _refuse_label(label: str | None, spec: object) -> None:
    if label is not None:
        raise UsageError(
            f"{spec} has one label per sample: there is no column {label!r} to choose",
            hint="a label column can be chosen for Parquet files and CIFAR-100 only",
        )
