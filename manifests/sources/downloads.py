"""Data sets that torchvision can fetch: it downloads in a child process, then our reader opens the files."""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from manifests.errors import InputError, UsageError
from manifests.sources.arrays import open_idx
from manifests.sources.base import Opener, ReadOptions, Source
from manifests.sources.cifar import open_cifar
from manifests.sources.folder import open_image_folder
from manifests.sources.splits import choose_split

DEFAULT_ROOT = "~/.cache/prune-toolkit/torchvision"
_IDX_FILES = tuple(f"{split}-{what}-ubyte" for split in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
_CHILD = "import sys; from torchvision import datasets; getattr(datasets, sys.argv[1])(sys.argv[2], download=True)"


@dataclass(frozen=True, kw_only=True)
class _Known:
    """The place of a data set below torchvision's root, and what a complete one contains."""

    open: Opener
    folder: str
    needs: tuple[str, ...]
    """Paths below `folder`; a file may also be there with .gz."""
    counts: Mapping[str | None, int]
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


def open_torchvision(spec: str, options: ReadOptions) -> Source:
    """Open NAME or NAME=ROOT; torchvision downloads what is not below ROOT yet.

    Raises InputError if the download fails or the files there are incomplete.
    """
    name, _, given_root = spec.partition("=")
    known = _KNOWN.get(name)
    if known is None:
        raise UsageError(f"unknown torchvision data set {name!r}", hint=f"known: {', '.join(_KNOWN)}")
    if options.label is not None and name != "CIFAR100":
        raise UsageError(f"torchvision:{name} has one label per sample: there is no column {options.label!r} to choose")
    if None not in known.counts:
        choose_split([known_split for known_split in known.counts if known_split], options.split, f"torchvision:{name}")
    root = Path(given_root or DEFAULT_ROOT).expanduser()
    folder = root / known.folder
    if _missing(folder, known):
        _download(name, root)
        if absent := _missing(folder, known):
            raise InputError(f"torchvision fetched {name}, but {folder / absent} is missing")
    source = known.open(folder, options)
    expected = known.counts[source.split]
    if len(source.keys) != expected:
        raise InputError(
            f"{folder} holds {len(source.keys)} images, {name} has {expected}",
            hint="an interrupted download: remove the folder, then run the same command again",
        )
    names = source.class_names if options.classes is not None or options.label is not None else known.class_names
    return dataclasses.replace(source, name=name, class_names=names or source.class_names)


def refuse_download(data: str) -> None:
    """Raise InputError for torchvision:NAME or torchvision:NAME=ROOT if its files are not all here."""
    scheme, _, spec = data.partition(":")
    name, _, root = spec.partition("=")
    if scheme == "torchvision" and name in _KNOWN:
        folder = Path(root or DEFAULT_ROOT).expanduser() / _KNOWN[name].folder
        if absent := _missing(folder, _KNOWN[name]):
            raise InputError(f"{folder / absent} is missing", hint=f"to download {name}, name it: --data {data}")


def _missing(folder: Path, known: _Known) -> str | None:
    return next(
        (part for part in known.needs if not ((folder / part).exists() or (folder / f"{part}.gz").exists())), None
    )


def _download(name: str, root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make {root}: {error.strerror}", hint=f"choose another: torchvision:{name}=ROOT"
        ) from None
    # -P: a file of the current folder named like a package must not be imported in its place.
    child = subprocess.run(
        [sys.executable, "-P", "-c", _CHILD, name, str(root)],
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
