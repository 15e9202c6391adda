"""Formats that are recognised but not read."""

from pathlib import Path

import pytest

from manifests.errors import InputError
from manifests.sources import open_source


@pytest.mark.parametrize(
    ("file", "content", "what", "hint"),
    [
        ("h5/train.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5", "h5py"),
        ("train.data", b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5", "h5py"),
        ("lmdb/data.mdb", bytes(100), "LMDB", "package lmdb"),
        ("mnist_train.csv", b"label,pixel0\n1,0\n", "a table", "--list FILE"),
        ("mds/shard.00000.mds", bytes(100), "MDS", "StreamingDataset"),
        ("tf/train-00000-of-00001.tfrecord", bytes(100), "TFRecord", "tfrecord"),
        ("tf/cifar.tfrecord-00000-of-00010", bytes(100), "TFRecord", "tfrecord"),
        ("rec/train.rec", bytes(100), "RecordIO", "recordio"),
        ("data.pkl", b"\x80\x04.", "a pickle", "run code"),
        ("photos.rar", b"Rar!\x1a\x07", "RAR", "unpack"),
    ],
)
def test_a_format_that_is_not_read_is_named_with_a_way_out(
    tmp_path: Path, file: str, content: bytes, what: str, hint: str
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    for spec in {path, path.parent if path.parent != tmp_path else path}:
        with pytest.raises(InputError, match=f"{what}.*which is not read") as caught:
            open_source(str(spec))
        assert hint in str(caught.value.hint)


def test_a_format_is_recognised_one_folder_further_down(tmp_path: Path) -> None:
    (tmp_path / "mds" / "train").mkdir(parents=True)
    (tmp_path / "mds" / "train" / "shard.00000.mds").write_bytes(bytes(100))
    with pytest.raises(InputError, match="MDS"):
        open_source(str(tmp_path / "mds"))


def test_a_file_of_no_known_format_lists_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "notes.doc").write_text("text")
    with pytest.raises(InputError, match="not a data set this tool reads") as caught:
        open_source(str(tmp_path / "notes.doc"))
    assert "DIR/train/CLASS" in str(caught.value.hint)
