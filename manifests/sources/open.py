"""The reader of a specification: a path whose content decides how it is read, or a named data set."""

from dataclasses import replace
from pathlib import Path

from manifests.base.files import refuse_special
from manifests.base.layout import HEADER_NAME
from manifests.errors import InputError
from manifests.sources.archive_source import find_archives, open_archives
from manifests.sources.archives import is_archive
from manifests.sources.array_files import find_array_files, open_array_files
from manifests.sources.arrays import open_demo
from manifests.sources.arrow import find_arrow, open_arrow
from manifests.sources.base import ReadOptions, Source, without_labels
from manifests.sources.betons import open_beton
from manifests.sources.cifar import find_cifar, open_cifar
from manifests.sources.downloads import open_torchvision
from manifests.sources.folder import open_image_folder
from manifests.sources.idx import find_idx, open_idx
from manifests.sources.image_files import image_folders
from manifests.sources.names import LAYOUTS, refuse_label
from manifests.sources.other_formats import refuse_other_format
from manifests.sources.parquet import open_parquet
from manifests.sources.parquet_files import holds_parquet
from manifests.sources.splits import HELD_OUT, NoSplitsError
from manifests.sources.tree import DiskFolder
from manifests.stores.addresses import is_url, without_password


def open_source(
    spec: str, *, split: str | None = None, classes: Path | None = None, label: str | None = None
) -> Source:
    """Open images by the options that decide most often; see read_source."""
    return read_source(spec, ReadOptions(split=split, classes=classes, label=label))


def read_source(spec: str, options: ReadOptions) -> Source:
    """Open a folder, an archive, a .parquet, .arrow, .npz or .beton file, `torchvision:NAME[=ROOT]` or `demo:digits`.

    The content of a folder decides how it is read. The split is train if there are splits and none is named. Raises
    InputError, with the accepted layouts, for anything else, and where the options have to decide.
    """
    try:
        source = _open(str(spec), options)
    except OSError as error:
        raise InputError(f"cannot read {error.filename or spec}: {error.strerror or error}") from None
    return without_labels(source) if options.unlabelled else source


def open_split(spec: str, options: ReadOptions) -> Source:
    """Open a split, or all of the data if it has no splits."""
    try:
        return read_source(spec, options)
    except NoSplitsError:
        return read_source(spec, replace(options, split=None))


def open_held_out(spec: str, options: ReadOptions | None = None) -> Source:
    """Open validation images: the named split, else validation or test; all of them if there are no splits."""
    options = options or ReadOptions()
    if options.split is None:
        return open_split(spec, replace(options, split=HELD_OUT))
    return read_source(spec, options)


def _open(spec: str, options: ReadOptions) -> Source:
    scheme, _, rest = spec.partition(":")
    if scheme == "demo":
        return open_demo(rest, options)
    if scheme == "torchvision":
        return open_torchvision(rest, options)
    if is_url(spec):
        raise InputError(
            f"{without_password(spec)} is a URL, but images are read from this machine only",
            hint="to fetch a manifest: prune pull URL DIR",
        )
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_folder(path, options)
    if not path.exists():
        raise InputError(f"no data at {path}: no such file or folder", hint=LAYOUTS)
    refuse_special(path)
    if is_archive(path):
        return open_archives(path, options)
    opener = _OF_FILE.get(path.suffix.lower())
    if opener is None:
        refuse_other_format(path)
        raise InputError(f"{path} is not a data set this tool reads", hint=LAYOUTS)
    return opener(path, options)


_OF_FILE = {
    ".arrow": open_arrow,
    ".beton": open_beton,
    ".mat": open_array_files,
    ".npz": open_array_files,
    ".parquet": open_parquet,
}


def _open_folder(path: Path, options: ReadOptions) -> Source:
    if (path / HEADER_NAME).is_file():
        raise InputError(
            f"{path} is a manifest, not a data set", hint="name the images, or its train.beton if it has one"
        )
    if options.list_file is not None:
        return open_image_folder(path, options)
    if (found := find_idx(path)) is not None:
        return open_idx(found, options)
    if (batches := find_cifar(path)) is not None:
        return open_cifar(batches, options)
    if options.configuration is not None or holds_parquet(path):
        return open_parquet(path, options)
    if find_arrow(path):
        return open_arrow(path, options)
    if find_array_files(path):
        return open_array_files(path, options)
    if not image_folders(DiskFolder(str(path))):
        if find_archives(path):
            return open_archives(path, options)
        refuse_other_format(path)
    if options.label is not None and options.list_file is None:
        refuse_label(options.label, path)
    return open_image_folder(path, options)
