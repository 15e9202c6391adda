"""A copy of the images against a manifest: each level finds what it can find, counted by hand."""

import csv
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from copies_support import jpeg, manifest_of, photos, picture, write_tree
from PIL import Image

from manifests.copies.check import DataCheck, check_data
from manifests.copies.data_report import DataReport
from manifests.errors import MismatchError, UsageError
from manifests.hidden.hide import hide
from manifests.manifest import Manifest
from manifests.sources import open_source
from manifests.tables.thumbnails_table import stored_thumbnails

CLASSES = ("cat", "dog", "eel")


def found(manifest: Manifest, folder: Path, level: str = "hashes", **options: object) -> DataReport:
    check = DataCheck(level=level, workers=2, **options)

    def thumbnails(ids: np.ndarray) -> np.ndarray:
        return stored_thumbnails(manifest, ids)

    return check_data(manifest, open_source(str(folder)), check, thumbnails=thumbnails)


def counts(report: DataReport) -> dict[str, int]:
    return report.told


@pytest.fixture
def files() -> dict[str, bytes]:
    return photos(CLASSES)


@pytest.fixture
def manifest(tmp_path: Path, files: dict[str, bytes]) -> Manifest:
    return manifest_of(tmp_path / "m", files, CLASSES, thumbnails=True)


@pytest.mark.parametrize("level", ["names", "sizes", "hashes", "pixels"])
def test_the_images_themselves_match_at_every_level(
    tmp_path: Path, files: dict[str, bytes], manifest: Manifest, level: str
) -> None:
    report = found(manifest, write_tree(tmp_path / "copy", files), level)
    assert counts(report) == {}
    assert (report.checked, report.match_rate, report.unmatched) == (12, 1.0, 0)
    assert report.row_N.tolist() == list(range(12))
    assert report.matched_by == {"path": 12, "name": 0, "content": 0}
    assert report.differences.num_rows == 0


def test_each_level_sees_more_than_the_one_before(tmp_path: Path, files: dict[str, bytes], manifest: Manifest) -> None:
    changed = dict(files)
    del changed["cat/01.jpg"]
    changed["eel/new.jpg"] = jpeg(picture(999))
    changed["dog/00.jpg"] = files["dog/00.jpg"] + b"x"
    # As many bytes and the same picture: a JPEG ends before this byte.
    changed["dog/01.jpg"] = files["dog/01.jpg"][:-1] + b"\xd8"
    copy = write_tree(tmp_path / "copy", changed)
    assert counts(found(manifest, copy, "names")) == {"missing": 1, "extra": 1}
    assert counts(found(manifest, copy, "sizes")) == {"missing": 1, "another size": 1, "extra": 1}
    report = found(manifest, copy, "hashes")
    assert counts(report) == {"missing": 1, "another size": 1, "other content": 1, "extra": 1}
    assert (report.unmatched, report.match_rate) == (3, 0.75)
    assert report.first("another size") == ["dog/00.jpg"]
    # Sorted keys: cat 0-3, dog 4-7, eel 8-11; the kinds count from "missing".
    assert report.what_N.tolist() == [-1, 0, -1, -1, 3, 4, -1, -1, -1, -1, -1, -1]


def test_pixels_forgive_another_encoding_and_nothing_else(
    tmp_path: Path, files: dict[str, bytes], manifest: Manifest
) -> None:
    again = {key: jpeg(picture(100 * CLASSES.index(key[:3]) + int(key[4:6]), 97, 71), quality=70) for key in files}
    copy = write_tree(tmp_path / "copy", again)
    assert counts(found(manifest, copy, "sizes")) == {"another size": 12}
    report = found(manifest, copy, "pixels")
    assert counts(report) == {}
    assert len(report.pixel_difference_n) == 12
    assert 0 < report.pixel_difference_n.mean() < 4
    (copy / "dog" / "02.jpg").write_bytes(jpeg(picture(555)))
    (copy / "eel" / "00.jpg").write_bytes(b"no image")
    (copy / "eel" / "01.jpg").write_bytes(files["eel/01.jpg"])
    report = found(manifest, copy, "pixels")
    assert counts(report) == {"unreadable": 1, "other pixels": 1}
    # Neither the one that cannot be decoded nor the one of the very bytes was compared.
    assert len(report.pixel_difference_n) == 10
    assert counts(found(manifest, copy, "pixels", pixel_tolerance=255.0)) == {"unreadable": 1}
    assert counts(found(manifest, copy, "pixels", pixel_tolerance=0.0))["other pixels"] == 10


def test_a_picture_that_was_squashed_is_of_another_shape(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Crops of it would not show what they showed: a box is scored by the sides of the image."""
    manifest = manifest_of(tmp_path / "m", files, CLASSES, thumbnails=True)
    # All of them are 40x30. By hand, times 3/5 and so on; 23 and 27 are within a pixel, 22 and 28 are not.
    sides = {
        "cat/00.jpg": (24, 24), "cat/01.jpg": (24, 18), "cat/02.jpg": (20, 15), "cat/03.jpg": (31, 23),
        "dog/00.jpg": (36, 26), "dog/01.jpg": (36, 25), "dog/02.jpg": (30, 40), "dog/03.jpg": (400, 309),
        "eel/00.jpg": (400, 311),
    }  # fmt: skip
    squashed = {key: jpeg(picture(100 * CLASSES.index(key[:3]) + int(key[4:6]), *sides[key]), 95) for key in sides}
    report = found(manifest, write_tree(tmp_path / "copy", files | squashed), "pixels", pixel_tolerance=30.0)
    other = report.differences.to_pylist()
    assert [(row["key"], row["theirs"]) for row in other] == [
        ("cat/00.jpg", "24x24"), ("dog/01.jpg", "36x25"), ("dog/02.jpg", "30x40"), ("eel/00.jpg", "400x311")
    ]  # fmt: skip
    assert {(row["what"], row["ours"]) for row in other} == {("another shape", "40x30")}
    assert counts(report) == {"another shape": 4}
    # Five of the right shape were compared by their pixels.
    assert len(report.pixel_difference_n) == 5


def test_a_copy_in_another_format_is_found_by_path(tmp_path: Path, files: dict[str, bytes], manifest: Manifest) -> None:
    def png(data: bytes) -> bytes:
        stream = io.BytesIO()
        Image.open(io.BytesIO(data)).save(stream, "png")
        return stream.getvalue()

    copy = write_tree(tmp_path / "copy", {key.replace(".jpg", ".png"): png(data) for key, data in files.items()})
    report = found(manifest, copy, "pixels")
    assert (counts(report), report.matched_by) == ({}, {"path": 12, "name": 0, "content": 0})
    assert counts(found(manifest, copy)) == {"another size": 12}


def test_files_that_were_numbered_anew_are_found_by_content(
    tmp_path: Path, files: dict[str, bytes], manifest: Manifest
) -> None:
    """cat/00 is gone and the others moved up; dog/03 was altered; eel/00 and eel/01 were exchanged."""
    anew = files | {f"cat/0{number}.jpg": files[f"cat/0{number + 1}.jpg"] for number in range(3)}
    del anew["cat/03.jpg"]
    anew |= {"dog/03.jpg": b"altered", "eel/00.jpg": files["eel/01.jpg"], "eel/01.jpg": files["eel/00.jpg"]}
    report = found(manifest, write_tree(tmp_path / "copy", anew))
    assert counts(report) == {"missing": 1, "another size": 1}
    assert report.first("missing") == ["cat/00.jpg"]
    assert report.row_N.tolist() == [-1, 0, 1, 2, 3, 4, 5, 6, 8, 7, 9, 10]
    assert report.matched_by == {"path": 6, "name": 0, "content": 5}
    by_path = found(manifest, tmp_path / "copy", stages=("path", "name"))
    assert by_path.matched_by == {"path": 11, "name": 0, "content": 0}
    # Of the samples asked for alone, one that lies where another one was is found as well.
    source, wanted_N = open_source(str(tmp_path / "copy")), np.arange(12) == 2
    some = check_data(manifest, source, DataCheck(), wanted_N=wanted_N)
    assert (some.row_N[2], some.unmatched) == (1, 0)


def test_pixels_without_thumbnails_say_how_to_get_them(tmp_path: Path, files: dict[str, bytes]) -> None:
    manifest = manifest_of(tmp_path / "m", files, CLASSES)
    source = open_source(str(write_tree(tmp_path / "copy", files)))
    with pytest.raises(UsageError) as caught:
        check_data(manifest, source, DataCheck(level="pixels"))
    assert "prune index --thumbnails" in (caught.value.hint or "")


def test_classes_count_by_name_and_files_by_place(tmp_path: Path, files: dict[str, bytes]) -> None:
    """The manifest's classes are in another order, and the copy has a split folder and another class name."""
    manifest = manifest_of(tmp_path / "m", files, ("eel", "cat", "dog"))
    copy = write_tree(tmp_path / "copy", {f"train/{key.replace('dog', 'hound')}": data for key, data in files.items()})
    with pytest.raises(MismatchError, match="only in the manifest dog; only in the data hound"):
        found(manifest, copy)
    (tmp_path / "map.csv").write_text("dog,hound\n")
    report = found(manifest, copy, class_map=tmp_path / "map.csv")
    assert counts(report) == {}
    assert report.matched_by == {"path": 8, "name": 4, "content": 0}


def test_an_image_that_moved_to_another_class_is_found_by_its_content(
    tmp_path: Path, files: dict[str, bytes], manifest: Manifest
) -> None:
    moved = {("eel/moved.jpg" if key == "cat/00.jpg" else key): data for key, data in files.items()}
    report = found(manifest, write_tree(tmp_path / "copy", moved))
    assert counts(report) == {"another class": 1}
    row = report.differences.to_pylist()[0]
    expected = {"key": "cat/00.jpg", "what": "another class", "ours": "cat", "theirs": "eel"}
    assert row == expected | {"their_key": "eel/moved.jpg"}
    copy = tmp_path / "copy"
    assert counts(found(manifest, copy, stages=("path", "name"))) == {"missing": 1, "extra": 1}


def test_unreadable_samples_are_neither_missing_nor_extra(tmp_path: Path, files: dict[str, bytes]) -> None:
    manifest = manifest_of(tmp_path / "m", files, CLASSES, problems=["cat/00.jpg", "cat/01.jpg"])
    kept = {key: data for key, data in files.items() if key != "cat/00.jpg"} | {"cat/01.jpg": b"broken here too"}
    report = found(manifest, write_tree(tmp_path / "copy", kept))
    assert counts(report) == {}
    assert report.checked == 10


def test_some_samples_alone_can_be_asked_for(tmp_path: Path, files: dict[str, bytes], manifest: Manifest) -> None:
    copy = write_tree(tmp_path / "copy", {key: data for key, data in files.items() if key > "cat/01.jpg"})
    wanted_N = np.arange(12) % 2 == 0
    report = check_data(manifest, open_source(str(copy)), DataCheck(level="sizes"), wanted_N=wanted_N)
    assert (report.checked, counts(report)) == (6, {"missing": 1})
    assert report.matched_by["path"] == 5


def test_files_that_cannot_be_opened_are_told_apart(
    tmp_path: Path, files: dict[str, bytes], manifest: Manifest
) -> None:
    copy = write_tree(tmp_path / "copy", files)
    (copy / "dog" / "00.jpg").unlink()
    (copy / "dog" / "00.jpg").symlink_to(tmp_path / "nowhere")
    for level in ("sizes", "hashes", "pixels"):
        assert counts(found(manifest, copy, level)) == {"unreadable": 1}
    assert counts(found(manifest, copy, "names")) == {}


def test_rows_of_tables_match_files_by_content(tmp_path: Path, files: dict[str, bytes], manifest: Manifest) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = sorted(files, reverse=True)
    images = [{"bytes": files[key], "path": key} for key in keys]
    labels = pa.array([CLASSES.index(key[:3]) for key in keys], pa.int64())
    folder = tmp_path / "table"
    folder.mkdir()
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "train.parquet")
    (folder / "names.json").write_text(json.dumps(CLASSES))
    report = check_data(manifest, open_source(str(folder / "train.parquet")), DataCheck())
    assert (report.matched_by, counts(report)) == ({"path": 0, "name": 0, "content": 12}, {})
    sizes = check_data(manifest, open_source(str(folder / "train.parquet")), DataCheck(level="sizes"))
    assert counts(sizes) == {}


def test_the_list_holds_everything_and_any_name(tmp_path: Path, files: dict[str, bytes]) -> None:
    odd = 'cat/a "b", c.jpg'
    files[odd] = jpeg(picture(1234))
    manifest = manifest_of(tmp_path / "m", files, CLASSES)
    copy = write_tree(tmp_path / "copy", {key: data for key, data in files.items() if key != odd})
    (copy / "eel" / "03.jpg").write_bytes(b"other")
    (copy / "eel" / "neu.jpg").write_bytes(b"more")
    report = found(manifest, copy, stages=("path",))
    report.write_list(tmp_path / "list.csv")
    with (tmp_path / "list.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    size = str(len(files["eel/03.jpg"]))
    assert rows == [
        ["key", "what", "ours", "theirs", "their_key"],
        [odd, "missing", "", "", ""],
        ["eel/03.jpg", "another size", size, "5", "eel/03.jpg"],
        ["eel/neu.jpg", "extra", "", "", "eel/neu.jpg"],
    ]


def test_other_content_is_listed_with_both_hashes(tmp_path: Path, files: dict[str, bytes], manifest: Manifest) -> None:
    data = files["cat/02.jpg"][:-1] + b"\x00"
    report = found(manifest, write_tree(tmp_path / "copy", files | {"cat/02.jpg": data}))
    [row] = report.differences.to_pylist()
    assert row["ours"] == hashlib.sha256(files["cat/02.jpg"]).hexdigest()[:32]
    assert row["theirs"] == hashlib.sha256(data).hexdigest()[:32]


def test_json_says_what_people_are_told(tmp_path: Path, files: dict[str, bytes], manifest: Manifest) -> None:
    copy = write_tree(tmp_path / "copy", {key: data for key, data in files.items() if "dog" not in key or "3" in key})
    said = json.loads(json.dumps(found(manifest, copy).as_json()))
    assert said["missing"] == 3
    assert said["match_rate"] == 0.75
    assert said["first"] == {"missing": ["dog/00.jpg", "dog/01.jpg", "dog/02.jpg"]}
    assert (said["manifest"], said["data"], said["check"], said["samples"]) == (manifest.id, "copy", "hashes", 12)


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_a_hidden_manifest_is_checked_with_its_secret(tmp_path: Path, files: dict[str, bytes], prefix: str) -> None:
    open_one = manifest_of(tmp_path / "m", files, CLASSES, prefix=prefix)
    secret = b"0123456789abcdef"
    hidden = hide(open_one, secret, tmp_path / "hidden")
    copy = write_tree(tmp_path / "copy", files | {"eel/00.jpg": files["eel/00.jpg"][:-1] + b"\x00"})
    (copy / "cat" / "00.jpg").rename(copy / "cat" / "renamed.jpg")
    report = found(hidden, copy, secret=secret)
    assert report.matched_by == {"path": 11, "name": 0, "content": 1}
    assert counts(report) == {"other content": 1}
    assert report.differences.column("their_key").to_pylist() == ["eel/00.jpg"]
    # It has no sizes to compare, and says what is compared in their place.
    by_size = found(hidden, copy, "sizes", secret=secret)
    assert (by_size.level, counts(by_size)) == ("hashes", {"other content": 1})
    with pytest.raises(UsageError, match="is hidden"):
        found(hidden, copy)
    with pytest.raises(MismatchError, match="not the secret"):
        found(hidden, copy, secret=b"another secret of 16")


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(UsageError, match="'bytes'"):
        DataCheck(level="bytes")
    for tolerance in (-1.0, 256.0, float("nan")):
        with pytest.raises(UsageError, match="grey levels"):
            DataCheck(pixel_tolerance=tolerance)
    assert "secret" not in repr(DataCheck(secret=b"0123456789abcdef"))


def test_grey_and_tiny_images_have_thumbnails_as_well(tmp_path: Path) -> None:
    files = {}
    for name, size, mode in (("cat/g.png", (3, 5), "L"), ("dog/p.png", (50, 2), "P"), ("eel/r.png", (9, 9), "RGBA")):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        Image.new(mode, size, 9).save(path)
        files[name] = path.read_bytes()
    source = open_source(str(tmp_path / "data"))
    manifest = manifest_of(tmp_path / "m", files, CLASSES)
    check = DataCheck(level="pixels", stages=("path",))
    same = check_data(manifest, source, check, thumbnails=lambda ids: np.zeros((len(ids), 192), np.uint8))
    assert counts(same) == {}
