"""Formats that are recognised but not read, and how to turn them into one that is."""

from itertools import chain, islice
from pathlib import Path

from manifests.errors import InputError

_TO_FOLDER = "write its images into DIR/train/CLASS/, or a Parquet file with the columns image and label"
_SIGNATURES = {b"\x89HDF\r\n\x1a\n": "HDF5", b"Rar!": "a RAR archive", b"7z\xbc\xaf\x27\x1c": "a 7z archive"}
_READ_WITH = {
    "HDF5": "h5py",
    "LMDB": "the package lmdb",
    "MDS of MosaicML": "streaming.StreamingDataset",
    "RecordIO of MXNet": "mxnet.recordio",
    "TFRecord": "tensorflow or the package tfrecord",
    "a file of PyTorch": "torch.load",
}
_ENDINGS = {
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".lmdb": "LMDB",
    ".mdb": "LMDB",
    ".mds": "MDS of MosaicML",
    ".rec": "RecordIO of MXNet",
    ".tfrecord": "TFRecord",
    ".tfrecords": "TFRecord",
    ".pt": "a file of PyTorch",
    ".pkl": "a pickle",
    ".pickle": "a pickle",
    ".csv": "a table",
    ".tsv": "a table",
    ".jsonl": "a table",
    ".rar": "a RAR archive",
    ".7z": "a 7z archive",
}
_MOST_FILES = 1000


def refuse_other_format(path: Path) -> None:
    """Raise InputError, with what to do, if a path is of a format that is recognised but not read."""
    files = [path] if path.is_file() else list(islice(chain(path.glob("*"), path.glob("*/*")), _MOST_FILES))
    found = next((name for file in sorted(files) if (name := _format_of(file)) is not None), None)
    if found is None:
        return
    if found == "a table" and path.is_dir():
        return
    hint = "unpack it, or pack its files again as zip or tar"
    if found in _READ_WITH:
        hint = f"read it with {_READ_WITH[found]}, and {_TO_FOLDER}"
    elif found == "a table":
        hint = "if it lists image files: prune index DIR --list FILE; pixels in a table are not read"
    elif found == "a pickle":
        hint = f"a pickle can run code when it is read; {_TO_FOLDER}"
    raise InputError(f"{path} is {found}, which is not read", hint=hint)


def _format_of(file: Path) -> str | None:
    by_part = "TFRecord" if ".tfrecord" in file.name.lower() else None
    return _by_signature(file) or _ENDINGS.get(file.suffix.lower()) or by_part


def _by_signature(file: Path) -> str | None:
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        head = stream.read(8)
    return next((name for signature, name in _SIGNATURES.items() if head.startswith(signature)), None)
