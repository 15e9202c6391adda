"""Data sets that torchvision can fetch: it downloads in a child process, then our reader opens the files."""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from manifests.errors import InputError, UsageError
from manifests.sources.array_files import open_array_files
from manifests.sources.base import Opener, ReadOptions, Source
from manifests.sources.cifar import open_cifar
from manifests.sources.folder import open_image_folder
from manifests.sources.idx import EMNIST_NAMES, open_idx
from manifests.sources.splits import choose_split

DEFAULT_ROOT = "~/.cache/prune-toolkit/torchvision"
_IDX_FILES = tuple(f"{split}-{what}-ubyte" for split in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
_CHILD = "import sys; from torchvision import datasets; getattr(datasets, sys.argv[1])(*sys.argv[2:], download=True)"


@dataclass(frozen=True, kw_only=True)
class _Known:
    """The place of a data set below torchvision's root, and what a complete one contains."""

    open: Opener
    folder: str
    needs: tuple[str, ...]
    """Paths below `folder`, perhaps of a {split} or {configuration}; a file may also be there with .gz."""
    counts: Mapping[str | None, int]
    """Number of images per split; empty if the files themselves say whether they are whole."""
    argument: str = ""
    """What torchvision's class takes after the root."""
    configurations: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = field(default=None, repr=False)


def _mnist_like(name: str, *class_names: str) -> _Known:
    return _Known(
        open=open_idx,
        folder=f"{name}/raw",
        needs=_IDX_FILES,
        counts={"train": 60_000, "test": 10_000},
        class_names=class_names,
    )


_KNOWN = {
    "MNIST": _mnist_like("MNIST", *"0123456789"),
    "FashionMNIST": _mnist_like(
        "FashionMNIST",
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "KMNIST": _mnist_like("KMNIST", "o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "EMNIST": _Known(
        open=open_idx,
        folder="EMNIST/raw",
        needs=tuple(
            f"emnist-{{configuration}}-{split}-{what}-ubyte"
            for split in ("train", "test")
            for what in ("images-idx3", "labels-idx1")
        ),
        counts={},
        argument="{configuration}",
        configurations=tuple(EMNIST_NAMES),
    ),
    "SVHN": _Known(
        open=open_array_files,
        folder="",
        needs=("{split}_32x32.mat",),
        counts={"train": 73_257, "test": 26_032, "extra": 531_131},
        argument="{split}",
    ),
    "STL10": _Known(
        open=open_array_files,
        folder="stl10_binary",
        needs=("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"),
        counts={"train": 5_000, "test": 8_000},
        class_names=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    ),
    "CIFAR10": _Known(
        open=open_cifar,
        folder="cifar-10-batches-py",
        needs=("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6))),
        counts={"train": 50_000, "test": 10_000},
    ),
    "CIFAR100": _Known(
        open=open_cifar,
        folder="cifar-100-python",
        needs=("meta", "train", "test"),
        counts={"train": 50_000, "test": 10_000},
    ),
    "Imagenette": _Known(
        open=open_image_folder,
        folder="imagenette2",
        needs=("train", "val"),
        counts={"train": 9_469, "val": 3_925},
        class_names=(
            *("tench", "English springer", "cassette player", "chain saw", "church"),
            *("French horn", "garbage truck", "gas pump", "golf ball", "parachute"),
        ),
    ),
    "EuroSAT": _Known(
        open=open_image_folder, folder="eurosat/2750", needs=("Forest", "SeaLake"), counts={None: 27_000}
    ),
}


class _Place(NamedTuple):
    """A data set below a root, of which one split or configuration may be asked for."""

    name: str
    known: _Known
    configuration: str | None
    root: Path
    words: dict[str, str | None]

    @property
    def folder(self) -> Path:
        return self.root / self.known.folder

    def missing(self) -> str | None:
        """Return a file that is not here, None if all are."""
        needs = [part.format_map(self.words) for part in self.known.needs]
        here = self.folder
        return next((part for part in needs if not ((here / part).exists() or (here / f"{part}.gz").exists())), None)


def open_torchvision(spec: str, options: ReadOptions) -> Source:
    """Open NAME or NAME=ROOT; torchvision downloads what is not below ROOT yet.

    Raises InputError if the download fails or the files there are incomplete.
    """
    place = _place(spec, options)
    name, known = place.name, place.known
    if place.missing():
        _download(name, place.root, known.argument.format_map(place.words))
        if absent := place.missing():
            raise InputError(f"torchvision fetched {name}, but {place.folder / absent} is missing")
    source = known.open(place.folder, options)
    expected = known.counts.get(source.split)
    if expected not in (None, len(source.keys)):
        raise InputError(
            f"{place.folder} holds {len(source.keys)} images, {name} has {expected}",
            hint="an interrupted download: remove the folder, then run the same command again",
        )
    names = source.class_names if options.classes is not None or options.label is not None else known.class_names
    name = name if place.configuration is None else f"{name}-{place.configuration}"
    return dataclasses.replace(source, name=name, class_names=names or source.class_names)


def refuse_download(data: str, options: ReadOptions) -> None:
    """Raise InputError for torchvision:NAME or torchvision:NAME=ROOT if its files are not all here."""
    scheme, _, spec = data.partition(":")
    if scheme == "torchvision":
        place = _place(spec, options)
        if absent := place.missing():
            raise InputError(
                f"{place.folder / absent} is missing", hint=f"to download {place.name}, name it: --data {data}"
            )


def _place(spec: str, options: ReadOptions) -> _Place:
    name, _, given_root = spec.partition("=")
    known = _KNOWN.get(name)
    if known is None:
        raise UsageError(f"unknown torchvision data set {name!r}", hint=f"known: {', '.join(_KNOWN)}")
    if options.label is not None and name != "CIFAR100":
        raise UsageError(f"torchvision:{name} has one label per sample: there is no column {options.label!r} to choose")
    configuration = _configuration(name, known, options.configuration)
    split = None
    if None not in known.counts:
        splits = [str(split) for split in known.counts] or ["train", "test"]
        split = choose_split(splits, options.split, f"torchvision:{name}")
    root = Path(given_root or DEFAULT_ROOT).expanduser()
    return _Place(name, known, configuration, root, {"split": split, "configuration": configuration})


def _configuration(name: str, known: _Known, asked: str | None) -> str | None:
    choices = ", ".join(known.configurations)
    if known.configurations and asked not in known.configurations:
        what = "holds several sets" if asked is None else f"has no set {asked!r}"
        raise UsageError(f"torchvision:{name} {what}", hint=f"choose with --config: {choices}")
    if asked is not None and not known.configurations:
        raise UsageError(f"--config {asked}: torchvision:{name} has only one configuration")
    return asked


def _download(name: str, root: Path, argument: str = "") -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make {root}: {error.strerror}", hint=f"choose another: torchvision:{name}=ROOT"
        ) from None
    # -P: a file of the current folder named like a package must not be imported in its place.
    child = subprocess.run(
        [sys.executable, "-P", "-c", _CHILD, name, str(root), *([argument] if argument else [])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
        raise InputError(
            f"torchvision could not fetch {name}: {lines[-1].strip()}",
            hint=f"without a network, place its files below {root / _KNOWN[name].folder} by hand",
        )
