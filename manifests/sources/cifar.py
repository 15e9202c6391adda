"""CIFAR-10 and CIFAR-100 as their authors publish them: Python 2 pickles, read without executing them."""

import io
import pickle
import pickletools
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from manifests.sources.archives import ArchivePath
from manifests.sources.arrays import read_array
from manifests.sources.base import ReadOptions, Source
from manifests.sources.names import check_class_names, data_set_name, named_labels, row_keys
from manifests.sources.read_as import ReadAs
from manifests.sources.splits import choose_split

Place = Path | ArchivePath
MAX_BATCH_BYTES = 1 << 30
_ROW_BYTES = 3 * 32 * 32
_AGAIN = "extract the archive again: the python version of CIFAR-10 or CIFAR-100"


@dataclass(frozen=True)
class _Layout:
    folder: str
    meta: str
    splits: dict[str, tuple[str, ...]]
    labels: dict[str, tuple[bytes, bytes]]
    """Label column: key of the labels in a batch, key of their names in the meta file; the default first."""


_LAYOUTS = (
    _Layout(
        folder="cifar-10-batches-py",
        meta="batches.meta",
        splits={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        labels={"label": (b"labels", b"label_names")},
    ),
    _Layout(
        folder="cifar-100-python",
        meta="meta",
        splits={"train": ("train",), "test": ("test",)},
        labels={
            "fine_label": (b"fine_labels", b"fine_label_names"),
            "coarse_label": (b"coarse_labels", b"coarse_label_names"),
        },
    ),
)


def find_cifar(path: Place) -> Place | None:
    """Return the folder of CIFAR batches at or directly below `path`; None if there is none."""
    for layout in _LAYOUTS:
        for folder in (path, path / layout.folder):
            if (folder / layout.meta).is_file() and _splits(folder, layout):
                return folder
    return None


def open_cifar(folder: Place, options: ReadOptions, name: str | None = None) -> Source:
    """Open cifar-10-batches-py or cifar-100-python, of which the label is fine_label or, if asked for, coarse_label.

    name: that of the data set, if it is not that of the folder.
    """
    layout = next(known for known in _LAYOUTS if (folder / known.meta).is_file() and _splits(folder, known))
    column = options.label or next(iter(layout.labels))
    if column not in layout.labels:
        raise UsageError(f"{folder} has no label column {column!r}", hint=f"known: {', '.join(layout.labels)}")
    label_key, name_key = layout.labels[column]
    chosen = choose_split(_splits(folder, layout), options.split, folder)
    if missing := [name for name in layout.splits[chosen] if not (folder / name).is_file()]:
        raise InputError(f"{folder} lacks {', '.join(missing)}, of {len(layout.splits[chosen])} batches", hint=_AGAIN)
    batches = [_read_batch(folder / name, label_key) for name in layout.splits[chosen]]
    images, labels_N = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    keys, known = row_keys(chosen, len(images)), _names(folder / layout.meta, name_key)
    class_names, labels_N = named_labels(labels_N, keys, options.classes, known, folder)
    return Source(
        kind="cifar",
        name=name or data_set_name(Path(str(folder))),
        split=chosen,
        class_names=class_names,
        keys=keys,
        labels_N=labels_N,
        read=partial(read_array, images),
        read_as=ReadAs(labels=f"{column} of the batches", split_found="by the names of the files"),
    )


def _splits(folder: Place, layout: _Layout) -> list[str]:
    return [name for name, files in layout.splits.items() if any((folder / file).is_file() for file in files)]


def _read_batch(path: Place, label_key: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content = _load(path)
    data, labels = content.get(b"data"), content.get(label_key)
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise InputError(f"{path} lacks a b'data' array or a {label_key!r} list", hint=_AGAIN)
    count = len(labels)
    if data.dtype != b"u1" or data.shape != (count, _ROW_BYTES) or len(data.raw) != count * _ROW_BYTES:
        raise InputError(f"{path}: its data is not {count} rows of {_ROW_BYTES} bytes", hint=_AGAIN)
    if not all(type(value) is int and 0 <= value < 1 << 31 for value in labels):
        raise InputError(f"{path}: a label is not a class number", hint=_AGAIN)
    planes = np.frombuffer(data.raw, np.uint8)
    planes = planes.reshape(_ROW_BYTES, count).T if data.fortran else planes.reshape(count, _ROW_BYTES)
    images = np.ascontiguousarray(planes.reshape(count, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, np.asarray(labels, np.int64)


def _names(path: Place, name_key: bytes) -> tuple[str, ...]:
    names = _load(path).get(name_key)
    if not isinstance(names, list):
        raise InputError(f"{path} holds no {name_key!r}", hint=_AGAIN)
    return check_class_names([name.decode() if isinstance(name, bytes) else name for name in names], path)


def _load(path: Place) -> dict[bytes, Any]:
    try:
        if isinstance(path, Path) and path.stat().st_size > MAX_BATCH_BYTES:
            raise ValueError(f"larger than {MAX_BATCH_BYTES >> 30} GiB")
        data = path.read_bytes()
        _check_memo(data)
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise InputError(f"{path} is not a CIFAR batch: {error}", hint=_AGAIN) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a CIFAR batch: it is not a dictionary", hint=_AGAIN)
    return {key.encode() if isinstance(key, str) else key: value for key, value in content.items()}


def _check_memo(data: bytes) -> None:
    """Refuse far memo slots: the unpickler would allocate all slots before them."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise ValueError(f"memo slot {argument} after {count} instructions")


@dataclass
class _Type:
    """Stands for numpy.dtype and numpy.ndarray: keeps its code."""

    code: bytes = b""

    def __setstate__(self, state: object) -> None:
        """A byte has no byte order: nothing to keep."""


@dataclass
class _Array:
    """Stands for an array while a pickle is read: keeps its parts, builds nothing."""

    shape: tuple[int, ...] = ()
    dtype: bytes = b""
    fortran: bool = False
    raw: bytes = field(default=b"", repr=False)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, raw = state
        if not isinstance(kind, _Type) or not isinstance(raw, bytes) or not isinstance(shape, tuple):
            raise ValueError("an array of a kind that CIFAR does not have")
        self.shape, self.dtype, self.fortran, self.raw = shape, kind.code, bool(fortran), raw


def _dtype(code: str | bytes, *_: object) -> _Type:
    return _Type(code.encode() if isinstance(code, str) else code)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Knows the four names a CIFAR batch needs, each by a stand-in that only keeps data."""

    _KNOWN: ClassVar = {
        ("numpy", "dtype"): _dtype,
        ("numpy", "ndarray"): _Type,
        ("_codecs", "encode"): _latin1,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a known name. Raises UnpicklingError for any other."""
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._KNOWN[module, name]
