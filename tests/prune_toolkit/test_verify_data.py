"""`prune verify --data`: what is said of another copy of the images, and with which exit code."""

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from copies_support import jpeg, manifest_of, photos, picture, write_tree
from tests_support import write_idx

from manifests.manifest import Manifest, commit

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve photographs in three classes."""
    return write_tree(tmp_path / "photos", photos())


@pytest.fixture
def index(data: Path, tmp_path: Path, prune: Run) -> Path:
    prune("index", data, "-o", tmp_path / "index")
    return tmp_path / "index"


def changed_copy(folder: Path) -> Path:
    """One image missing, one larger, one new."""
    files = photos()
    del files["cat/00.jpg"]
    return write_tree(folder, files | {"dog/01.jpg": files["dog/01.jpg"] + b"x", "eel/new.jpg": b"new"})


def test_a_whole_copy_is_told_so(index: Path, data: Path, prune: Run) -> None:
    said = prune("verify", index, "--data", data).stdout
    assert f"{data} against {index}, by hashes: 12 of 12 samples match (100.00 %)" in said
    assert "found: 12 by path" in said


def test_what_does_not_match_is_counted_and_named(index: Path, tmp_path: Path, prune: Run) -> None:
    copy = changed_copy(tmp_path / "copy")
    result = prune("verify", index, "--data", copy, code=4)
    assert "10 of 12 samples match (83.33 %)" in result.stdout
    table = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    assert ["missing", "1", "cat/00.jpg"] in table
    assert ["extra", "1", "eel/new.jpg"] in table
    assert "another size" in result.stdout
    assert f"{copy} does not match {index}: 2 of 12 samples" in result.stderr
    assert "--list FILE" in result.stderr
    assert "--allow-mismatch 16.67%" in result.stderr


def test_a_mismatch_can_be_allowed_up_to_a_share(index: Path, tmp_path: Path, prune: Run) -> None:
    copy = changed_copy(tmp_path / "copy")
    base = ("verify", index, "--data", copy)
    prune(*base, "--allow-mismatch", "1/6")
    prune(*base, "--allow-mismatch", "16.67%")
    prune(*base, "--allow-mismatch", "0.166", code=4)
    prune(*base, "--check", "names", "--allow-mismatch", "1/12")
    prune(*base, "--check", "names", "--allow-mismatch", "8%", code=4)
    for share in ("-0.1", "1.1", "few"):
        assert "from 0 to 1" in prune(*base, f"--allow-mismatch={share}", code=2).stderr


def test_no_share_is_offered_where_most_does_not_match(index: Path, tmp_path: Path, prune: Run) -> None:
    copy = write_tree(
        tmp_path / "copy", {key: b"other" if "1" in key or "2" in key else d for key, d in photos().items()}
    )
    base = ("verify", index, "--data", copy, "--check", "sizes")
    assert "--allow-mismatch 50%" in prune(*base, code=4).stderr
    (copy / "cat" / "00.jpg").unlink()
    refused = prune(*base, "--list", tmp_path / "list.csv", code=4).stderr
    assert "--allow-mismatch" not in refused
    nothing = write_tree(tmp_path / "nothing", {f"{key[:4]}new-{key[4:]}": b"new" for key in photos()})
    refused = prune("verify", index, "--data", nothing, "--list", tmp_path / "list.csv", code=4).stderr
    assert "check that this is the data set and the split that was scored" in refused


def test_a_list_is_a_file(index: Path, data: Path, tmp_path: Path, prune: Run) -> None:
    (tmp_path / "lists").mkdir()
    refused = prune("verify", index, "--data", data, "--list", tmp_path / "lists", code=2).stderr
    assert f"--list {tmp_path / 'lists'} is a folder" in refused
    (tmp_path / "mine.csv").write_text("mine\n")
    refused = prune("verify", index, "--data", data, "--list", tmp_path / "mine.csv", code=2).stderr
    assert "mine.csv already exists, and is not an earlier list" in refused
    assert (tmp_path / "mine.csv").read_text() == "mine\n"


def test_images_beyond_the_samples_are_no_mismatch(index: Path, tmp_path: Path, prune: Run) -> None:
    copy = write_tree(tmp_path / "copy", photos() | {"cat/new.jpg": b"new"})
    assert "extra" in prune("verify", index, "--data", copy).stdout


def test_everything_is_listed_and_as_json(index: Path, tmp_path: Path, prune: Run) -> None:
    copy = changed_copy(tmp_path / "copy")
    result = prune("verify", index, "--data", copy, "--list", tmp_path / "list.csv", "--json", code=4)
    said = json.loads(result.stdout)
    assert (said["ok"], said["missing"], said["extra"]) == (False, 1, 1)
    assert said["differing"] == {"another size": 1}
    with (tmp_path / "list.csv").open(newline="") as stream:
        rows = [(row["what"], row["key"]) for row in csv.DictReader(stream)]
    assert rows == [("missing", "cat/00.jpg"), ("another size", "dog/01.jpg"), ("extra", "eel/new.jpg")]
    assert "--list FILE" not in result.stderr


def test_how_images_are_found_can_be_said(index: Path, tmp_path: Path, prune: Run) -> None:
    """Every file has another name, and lies deeper."""
    files = {f"{key[:4]}sub/n{key[4:]}": data for key, data in photos().items()}
    copy = write_tree(tmp_path / "copy", files)
    assert "found: 12 by content" in prune("verify", index, "--data", copy).stdout
    for only in (("--match", "path,name"), ("--match", "name", "--match", "path")):
        assert "found: none" in prune("verify", index, "--data", copy, *only, code=4).stdout
    assert "known: path, name, content" in prune("verify", index, "--data", copy, "--match", "luck", code=2).stderr


def test_names_that_are_not_unique_are_told(index: Path, tmp_path: Path, prune: Run) -> None:
    files = {f"{key[:4]}{sub}/{key[4:]}": b"x" for key in photos() for sub in "ab"}
    copy = write_tree(tmp_path / "copy", files)
    said = prune("verify", index, "--data", copy, "--split", "none", code=4).stdout
    assert "of the missing, 12 have a file name that is not unique within their class" in said


def test_other_classes_need_a_map(index: Path, tmp_path: Path, prune: Run) -> None:
    copy = write_tree(tmp_path / "copy", {key.replace("eel", "snake"): data for key, data in photos().items()})
    refused = prune("verify", index, "--data", copy, code=4).stderr
    assert "only in the manifest eel; only in the data snake" in refused
    assert "--class-map" in refused
    (tmp_path / "map.csv").write_text("eel,snake\n")
    assert "8 by path, 4 by name" in prune("verify", index, "--data", copy, "--class-map", tmp_path / "map.csv").stdout
    (tmp_path / "map.csv").write_text("eel,snake\ndog,snake\n")
    assert (
        "one name, two classes"
        in prune("verify", index, "--data", copy, "--class-map", tmp_path / "map.csv", code=3).stderr
    )


def test_pixels_are_compared_with_the_images_at_hand_or_with_thumbnails(
    index: Path, data: Path, tmp_path: Path, prune: Run
) -> None:
    again = {
        key: jpeg(picture(100 * ("cat", "dog", "eel").index(key[:3]) + int(key[4:6]), 71, 53), 60) for key in photos()
    }
    copy = write_tree(tmp_path / "copy", again)
    prune("verify", index, "--data", copy, code=4)
    assert "re-encoded: 12" in prune("verify", index, "--data", copy, "--pixels").stdout
    prune("index", data, "--beton", "-o", tmp_path / "b")
    prune("index", data, "--thumbnails", "-o", tmp_path / "t")
    (data / "cat" / "00.jpg").write_bytes(jpeg(picture(77)))
    refused = prune("verify", index, "--data", copy, "--pixels", code=3).stderr
    assert "cat/00.jpg was altered since it was indexed" in refused
    # A beton and thumbnails still know what it was.
    for other in ("b", "t"):
        assert "re-encoded: 12" in prune("verify", tmp_path / other, "--data", copy, "--pixels").stdout
    for folder in (index, tmp_path / "t"):
        (folder / "local.json").unlink()
    assert "has no thumbnails" in prune("verify", index, "--data", copy, "--pixels", code=2).stderr
    said = prune("verify", tmp_path / "t", "--data", copy, "--check", "pixels", "--json").stdout
    assert 0 < json.loads(said)["pixel_difference"]["mean"] < 4


def test_thumbnails_go_with_everything_made_of_an_index(data: Path, tmp_path: Path, prune: Run) -> None:
    teacher = ("--teacher", "teachers:linear", "--image-size", 8)
    prune("index", data, "--thumbnails", "-o", tmp_path / "index")
    prune("score", tmp_path / "index", *teacher, "-o", tmp_path / "m")
    prune("score", data, *teacher, "--index", tmp_path / "none", "--thumbnails", "-o", tmp_path / "m1")
    prune("select", tmp_path / "m", "--keep", "0.5", "--labels", "raw", "-o", tmp_path / "s")
    prune("label", tmp_path / "s", *teacher, "-o", tmp_path / "l")
    name = "thumbnails/part-00000.parquet"
    stored = [(tmp_path / folder / name) for folder in ("index", "m", "s", "l")]
    assert len({path.read_bytes() for path in stored}) == 1
    for folder in ("index", "m", "m1", "s", "l"):
        header = Manifest.open(tmp_path / folder).header
        assert (header.schema_version, header.thumbnails.side_px) == ("1.4", 8)
        assert header.file(name).rows == 12
        prune("verify", tmp_path / folder)
    one, other = (next(Manifest.open(tmp_path / m).samples(["content_hash"]).itercolumns()) for m in ("m", "m1"))
    assert one.equals(other)
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / "m1" / name).equals(pq.read_table(stored[0]))


def test_thumbnails_cannot_be_made_without_decoding(data: Path, index: Path, tmp_path: Path, prune: Run) -> None:
    refused = prune("index", data, "--thumbnails", "--check", "header", "-o", tmp_path / "t", code=2).stderr
    assert "--thumbnails needs decoded images" in refused
    score = ("score", index, "--teacher", "teachers:linear", "--image-size", 8, "--thumbnails", "-o", tmp_path / "m")
    assert "prune index --thumbnails" in prune(*score, code=2).stderr


def test_the_split_of_the_manifest_is_meant(tmp_path: Path, prune: Run) -> None:
    data = write_tree(
        tmp_path / "photos", {f"{split}/{key}": d for split in ("train", "val") for key, d in photos().items()}
    )
    prune("index", data, "--split", "val", "-o", tmp_path / "index")
    (data / "train" / "cat" / "00.jpg").unlink()
    assert "12 of 12" in prune("verify", tmp_path / "index", "--data", data).stdout
    assert "11 of 12" in prune("verify", tmp_path / "index", "--data", data, "--split", "train", code=4).stdout
    whole = write_tree(tmp_path / "unsplit", photos())
    assert "12 of 12" in prune("verify", tmp_path / "index", "--data", whole).stdout


def test_rows_in_another_order_are_known_by_their_content(tmp_path: Path, prune: Run) -> None:
    """Row 7 of another order is another image, not an altered one."""
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (40, 5, 5), np.uint8), np.arange(40) % 3
    write_idx(tmp_path / "rows", images, labels)
    prune("index", tmp_path / "rows", "-o", tmp_path / "index")
    order = generator.permutation(40)
    write_idx(tmp_path / "shuffled", images[order], labels[order])
    assert "found: 40 by content" in prune("verify", tmp_path / "index", "--data", tmp_path / "shuffled").stdout
    images[order[3]] ^= 1
    write_idx(tmp_path / "altered", images[order], labels[order])
    said = prune("verify", tmp_path / "index", "--data", tmp_path / "altered", "--json", code=4).stdout
    facts = json.loads(said)
    assert facts["matched_by"]["content"] == 39
    assert facts["match_rate"] == 39 / 40


def test_flags_about_images_need_images(index: Path, prune: Run) -> None:
    for flags in (("--check", "sizes"), ("--pixels",), ("--match", "path"), ("--list", "x.csv"), ("--split", "train")):
        assert "needs --data" in prune("verify", index, *flags, code=2).stderr
    assert "leave out one" in prune("verify", index, "--data", "x", "--pixels", "--check", "names", code=2).stderr


def test_data_that_is_not_there_is_an_input_error(index: Path, tmp_path: Path, prune: Run) -> None:
    assert "no data at" in prune("verify", index, "--data", tmp_path / "none", code=3).stderr


def test_the_data_of_prune_toml_is_not_compared_unasked(index: Path, data: Path, tmp_path: Path, prune: Run) -> None:
    (tmp_path / "prune.toml").write_text('data = "nowhere"\n')
    assert "is intact" in prune("verify", index, cwd=tmp_path).stdout
    (tmp_path / "prune.toml").write_text(f'[verify]\ndata = "{data}"\n')
    assert "12 of 12" in prune("verify", index, cwd=tmp_path).stdout


SEED = {"cat": 0, "dog": 100, "eel": 200}


def half_the_size() -> dict[str, bytes]:
    return {key: jpeg(picture(SEED[key[:3]] + int(key[4:6]), 20, 15), 85) for key in photos()}


def test_flags_of_prune_toml_are_about_images_when_there_are_some(
    index: Path, data: Path, tmp_path: Path, prune: Run
) -> None:
    config = tmp_path / "prune.toml"
    copy = changed_copy(tmp_path / "copy")
    for line in ('check = "sizes"', "pixels = true", 'list = "list.csv"', 'match = "path,name"', 'split = "train"'):
        config.write_text(f"[verify]\n{line}\n")
        assert "is intact" in prune("verify", index, cwd=tmp_path).stdout
    assert not (tmp_path / "list.csv").exists()
    base = ("verify", index, "--data", copy, "--json")
    for line, flags, level in (
        ('check = "names"', (), "names"),
        ('check = "names"', ("--pixels",), "pixels"),
        ('check = "names"', ("--check", "sizes"), "sizes"),
        ("pixels = true", (), "pixels"),
        ("pixels = true", ("--check", "sizes"), "sizes"),
    ):
        config.write_text(f"[verify]\n{line}\n")
        assert json.loads(prune(*base, *flags, cwd=tmp_path, code=4).stdout)["check"] == level
    config.write_text('[verify]\ncheck = "sizes"\npixels = true\n')
    assert "leave out one" in prune(*base, cwd=tmp_path, code=2).stderr
    moved = write_tree(tmp_path / "moved", {f"{key[:4]}sub/n{key[4:]}": d for key, d in photos().items()})
    for line in ('match = "path,name"', 'match = ["path", "name"]'):
        config.write_text(f"[verify]\n{line}\n")
        assert "found: none" in prune("verify", index, "--data", moved, cwd=tmp_path, code=4).stdout
        assert (
            "found: 12 by content" in prune("verify", index, "--data", moved, "--match", "content", cwd=tmp_path).stdout
        )


def test_pixels_are_offered_where_they_can_be_compared(index: Path, tmp_path: Path, prune: Run) -> None:
    half = write_tree(tmp_path / "half", half_the_size())
    assert "if they were re-encoded: --pixels" in prune("verify", index, "--data", half, code=4).stderr
    (index / "local.json").unlink()
    assert "--pixels" not in prune("verify", index, "--data", half, code=4).stderr


def test_a_manifest_without_a_readable_sample_has_nothing_to_compare(tmp_path: Path, prune: Run) -> None:
    files = photos()
    manifest_of(tmp_path / "m", files, ("cat", "dog", "eel"), problems=list(files))
    data = write_tree(tmp_path / "photos", files)
    assert "has no readable sample to compare" in prune("verify", tmp_path / "m", "--data", data, code=3).stderr
    header = Manifest.open(tmp_path / "m").header
    (tmp_path / "m" / "manifest.json").unlink()
    commit(tmp_path / "m", header.model_copy(update={"kind": "scores"}))
    refused = prune("select", tmp_path / "m", "--keep", "0.5", "--selector", "random", "--no-beton", code=3).stderr
    assert "has no readable samples to select from" in refused


def test_an_accent_may_be_stored_in_two_ways(tmp_path: Path, prune: Run) -> None:
    """As one character, or as a letter and an accent, as some file systems have it."""
    files = {key.replace("cat", "caf\u00e9"): d for key, d in photos().items()}
    prune("index", write_tree(tmp_path / "photos", files), "-o", tmp_path / "index")
    apart = {key.replace("\u00e9", "e\u0301"): d for key, d in files.items()}
    copy = write_tree(tmp_path / "copy", apart)
    assert "12 of 12 samples match" in prune("verify", tmp_path / "index", "--data", copy).stdout
