"""`prune select --data`: the choice is the manifest's, and of another copy only what matches is cut."""

import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from copies_support import jpeg, photos, picture, write_tree
from PIL import Image

from manifests.betons.reader import Beton
from manifests.hidden.hide import hide
from manifests.integrity import verify
from manifests.manifest import Manifest

Run = Callable[..., subprocess.CompletedProcess[str]]
TEACHER = ("--teacher", "teachers:linear", "--image-size", 8)
CLASSES = ("cat", "dog", "eel")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty photographs in three classes."""
    return write_tree(tmp_path_factory.mktemp("data") / "photos", photos(count=20))


@pytest.fixture(scope="module")
def scored(data: Path, tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    out = tmp_path_factory.mktemp("scored") / "manifest"
    prune("score", data, *TEACHER, "--thumbnails", "-o", out)
    return out


@pytest.fixture(scope="module")
def sent(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest as another team has it: without local.json."""
    out = tmp_path_factory.mktemp("sent") / "manifest"
    shutil.copytree(scored, out)
    (out / "local.json").unlink()
    return out


@pytest.fixture(scope="module")
def all_of_it(scored: Path, tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Manifest:
    """Half of the images, as the first team selects it."""
    out = tmp_path_factory.mktemp("first") / "selection"
    prune("select", scored, "--keep", "0.5", "-o", out)
    return Manifest.open(out)


def reasons(manifest: Manifest) -> dict[str, str]:
    return dict(
        zip(
            manifest.samples().column("key").to_pylist(), manifest.selection().column("reason").to_pylist(), strict=True
        )
    )


def kept_keys(manifest: Manifest) -> list[str]:
    return [key for key, reason in reasons(manifest).items() if reason == "kept"]


def test_the_images_scored_give_what_they_gave_wherever_they_lie(
    sent: Path, data: Path, all_of_it: Manifest, tmp_path: Path, prune: Run
) -> None:
    """The same id: nothing about the copy is in the header."""
    copy = write_tree(tmp_path / "copy", photos(count=20))
    for level in ("names", "sizes", "hashes", "pixels"):
        for number, place in enumerate((data, copy)):
            out = tmp_path / f"{level}{number}"
            result = prune("select", sent, "--keep", "0.5", "--data", place, "--check", level, "-o", out)
            assert "left out" not in result.stderr
            assert Manifest.open(out).id == all_of_it.id


def test_what_does_not_match_is_not_cut_and_says_why(
    sent: Path, all_of_it: Manifest, tmp_path: Path, prune: Run
) -> None:
    kept = kept_keys(all_of_it)
    files = photos(count=20)
    missing, larger = kept[3], kept[17]
    del files[missing]
    files[larger] += b"x"
    # Not chosen, so nobody looks at it.
    unchosen = next(key for key in files if key not in kept)
    files[unchosen] += b"x"
    copy = write_tree(tmp_path / "copy", files)
    result = prune("select", sent, "--keep", "0.5", "--data", copy, "--json", "-o", tmp_path / "s")
    assert "2 of 30 chosen samples do not match copy and are left out: 1 missing, 1 another size" in result.stderr
    selection = Manifest.open(tmp_path / "s")
    assert reasons(selection) == reasons(all_of_it) | {missing: "missing", larger: "another size"}
    assert kept_keys(selection) == [key for key in kept if key not in (missing, larger)]
    header = selection.header
    assert (header.selection.count, header.selection.keep_asked) == (28, "0.5")
    assert header.selection.keep_got == 28 / 60
    assert header.config["copy"]["check"] == "sizes"
    assert header.config["copy"]["left_out"] == {"missing": 1, "another size": 1}
    assert {key: value for key, value in header.config.items() if key != "copy"} == all_of_it.header.config
    beton = Beton.open(selection.beton_path)
    assert beton.count == 28
    hashes = [hashlib.sha256(beton.image_bytes(row).tobytes()).digest() for row in range(28)]
    assert hashes == [hashlib.sha256(files[key]).digest() for key in kept_keys(selection)]
    assert verify(tmp_path / "s").ok
    again = prune("select", sent, "--keep", "0.5", "--data", copy, "-o", tmp_path / "s")
    assert "is finished already" in again.stderr


def test_a_dry_run_tells_what_would_be_left_out(sent: Path, all_of_it: Manifest, tmp_path: Path, prune: Run) -> None:
    files = photos(count=20)
    del files[kept_keys(all_of_it)[0]]
    copy = write_tree(tmp_path / "copy", files)
    result = prune("select", sent, "--keep", "0.5", "--data", copy, "--dry-run", "-o", tmp_path / "s")
    assert "29 samples" in result.stdout
    assert "left out: 1 missing" in result.stderr
    assert not (tmp_path / "s").exists()


def test_bytes_that_differ_behind_an_equal_size_stop_it_or_are_left_out(
    sent: Path, all_of_it: Manifest, tmp_path: Path, prune: Run
) -> None:
    altered = kept_keys(all_of_it)[5]
    files = photos(count=20)
    files[altered] = files[altered][:-1] + b"\x00"
    base = ("select", sent, "--keep", "0.5", "--data", write_tree(tmp_path / "copy", files), "-o", tmp_path / "s")
    refused = prune(*base, code=4).stderr
    assert f"{altered} was altered since it was indexed" in refused
    assert "--check hashes" in refused
    assert not (tmp_path / "s" / "manifest.json").exists()
    prune(*base, "--check", "hashes")
    assert reasons(Manifest.open(tmp_path / "s"))[altered] == "other content"


def test_the_hint_about_altered_bytes_can_be_followed_where_they_were_scored(
    all_of_it: Manifest, tmp_path: Path, prune: Run
) -> None:
    """The scored folder itself: with --data, and without."""
    data = write_tree(tmp_path / "photos", photos(count=20))
    prune("score", data, *TEACHER, "--thumbnails", "-o", tmp_path / "m")
    altered = kept_keys(all_of_it)[5]
    (data / altered).write_bytes((data / altered).read_bytes()[:-1] + b"\x00")
    for number, place in enumerate((("--data", data), ())):
        base = ("select", tmp_path / "m", "--keep", "0.5", *place, "-o", tmp_path / f"s{number}")
        assert "leave out altered ones: prune select --data DATA --check hashes" in prune(*base, code=4).stderr
        assert "left out: 1 other content" in prune(*base, "--check", "hashes").stderr
        assert reasons(Manifest.open(tmp_path / f"s{number}"))[altered] == "other content"


def test_an_image_of_another_size_is_left_out_where_it_was_scored_too(
    all_of_it: Manifest, tmp_path: Path, prune: Run
) -> None:
    data = write_tree(tmp_path / "photos", photos(count=20))
    prune("score", data, *TEACHER, "--thumbnails", "-o", tmp_path / "m")
    prune("select", tmp_path / "m", "--keep", "0.5", "-o", tmp_path / "before")
    assert Manifest.open(tmp_path / "before").id == all_of_it.id
    larger = kept_keys(all_of_it)[7]
    (data / larger).write_bytes((data / larger).read_bytes() + b"x")
    for number, place in enumerate((("--data", data), ())):
        base = ("select", tmp_path / "m", "--keep", "0.5", *place, "-o", tmp_path / f"s{number}")
        tried = prune(*base, "--dry-run")
        done = prune(*base)
        for result in (tried, done):
            assert "left out: 1 another size" in result.stderr
            assert "29 samples" in result.stdout
        assert reasons(Manifest.open(tmp_path / f"s{number}"))[larger] == "another size"


@pytest.mark.parametrize("level", ["names", "pixels"])
def test_other_bytes_of_an_equal_size_pass_where_encodings_do(
    sent: Path, all_of_it: Manifest, tmp_path: Path, prune: Run, level: str
) -> None:
    """Listing and sizes are those that were scored; a byte of the JFIF density, which no picture shows, is not."""
    altered = kept_keys(all_of_it)[5]
    files = photos(count=20)
    assert files[altered][6:11] == b"JFIF\0"
    files[altered] = files[altered][:15] + b"\x07" + files[altered][16:]
    copy = write_tree(tmp_path / "copy", files)
    prune("verify", sent, "--data", copy, "--check", level)
    prune("select", sent, "--keep", "0.5", "--data", copy, "--check", level, "-o", tmp_path / "s")
    selection = Manifest.open(tmp_path / "s")
    assert kept_keys(selection) == kept_keys(all_of_it)
    beton = Beton.open(selection.beton_path)
    assert beton.image_bytes(kept_keys(all_of_it).index(altered)).tobytes() == files[altered]
    assert selection.header.config["copy"]["check"] == level


def test_a_folder_that_was_numbered_anew_is_cut_by_content(
    sent: Path, all_of_it: Manifest, tmp_path: Path, prune: Run
) -> None:
    """The same names and as many of them, but each is the image of the number before."""
    files = photos(count=20)
    turned = {key: files[f"{key[:4]}{(int(key[4:6]) - 1) % 20:02d}.jpg"] for key in files}
    copy = write_tree(tmp_path / "copy", turned)
    base = ("select", sent, "--keep", "0.5", "--data", copy)
    prune(*base, "--check", "hashes", "-o", tmp_path / "s")
    selection = Manifest.open(tmp_path / "s")
    assert selection.header.config["copy"]["left_out"] == {}
    assert selection.beton_path.read_bytes() == all_of_it.beton_path.read_bytes()
    by_names = prune("verify", sent, "--data", copy, "--match", "path,name", code=4).stdout
    assert "0 of 60 samples match" in by_names
    assert "found: 60 by path" in by_names
    assert "found: 60 by content" in prune("verify", sent, "--data", copy).stdout


def test_a_copy_in_another_format_is_cut(sent: Path, all_of_it: Manifest, tmp_path: Path, prune: Run) -> None:
    def png(data: bytes) -> bytes:
        stream = io.BytesIO()
        Image.open(io.BytesIO(data)).save(stream, "png")
        return stream.getvalue()

    copy = write_tree(tmp_path / "copy", {f"{key[:-3]}png": png(data) for key, data in photos(count=20).items()})
    prune("select", sent, "--keep", "0.5", "--data", copy, "--pixels", "-o", tmp_path / "s")
    assert kept_keys(Manifest.open(tmp_path / "s")) == kept_keys(all_of_it)


def test_a_squashed_picture_is_not_cut(sent: Path, all_of_it: Manifest, tmp_path: Path, prune: Run) -> None:
    kept = kept_keys(all_of_it)
    seed = 100 * CLASSES.index(kept[4][:3]) + int(kept[4][4:6])
    copy = write_tree(tmp_path / "copy", photos(count=20) | {kept[4]: jpeg(picture(seed, 24, 24))})
    result = prune("select", sent, "--keep", "0.5", "--data", copy, "--pixels", "-o", tmp_path / "s")
    assert "left out: 1 another shape" in result.stderr
    assert reasons(Manifest.open(tmp_path / "s"))[kept[4]] == "another shape"


def test_the_split_that_was_opened_is_remembered(tmp_path: Path, prune: Run) -> None:
    both = {f"{split}/{key}": data for split in ("train", "val") for key, data in photos().items()}
    both |= {key: data + b"x" for key, data in both.items() if key.startswith("train")}
    data, copy = write_tree(tmp_path / "photos", both), write_tree(tmp_path / "copy", both)
    prune("score", data, "--split", "val", *TEACHER, "-o", tmp_path / "m")
    (tmp_path / "m" / "local.json").unlink()
    prune("select", tmp_path / "m", "--keep", "0.5", "--data", copy, "-o", tmp_path / "s")
    local = json.loads((tmp_path / "s" / "local.json").read_text())
    assert (local["data"], local["split"]) == (str(copy), "val")
    exported = prune("export", tmp_path / "s", "--imagefolder", tmp_path / "tree")
    assert "6 hard links" in exported.stdout
    # The flag still says which one; what has no splits has none to remember.
    prune("select", tmp_path / "m", "--keep", "0.5", "--data", copy, "--split", "val", "-o", tmp_path / "s1")
    assert json.loads((tmp_path / "s1" / "local.json").read_text())["split"] == "val"
    flat = write_tree(tmp_path / "flat", photos())
    prune("select", tmp_path / "m", "--keep", "0.5", "--data", flat, "-o", tmp_path / "s2")
    assert "split" not in json.loads((tmp_path / "s2" / "local.json").read_text())


def test_flags_that_compare_nothing_are_told(scored: Path, data: Path, tmp_path: Path, prune: Run) -> None:
    (tmp_path / "map.csv").write_text("cat,cat\n")
    base = ("select", scored, "--keep", "0.5", "-o", tmp_path / "s", "--dry-run")
    assert "--check has no effect here: no beton is written" in prune(*base, "--no-beton", "--check", "names").stderr
    assert "has no effect" not in prune(*base, "--check", "names").stderr
    prune("index", data, "--beton", "-o", tmp_path / "index")
    prune("score", tmp_path / "index", *TEACHER, "-o", tmp_path / "m")
    base = ("select", tmp_path / "m", "--keep", "0.5", "-o", tmp_path / "s")
    for flags in (("--match", "path"), ("--class-map", tmp_path / "map.csv"), ("--pixels",)):
        assert f"{flags[0]} has no effect here: images are copied from" in prune(*base, *flags).stderr
    assert "has no effect" not in prune(*base).stderr
    assert "has no effect" not in prune(*base, "--data", data, "--pixels").stderr


@pytest.mark.parametrize("level", ["names", "pixels"])
def test_a_copy_encoded_again_is_cut_with_the_crops_that_were_scored(
    sent: Path, all_of_it: Manifest, tmp_path: Path, prune: Run, level: str
) -> None:
    files = {key: jpeg(picture(100 * CLASSES.index(key[:3]) + int(key[4:6]), 80, 60), 80) for key in photos(count=20)}
    kept = kept_keys(all_of_it)
    files[kept[2]] = jpeg(picture(31337))
    copy = write_tree(tmp_path / "copy", files)
    base = ("select", sent, "--keep", "0.5", "--data", copy)
    assert "none of the 30 samples" in prune(*base, "-o", tmp_path / "none", code=4).stderr
    assert not (tmp_path / "none").exists()
    prune(*base, "--check", level, "-o", tmp_path / "s")
    selection = Manifest.open(tmp_path / "s")
    expected = kept if level == "names" else [key for key in kept if key != kept[2]]
    assert kept_keys(selection) == expected
    assert reasons(selection)[kept[2]] == ("kept" if level == "names" else "other pixels")
    beton, first = Beton.open(selection.beton_path), Beton.open(all_of_it.beton_path)
    assert [beton.image_bytes(row).tobytes() for row in range(beton.count)] == [files[key] for key in expected]
    same = np.isin(first.columns["sample_id"], beton.columns["sample_id"])
    for name in ("sample_id", "view_id", "label"):
        assert np.array_equal(beton.columns[name], first.columns[name][same])
    targets = first.targets(np.flatnonzero(same))
    assert np.array_equal(beton.targets(np.arange(beton.count)).view(np.int16), targets.view(np.int16))


def test_the_manifests_classes_count(sent: Path, all_of_it: Manifest, tmp_path: Path, prune: Run) -> None:
    """Class folders of other names, in another order, in a split: the labels are the manifest's."""
    other = {"cat": "zebra", "dog": "ape", "eel": "eel"}
    files = {f"train/{other[key[:3]]}{key[3:]}": data for key, data in photos(count=20).items()}
    copy = write_tree(tmp_path / "copy", files)
    base = ("select", sent, "--keep", "0.5", "--data", copy, "-o", tmp_path / "s")
    assert "--class-map" in prune(*base, code=4).stderr
    (tmp_path / "map.csv").write_text("cat,zebra\ndog,ape\n")
    prune(*base, "--class-map", tmp_path / "map.csv")
    selection = Manifest.open(tmp_path / "s")
    assert selection.header.config["copy"]["left_out"] == {}
    assert kept_keys(selection) == kept_keys(all_of_it)
    assert (tmp_path / "s" / "train.beton").read_bytes() == all_of_it.beton_path.read_bytes()


def test_images_that_are_gone_where_they_were_scored_are_left_out_too(
    tmp_path: Path, prune: Run, all_of_it: Manifest
) -> None:
    data = write_tree(tmp_path / "photos", photos(count=20))
    prune("score", data, *TEACHER, "--thumbnails", "-o", tmp_path / "m")
    gone = kept_keys(all_of_it)[0]
    (data / gone).unlink()
    base = ("select", tmp_path / "m", "--keep", "0.5", "-o", tmp_path / "s")
    assert "29 samples" in prune(*base, "--dry-run").stdout
    result = prune(*base)
    assert "1 of 30 chosen samples do not match photos" in result.stderr
    assert reasons(Manifest.open(tmp_path / "s"))[gone] == "missing"


def test_a_hidden_manifest_is_cut_with_its_secret(scored: Path, data: Path, tmp_path: Path, prune: Run) -> None:
    (tmp_path / "secret").write_bytes(b"0123456789abcdef")
    hidden = hide(Manifest.open(scored), b"0123456789abcdef", tmp_path / "hidden")
    base = ("select", tmp_path / "hidden", "--keep", "0.5", "--data", data, "-o", tmp_path / "s")
    assert "--secret" in prune(*base, code=2).stderr
    prune(*base, "--secret", tmp_path / "secret")
    selection = Manifest.open(tmp_path / "s")
    assert selection.header.hidden == hidden.header.hidden
    beton = Beton.open(selection.beton_path)
    assert beton.count == 30
    samples = Manifest.open(scored).samples()
    view_id_of = dict(
        zip(samples.column("content_hash").to_pylist(), samples.column("view_id").to_pylist(), strict=True)
    )
    for row in range(beton.count):
        digest = hashlib.sha256(beton.image_bytes(row).tobytes()).digest()[:16]
        assert view_id_of[digest] == int(beton.columns["view_id"][row]) % 2**64
    assert "0123456789abcdef" not in (tmp_path / "s" / "manifest.json").read_text()


def test_thumbnails_that_were_not_pulled_are_not_missed(
    sent: Path, data: Path, all_of_it: Manifest, tmp_path: Path, prune: Run
) -> None:
    shutil.copytree(sent, tmp_path / "m", ignore=shutil.ignore_patterns("thumbnails"))
    (tmp_path / "m" / "local.json").write_text('{"not_pulled": ["thumbnails"], "pulled_from": "s3://b/m"}')
    prune("select", tmp_path / "m", "--keep", "0.5", "--data", data, "-o", tmp_path / "s")
    header = Manifest.open(tmp_path / "s").header
    assert (header.thumbnails, header.schema_version) == (None, "1.4")
    assert kept_keys(Manifest.open(tmp_path / "s")) == kept_keys(all_of_it)
    again = write_tree(tmp_path / "again", {key: jpeg(picture(1), 50) for key in photos(count=20)})
    base = ("select", tmp_path / "m", "--keep", "0.5", "--pixels", "-o", tmp_path / "p", "--data")
    assert "has no thumbnails" in prune(*base, again, code=2).stderr
    # The images that were scored need no comparison.
    prune(*base, data)


def test_no_images_are_compared_where_none_are_cut(sent: Path, tmp_path: Path, prune: Run) -> None:
    result = prune(
        "select", sent, "--keep", "0.5", "--no-beton", "--data", tmp_path / "none", "--json", "-o", tmp_path / "s"
    )
    assert json.loads(result.stdout)["selection"]["count"] == 30
    assert "--data is ignored: no beton is written" in result.stderr
    # Nor is it taken for a place where the images are.
    assert json.loads((tmp_path / "s" / "local.json").read_text()) == {}
