"""Images without labels, and images whose labels are not used."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from manifests.errors import InputError, UsageError
from manifests.sources import ReadOptions, Source, open_source, read_source
from manifests.sources.telling import reading_lines, reading_warnings

KEYS = ("bag/0.png", "bag/1.png", "hat/0.png")


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def put(root: Path, *keys: str) -> Path:
    for shade, key in enumerate(keys):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(png(shade))
    return root


def unlabelled(path: Path, **options: Any) -> Source:
    return read_source(str(path), ReadOptions(unlabelled=True, **options))


def test_a_flat_folder_needs_the_flag_and_the_hint_names_it(tmp_path: Path) -> None:
    root = put(tmp_path / "photos", "b.png", "a.png")
    with pytest.raises(InputError, match="no class folders") as refused:
        open_source(str(root))
    assert "--unlabelled" in str(refused.value.hint)
    source = unlabelled(root)
    assert (source.keys, source.labels_N.tolist(), source.class_names) == (["a.png", "b.png"], [0, 0], ("unlabelled",))
    assert reading_lines(source) == ["photos (folder): 2 images", "labels: none, as --unlabelled says"]
    assert reading_warnings(source) == []


def test_the_labels_of_class_folders_are_not_used_but_keys_stay(tmp_path: Path) -> None:
    root = put(tmp_path / "photos", *KEYS)
    labelled, source = open_source(str(root)), unlabelled(root)
    assert source.keys == labelled.keys == list(KEYS)
    assert not source.labels_N.any()


def test_images_in_any_folder_of_the_split_are_taken(tmp_path: Path) -> None:
    root = put(tmp_path / "photos", "train/a.png", "train/deep/b.png", "test/c.png")
    (root / "train" / "notes.txt").write_text("x")
    source = unlabelled(root)
    assert (source.split, source.keys) == ("train", ["train/a.png", "train/deep/b.png"])
    assert dict(source.read_as.left_out.counts) == {"files ending in .txt": 1}
    assert unlabelled(root, split="test").keys == ["test/c.png"]
    assert len(unlabelled(root, split="none").keys) == 3


def test_one_folder_called_unlabelled_is_refused_with_the_flag(tmp_path: Path) -> None:
    root = put(tmp_path / "photos", "train/unlabelled/a.png", "train/unlabelled/b.png")
    with pytest.raises(InputError, match="only one class has samples") as refused:
        open_source(str(root))
    assert "--unlabelled" in str(refused.value.hint)
    assert unlabelled(root).keys == ["train/unlabelled/a.png", "train/unlabelled/b.png"]


def test_a_class_called_like_images_without_labels_is_told(tmp_path: Path) -> None:
    source = open_source(str(put(tmp_path / "photos", *KEYS, "unsup/0.png")))
    assert "unsup is read as a class: if its images have no labels" in "\n".join(reading_warnings(source))


@pytest.mark.parametrize(
    ("labels", "refused"),
    [
        (None, "not clear which column"),
        ([[0, 1]] * 3, "several labels per image"),
        ([[0.0, 1.0]] * 3, "several labels per image"),
        ([0.5] * 3, "decimals such as 0.5"),
        ([-1] * 3, "which have no class"),
        ([1] * 3, "only one class"),
    ],
)
def test_parquet_files_without_usable_labels_are_read_by_the_flag(tmp_path: Path, labels: Any, refused: str) -> None:
    columns = {"image": [{"bytes": png(shade), "path": None} for shade in range(3)]}
    path = tmp_path / "photos.parquet"
    pq.write_table(pa.table(columns if labels is None else columns | {"label": labels}), path)
    with pytest.raises(InputError, match=refused) as error:
        open_source(str(path))
    assert "--unlabelled" in str(error.value.hint)
    source = unlabelled(path)
    assert source.keys == ["train/00000000", "train/00000001", "train/00000002"]
    assert source.is_unlabelled
    assert source.read([2])[0].data == png(2)  # type: ignore[union-attr]


def test_labels_that_were_found_are_named_as_not_used(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4, 4), np.uint8), y=np.array([0, 1, 1]))
    assert (
        reading_lines(unlabelled(tmp_path / "a.npz"))[1] == "labels: none, as --unlabelled says; not used: the array y"
    )
    np.savez(tmp_path / "b.npz", x=np.zeros((3, 4, 4), np.uint8))
    assert len(unlabelled(tmp_path / "b.npz").keys) == 3


def test_the_split_unlabeled_of_stl10_is_read_by_the_flag(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("unlabeled", 5)):
        (tmp_path / f"{split}_X.bin").write_bytes(rng.integers(0, 256, count * 3 * 96 * 96, np.uint8).tobytes())
    (tmp_path / "train_y.bin").write_bytes(bytes([1, 2, 3]))
    assert open_source(str(tmp_path)).split == "train"
    with pytest.raises(InputError, match="split unlabeled has no labels") as refused:
        open_source(str(tmp_path), split="unlabeled")
    assert "--unlabelled" in str(refused.value.hint)
    source = unlabelled(tmp_path, split="unlabeled")
    assert (source.kind, len(source.keys), source.keys[0]) == ("stl10", 5, "unlabeled/00000000")


def test_tars_of_images_alone_are_read_by_the_flag(tmp_path: Path) -> None:
    put(tmp_path / "photos", *KEYS)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for key in KEYS:
            tar.add(tmp_path / "photos" / key, key.replace("/", "-"))
    assert unlabelled(tmp_path / "photos.tar").keys == [key.replace("/", "-") for key in KEYS]


def test_several_tars_are_one_data_set_and_files_beside_the_images_are_left_out(tmp_path: Path) -> None:
    for shard in ("train-0", "train-1"):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for name, data in (("7.png", png(7)), ("7.json", b'{"caption": "a hat"}')):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    source = unlabelled(tmp_path)
    assert (source.split, source.keys) == ("train", ["train-0/7.png", "train-1/7.png"])
    assert dict(source.read_as.left_out.counts) == {"files ending in .json": 2}


@pytest.mark.parametrize("options", [{"label": "species"}, {"list_file": "train.csv"}])
def test_a_flag_that_names_labels_contradicts_it(options: Any) -> None:
    with pytest.raises(UsageError, match="contradict each other"):
        ReadOptions(unlabelled=True, **options)
