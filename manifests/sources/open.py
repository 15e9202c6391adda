"""The reader of a specification: a path whose content decides how it is read, or a named data set."""

from pathlib import Path

from manifests.base.layout import HEADER_NAME
from manifests.errors import InputError
from manifests.sources.arrays import find_idx, open_demo, open_idx
from manifests.sources.base import Source
from manifests.sources.betons import open_beton
from manifests.sources.cifar import find_cifar, open_cifar
from manifests.sources.downloads import open_torchvision
from manifests.sources.folder import open_image_folder
from manifests.sources.names import LAYOUTS, NoSplitsError
from manifests.sources.parquet import find_shards, open_parquet
from manifests.stores.store import is_url, without_password


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


def open_split(spec: str, split: str | None, classes: Path | None = None, label: str | None = None) -> Source:
    """Open a split, or all of the data if it has no splits."""
    try:
        return open_source(spec, split=split, classes=classes, label=label)
    except NoSplitsError:
        return open_source(spec, classes=classes, label=label)


def open_held_out(
    spec: str, *, split: str | None = None, classes: Path | None = None, label: str | None = None
) -> Source:
    """Open validation images: the named split, else test or validation; all of them if there are no splits."""
    if split is None:
        return open_split(spec, "test", classes, label)
    return open_source(spec, split=split, classes=classes, label=label)


def _open(spec: str, split: str | None, classes: Path | None, label: str | None) -> Source:
    scheme, _, rest = spec.partition(":")
    if scheme == "demo":
        return open_demo(rest, split, classes, label)
    if scheme == "torchvision":
        return open_torchvision(rest, split, classes, label)
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
        return open_parquet(path, split, classes, label)
    if path.suffix == ".beton":
        return open_beton(path, split, classes, label)
    raise InputError(f"{path} is not a data set this tool reads", hint=LAYOUTS)


def _open_folder(path: Path, split: str | None, classes: Path | None, label: str | None) -> Source:
    if (path / HEADER_NAME).is_file():
        raise InputError(
            f"{path} is a manifest, not a data set", hint="name the images, or its train.beton if it has one"
        )
    if (found := find_idx(path)) is not None:
        return open_idx(found, split, classes, label)
    if (found := find_cifar(path)) is not None:
        return open_cifar(found, split, classes, label)
    return (open_parquet if find_shards(path) else open_image_folder)(path, split, classes, label)
