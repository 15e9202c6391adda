"""The same 300 images in the layouts that people have: each is read as the same classes of the same contents."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from manifests.images.decode import ImageProblem
from manifests.images.identity import content_hash
from manifests.sources import ReadOptions, Source, read_source

NAMES = ("boot", "dress", "hat")
Images = dict[str, list[bytes]]


@pytest.fixture(scope="module")
def images() -> Images:
    """100 PNGs of each class."""
    rng, found = np.random.default_rng(0), {}
    for name in NAMES:
        found[name] = []
        for _ in range(100):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).save(stream, "PNG")
            found[name].append(stream.getvalue())
    return found


def put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def folders(root: Path, images: Images, called: Callable[[str], str] = str) -> None:
    for name, files in images.items():
        for row, data in enumerate(files):
            put(root / called(name) / f"{row}.png", data)


def flat(root: Path, images: Images, *, ending: str = ".png") -> list[tuple[str, str]]:
    """Write all images side by side; return file name and class of each."""
    rows = [(f"{name[0]}{row}", name, data) for name, files in images.items() for row, data in enumerate(files)]
    for file, _, data in rows:
        put(root / f"{file}.png", data)
    return [(file + ending, name) for file, name, _ in rows]


def split_folders(root: Path, images: Images) -> None:
    folders(root / "seg_train" / "seg_train", images)
    folders(root / "seg_test" / "seg_test", {name: files[:1] for name, files in images.items()})


def junk_beside(root: Path, images: Images) -> None:
    folders(root / "101_Objects", images)
    folders(root / "__MACOSX", images)
    (root / "101_Objects" / "empty").mkdir()


def kaggle(root: Path, images: Images) -> None:
    lines = "".join(f"{file},{name}\n" for file, name in flat(root / "images", images, ending=""))
    put(root / "train.csv", "id,species\n" + lines)


def metadata(root: Path, images: Images) -> None:
    lines = [json.dumps({"file_name": file, "label": name}) for file, name in flat(root / "train", images)]
    put(root / "train" / "metadata.jsonl", "\n".join(lines))


def annotations(root: Path, images: Images) -> None:
    put(
        root / "train" / "annotations.txt",
        "".join(f"{a}\t{b}\t0\n" for a, b in flat(root / "train" / "images", images)),
    )


def official_lists(root: Path, images: Images) -> None:
    folders(root / "images", {**images, "hat": [*images["hat"], images["boot"][0]]})
    keys = [f"{name}/{row}" for name in NAMES for row in range(100)]
    put(root / "meta" / "train.txt", "\n".join(keys))
    put(root / "meta" / "test.txt", "hat/100\n")


def numbers(root: Path, images: Images) -> None:
    folders(root / "d", images, lambda name: str(NAMES.index(name) + 9))
    put(root / "names.json", json.dumps({str(label + 9): name for label, name in enumerate(NAMES)}))


def archive(root: Path, images: Images, mode: str, name: str) -> None:
    folders(root / "photos" / "train", images)
    with tarfile.open(root / name, mode) as tar:
        tar.add(root / "photos", "photos")


def zipped(root: Path, images: Images) -> None:
    folders(root / "photos", images)
    with zipfile.ZipFile(root / "photos.zip", "w") as archive_:
        for path in sorted((root / "photos").rglob("*.png")):
            archive_.write(path, path.relative_to(root))


def tar_per_class(root: Path, images: Images) -> None:
    folders(root / "photos", images)
    (root / "tars").mkdir()
    for name in NAMES:
        with tarfile.open(root / "tars" / f"{name}.tar", "w") as tar:
            tar.add(root / "photos" / name, name)


def webdataset(root: Path, images: Images) -> None:
    (root / "wds").mkdir(parents=True)
    for shard in range(2):
        with tarfile.open(root / "wds" / f"train-{shard:06d}.tar", "w") as tar:
            for name, files in images.items():
                for row in range(shard, 100, 2):
                    for ending, data in (("png", files[row]), ("txt", name.encode())):
                        info = tarfile.TarInfo(f"{name}{row}.{ending}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))


def table(images: Images, *, text: bool) -> pa.Table:
    rows = [(data, name) for name, files in images.items() for data in files]
    labels = [name if text else NAMES.index(name) for _, name in rows]
    content = pa.table(
        {"image": [{"bytes": data, "path": None} for data, _ in rows], "label": labels, "id": range(300)}
    )
    features = {"label": {"_type": "ClassLabel", "names": list(NAMES)}}
    metadata_ = {} if text else {"huggingface": json.dumps({"info": {"features": features}})}
    return content.replace_schema_metadata(metadata_)


def hub(root: Path, images: Images) -> None:
    (root / "plain_text").mkdir(parents=True)
    for shard in range(2):
        part = table(images, text=False).slice(150 * shard, 150)
        pq.write_table(part, root / "plain_text" / f"train-{shard:05d}-of-00002.parquet")


def notebook(root: Path, images: Images) -> None:
    root.mkdir()
    pq.write_table(table(images, text=True), root / "photos-train.parquet")


def saved(root: Path, images: Images) -> None:
    root.mkdir()
    content = table(images, text=False)
    with (
        pa.OSFile(str(root / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, content.schema) as out,
    ):
        out.write_table(content)
    put(root / "state.json", '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}')
    put(root / "dataset_info.json", "{}")


LAYOUTS: dict[str, tuple[Callable[[Path, Images], None], str, ReadOptions]] = {
    "class folders": (folders, "", ReadOptions()),
    "split folders": (split_folders, "", ReadOptions()),
    "folder around, junk beside": (junk_beside, "", ReadOptions()),
    "images and train.csv": (kaggle, "", ReadOptions()),
    "metadata.jsonl": (metadata, "", ReadOptions()),
    "annotations.txt": (annotations, "", ReadOptions()),
    "official lists": (official_lists, "", ReadOptions()),
    "numbers and names": (numbers, "d", ReadOptions(classes=Path("names.json"))),
    "tar": (lambda root, images: archive(root, images, "w", "a.tar"), "a.tar", ReadOptions()),
    "tar.gz": (lambda root, images: archive(root, images, "w:gz", "a.tar.gz"), "a.tar.gz", ReadOptions()),
    "zip": (zipped, "photos.zip", ReadOptions()),
    "one tar per class": (tar_per_class, "tars", ReadOptions()),
    "WebDataset": (webdataset, "wds", ReadOptions()),
    "Parquet of a hub": (hub, "", ReadOptions()),
    "Parquet of a notebook": (notebook, "", ReadOptions()),
    "Arrow of save_to_disk": (saved, "", ReadOptions()),
}


def contents(source: Source) -> list[tuple[str, bytes]]:
    """Class name and content hash of every image, sorted: what two copies of a data set share."""
    found = []
    for label, image in zip(source.labels_N, source.read(range(len(source.keys))), strict=True):
        assert not isinstance(image, ImageProblem)
        found.append((source.class_names[label], content_hash(image)))
    return sorted(found)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_read_as_the_same_classes_of_the_same_contents(
    layout: str, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, below, options = LAYOUTS[layout]
    write(tmp_path / "data", images)
    monkeypatch.chdir(tmp_path / "data")
    source = read_source(str(tmp_path / "data" / below), options)
    assert source.class_names == NAMES
    folders(tmp_path / "plain", images)
    assert contents(source) == contents(read_source(str(tmp_path / "plain"), ReadOptions()))
    assert list(source.keys) == sorted(source.keys, key=str.encode)
