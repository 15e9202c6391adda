"""Images in archives, read in place."""

import io
import pickle
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manifests.errors import InputError
from manifests.images.decode import Encoded, ImageProblem
from manifests.sources import open_held_out, open_source


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (2, 2), value).save(stream, "PNG")
    return stream.getvalue()


FILES = {f"{name}/{row}.png": png(10 * label + row) for label, name in enumerate(("hat", "shoes")) for row in range(3)}


def tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def below(folder: str, files: dict[str, bytes] = FILES) -> dict[str, bytes]:
    return {f"{folder}{name}": data for name, data in files.items()}


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "zip"])
def test_class_folders_in_an_archive_are_read_as_on_disk(tmp_path: Path, ending: str) -> None:
    files = {**below("photos/train/"), **below("photos/test/"), "photos/README.md": b"text", "__MACOSX/._x.png": b"x"}
    path = tmp_path / f"photos.{ending}"
    if ending == "zip":
        zipped(path, files)
    else:
        tar(
            path,
            files,
            {"tar": "w", "gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}[ending.rsplit(".", maxsplit=1)[-1]],
        )
    source = open_source(str(path))
    assert (source.kind, source.name, source.split) == (ending[:3].replace("tgz", "tar"), "photos", "train")
    assert source.class_names == ("hat", "shoes")
    assert list(source.keys) == [f"photos/train/{key}" for key in sorted(FILES)]
    assert source.labels_N.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.read(range(6)) == [Encoded(FILES[key]) for key in sorted(FILES)]
    assert open_held_out(str(path)).split == "test"
    with ThreadPoolExecutor(4) as pool:
        for image in pool.map(lambda row: source.read([row])[0], [5] * 40):
            assert image == Encoded(FILES["shoes/2.png"])
    assert pickle.loads(pickle.dumps(source)).read([0]) == source.read([0])


def test_one_tar_per_class_is_read_alone_or_inside_another(tmp_path: Path) -> None:
    for name in ("hat", "shoes"):
        images = {key.split("/")[1]: data for key, data in FILES.items() if key.startswith(name)}
        tar(tmp_path / "classes" / f"{name}.tar", images)
    source = open_source(str(tmp_path / "classes"))
    assert list(source.keys) == sorted(FILES)
    assert source.read(range(6)) == [Encoded(FILES[key]) for key in sorted(FILES)]
    inside = {f"{name}.tar": (tmp_path / "classes" / f"{name}.tar").read_bytes() for name in ("hat", "shoes")}
    nested = open_source(str(tar(tmp_path / "all.tar", inside)))
    assert list(nested.keys) == list(source.keys)
    assert nested.read(range(6)) == source.read(range(6))


def samples(label: str, first: int = 0) -> dict[str, bytes]:
    files = {}
    for row, (key, data) in enumerate(sorted(FILES.items())):
        number, name = ("1" if key.startswith("shoes") else "0"), key.split("/")[0]
        text = {"cls": number, "json": f'{{"label": {number}}}', "txt": name}[label]
        files |= {f"{first + row:06d}.{label}": text.encode(), f"{first + row:06d}.png": data}
    return files


@pytest.mark.parametrize(("label", "names"), [("cls", ("0", "1")), ("json", ("0", "1")), ("txt", ("hat", "shoes"))])
def test_the_samples_of_webdataset_are_read_by_split(tmp_path: Path, label: str, names: tuple[str, ...]) -> None:
    tar(tmp_path / "wds" / "train-000000.tar", samples(label))
    tar(tmp_path / "wds" / "train-000001.tar", samples(label, 6))
    tar(tmp_path / "wds" / "val-000000.tar", samples(label, 12))
    source = open_source(str(tmp_path / "wds"))
    assert (source.kind, source.split, source.class_names) == ("webdataset", "train", names)
    assert source.keys[:2] == ["train-000000/000000.png", "train-000000/000001.png"]
    assert source.labels_N.tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert source.read(range(6)) == [Encoded(FILES[key]) for key in sorted(FILES)]
    assert len(open_held_out(str(tmp_path / "wds")).keys) == 6
    one = open_source(str(tmp_path / "wds" / "val-000000.tar"))
    assert (one.split, one.keys[0]) == ("val", "000012.png")


def test_shards_of_no_split_beside_a_split_are_told(tmp_path: Path) -> None:
    tar(tmp_path / "train-000000.tar", samples("cls"))
    tar(tmp_path / "unlabelled-000000.tar", samples("cls", 6))
    assert str(open_source(str(tmp_path)).read_as.left_out) == "files of no split: 1 (unlabelled-000000.tar)"


def test_a_sample_without_a_label_is_left_out(tmp_path: Path) -> None:
    source = open_source(str(tar(tmp_path / "a.tar", {**samples("cls"), "x.png": png(1), "y.cls": b"1"})))
    assert len(source.keys) == 6
    assert source.read_as.left_out.counts == {"samples without an image or a label": 2}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({**samples("cls"), "000000.cls": b"\xff"}, "holds no label"),
        ({**samples("json"), "000000.json": b'{"caption": "x"}'}, "holds no label"),
        ({"readme.md": b"x"}, "no class folders"),
        ({"a.png": png(1), "b.png": png(2)}, "no class folders"),
        (below("../"), "no class folders"),
        (below("/etc/"), "only one class|holds"),
    ],
)
def test_archives_without_labels_or_with_paths_that_lead_out_are_refused(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    path = tar(tmp_path / "a.tar", files)
    if message.startswith("only"):
        assert all(not key.startswith("/") for key in open_source(str(path)).keys)
        return
    with pytest.raises(InputError, match=message):
        open_source(str(path))


def test_a_file_without_a_name_in_a_zip_is_left_out(tmp_path: Path) -> None:
    named, unnamed = zipped(tmp_path / "named.zip", FILES), zipped(tmp_path / "unnamed.zip", FILES)
    with zipfile.ZipFile(unnamed, "a") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"nothing")
    assert list(open_source(str(unnamed)).keys) == list(open_source(str(named)).keys)


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "zip"])
def test_a_damaged_archive_is_refused_or_its_images_are_problems(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "zip":
        zipped(path, FILES)
    else:
        tar(path, FILES, "w:gz" if ending == "tar.gz" else "w")
    whole = path.read_bytes()
    for cut in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:cut])
        try:
            source = open_source(str(path))
        except InputError:
            continue
        assert all(isinstance(image, Encoded | ImageProblem) for image in source.read(range(len(source.keys))))


def test_several_archives_that_are_no_shards_are_refused(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", FILES)
    zipped(tmp_path / "b.zip", FILES)
    with pytest.raises(InputError, match="several archives") as caught:
        open_source(str(tmp_path))
    assert "a.zip" in str(caught.value.hint)


def test_cifar_is_read_from_the_archive_as_it_is_downloaded(tmp_path: Path) -> None:
    import pickle as pickles

    def batch(first: int) -> bytes:
        pixels = np.full((4, 3072), first, np.uint8)
        return pickles.dumps({b"data": pixels, b"labels": [0, 1, 2, first % 3]}, 2)

    files = {f"cifar-10-batches-py/data_batch_{row}": batch(row) for row in range(1, 6)}
    files |= {"cifar-10-batches-py/test_batch": batch(9)}
    files |= {"cifar-10-batches-py/batches.meta": pickles.dumps({b"label_names": [b"a", b"b", b"c"]}, 2)}
    for mode, ending in (("w:gz", "tar.gz"), ("w", "tar")):
        source = open_source(str(tar(tmp_path / f"cifar-10-python.{ending}", files, mode)))
        assert (source.kind, source.name, source.split) == ("cifar", "cifar-10-python", "train")
        assert source.class_names == ("a", "b", "c")
        assert source.labels_N.tolist() == [0, 1, 2, 1, 0, 1, 2, 2, 0, 1, 2, 0, 0, 1, 2, 1, 0, 1, 2, 2]
        assert len(open_held_out(str(tmp_path / f"cifar-10-python.{ending}")).keys) == 4
