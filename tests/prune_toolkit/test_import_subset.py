"""`prune import FILE --indices`: a published subset becomes a selection."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_manifests import make
from PIL import Image

from manifests.betons.reader import Beton
from manifests.integrity import verify
from manifests.manifest import Manifest
from prune_toolkit.export.export import image_folder_rows

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "1.2"
IMAGES = GOLDEN.parent / "images"
INDEX, SCORES = GOLDEN / "index", GOLDEN / "scores"
KEYS = Manifest.open(INDEX).samples().column("key").to_pylist()
ROWS = [9, 0, 6]
Run = Callable[..., subprocess.CompletedProcess[str]]


def kept(folder: Path) -> list[int]:
    return np.flatnonzero(Manifest.open(folder).selection().column("keep").to_numpy(zero_copy_only=False)).tolist()


def written(path: Path, form: str) -> Path:
    """The same three samples in each form a subset is published in."""
    match form:
        case "rows.npy":
            np.save(path / form, np.array(ROWS, np.int32))
        case "mask.npy":
            np.save(path / form, np.isin(np.arange(13), ROWS))
        case "keys.npy":
            np.save(path / form, np.array([KEYS[row] for row in ROWS]))
        case "rows.txt":
            (path / form).write_text("".join(f"{row}\n" for row in ROWS))
        case "keys.txt":
            (path / form).write_text("\n".join(KEYS[row] for row in ROWS) + "\n\n")
        case "rows.json":
            (path / form).write_text(json.dumps(ROWS))
        case "mask.json":
            (path / form).write_text(json.dumps([row in ROWS for row in range(13)]))
        case "keys.json":
            (path / form).write_text(json.dumps([KEYS[row] for row in ROWS]))
        case "rows.csv":
            (path / form).write_text("index\n" + "".join(f"{row}\n" for row in ROWS))
        case "keys.tsv":
            (path / form).write_text("file\n" + "".join(f"{KEYS[row]}\n" for row in ROWS))
    return path / form


FORMS = ["rows.npy", "mask.npy", "keys.npy", "rows.txt", "keys.txt"]
FORMS += ["rows.json", "mask.json", "keys.json", "rows.csv", "keys.tsv"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_keeps_the_same_samples(prune: Run, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    told = prune("import", written(tmp_path, form), SCORES, "--indices", "--data", IMAGES, "-o", out).stdout
    assert "3 samples kept (25.00 %), labels raw" in told
    selection = Manifest.open(out)
    assert kept(out) == sorted(ROWS)
    reasons = selection.selection().column("reason").to_pylist()
    expected = ["kept" if row in ROWS else "unreadable" if row == 4 else "not chosen" for row in range(13)]
    assert reasons == expected
    chosen = selection.header.selection
    assert chosen is not None
    assert (chosen.method, chosen.quota, chosen.count, chosen.keep_asked) == ("imported", "none", 3, "1/4")
    assert selection.header.parents == [Manifest.open(SCORES).id]
    assert verify(out).ok


@pytest.mark.parametrize("form", ["rows.npy", "mask.json", "keys.txt"])
def test_dropped_samples_are_all_that_is_not_kept(prune: Run, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    told = prune("import", written(tmp_path, form), SCORES, "--dropped", "--no-beton", "-o", out)
    assert "9 samples kept (75.00 %)" in told.stdout
    assert kept(out) == [row for row in range(13) if row not in (*ROWS, 4)]
    chosen = Manifest.open(out).header.selection
    assert chosen is not None
    assert chosen.parameters == {"file": "dropped"}
    assert verify(out).ok


def test_a_list_of_dropped_samples_drops_some_and_not_all(prune: Run, tmp_path: Path) -> None:
    words = ("import", tmp_path / "s.txt", INDEX, "--dropped", "--no-beton", "-o", tmp_path / "out")
    for lines, message in (("", "names no sample to drop"), ("\n".join(map(str, range(13))), "drops every readable")):
        (tmp_path / "s.txt").write_text(lines)
        assert message in prune(*words, code=4).stderr
    (tmp_path / "s.txt").write_text("4\n")
    assert "cannot be read" not in prune(*words).stderr
    assert len(kept(tmp_path / "out")) == 12
    assert "--indices and --dropped cannot be used together" in prune(*words, "--indices", code=2).stderr


def test_the_column_of_a_csv_is_named_where_it_is_not_certain(prune: Run, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    words = ("import", path, INDEX, "--indices", "--no-beton", "-o", tmp_path / "out")
    for text, flags, message in (
        ("row,score\n9,1\n", (), "--key row or score"),
        ("9\n0\n", (), "may be a value or a header"),
        (f"{KEYS[0]}\n{KEYS[1]}\n", (), "may be a value or a header"),
        ("row\n9\n", ("--key", "index"), "has no column 'index'"),
    ):
        path.write_text(text)
        assert message in prune(*words, *flags, code=2).stderr
    (tmp_path / "s.txt").write_text("9\n")
    told = prune("import", tmp_path / "s.txt", *words[2:], "--key", "row", code=2).stderr
    assert "s.txt has no columns" in told
    path.write_text("row,score\n9,1\n0,2\n6,2\n")
    prune(*words, "--key", "row")
    assert kept(tmp_path / "out") == sorted(ROWS)


def test_its_targets_are_the_logits_and_its_beton_holds_the_images(prune: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prune("import", written(tmp_path, "rows.npy"), SCORES, "--indices", "--data", IMAGES, "-o", out)
    [(ids, logits)], [(target_ids, targets)] = Manifest.open(SCORES).logits(), Manifest.open(out).targets()
    assert target_ids.tolist() == sorted(ROWS)
    np.testing.assert_array_equal(targets, logits[np.searchsorted(ids, target_ids)])
    beton = Beton.open(out / "train.beton")
    assert beton.columns["sample_id"].tolist() == sorted(ROWS)
    for row, sample in enumerate(sorted(ROWS)):
        np.testing.assert_array_equal(beton.pixels(row), np.asarray(Image.open(IMAGES / KEYS[sample])))
    np.testing.assert_array_equal(beton.targets(np.arange(3))[:, 0], targets)


def test_without_logits_there_are_no_targets(prune: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prune("import", written(tmp_path, "rows.txt"), INDEX, "--indices", "--data", IMAGES, "-o", out)
    assert Manifest.open(out).header.labels is None
    assert Beton.open(out / "train.beton").view_count == 0


@pytest.mark.slow
def test_a_student_learns_from_a_subset_without_labels(prune: Run, tmp_path: Path) -> None:
    from trainer.cli.console import run_cli
    from trainer.cli.train_student import train_student

    prune("import", written(tmp_path, "rows.txt"), INDEX, "--indices", "--data", IMAGES, "-o", tmp_path / "out")
    words = ["--manifest", tmp_path / "out", "--student", "resnet8", "--epochs", "1", "-o", tmp_path / "run"]
    with pytest.raises(SystemExit) as done:
        run_cli(train_student, [*map(str, words), "--loss", "ce", "--device", "cpu", "--loader", "torch"])
    assert done.value.code == 0
    assert (tmp_path / "run" / "student.safetensors").is_file()


@pytest.mark.parametrize(
    ("lines", "code", "message"),
    [
        (["13"], 4, "names row 13"),
        (["0", "-1"], 4, "match no sample"),
        (["x.png", "y.png"], 4, "2 of 2 rows of s.txt match no sample"),
        (["4"], 4, "names no readable sample"),
        ([], 4, ""),
    ],
)
def test_a_subset_of_other_data_is_a_mismatch(
    prune: Run, tmp_path: Path, lines: list[str], code: int, message: str
) -> None:
    (tmp_path / "s.txt").write_text("\n".join(lines))
    words = ("import", tmp_path / "s.txt", INDEX, "--indices", "--no-beton", "-o", tmp_path / "out")
    assert message in prune(*words, code=code).stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_subset_is_refused(prune: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "floats.npy", np.zeros(3))
    np.save(tmp_path / "square.npy", np.zeros((3, 3), np.int64))
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    with (tmp_path / "archive.npy").open("wb") as stream:
        np.savez(stream, rows=np.arange(3))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "floats.npy").read_bytes()[:-4])
    (tmp_path / "object.json").write_text('{"kept": [1]}')
    (tmp_path / "mixed.json").write_text('[1, "a"]')
    (tmp_path / "broken.json").write_text("[1,")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.jpg")
    for path in sorted(tmp_path.iterdir()):
        prune("import", path, INDEX, "--indices", "--no-beton", "-o", tmp_path / "out", code=3)
    prune("import", tmp_path / "absent.npy", INDEX, "--indices", "--no-beton", code=3)


@pytest.mark.parametrize("count", [0, 9, 12, 14])
def test_flags_are_one_a_sample(prune: Run, tmp_path: Path, count: int) -> None:
    """12 are readable: whoever published them may have left that one out, and nobody can tell which."""
    np.save(tmp_path / "mask.npy", np.arange(count) < 3)
    words = ("import", tmp_path / "mask.npy", INDEX, "--indices", "--no-beton", "-o", tmp_path / "out")
    assert f"mask.npy has {count} flags, {INDEX} has 13 samples" in prune(*words, code=4).stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lines", [[str(row) for row in ROWS], [KEYS[row] for row in ROWS]])
def test_marks_and_spaces_around_the_lines_play_no_part(prune: Run, tmp_path: Path, lines: list[str]) -> None:
    text = "\ufeff" + " \r\n\t".join(lines) + "\r\n \r\n"
    (tmp_path / "s.txt").write_bytes(text.encode())
    prune("import", tmp_path / "s.txt", INDEX, "--indices", "--no-beton", "-o", tmp_path / "out")
    assert kept(tmp_path / "out") == sorted(ROWS)


def test_a_key_may_begin_and_end_with_a_space(prune: Run, tmp_path: Path) -> None:
    make(tmp_path / "index", [" a/1.png", "a/2.png", "b/3.png "], [0, 1, 2])
    (tmp_path / "s.txt").write_text(" a/1.png\nb/3.png \n")
    prune("import", tmp_path / "s.txt", tmp_path / "index", "--indices", "--no-beton", "-o", tmp_path / "out")
    assert kept(tmp_path / "out") == [0, 2]


def test_a_key_may_hold_what_unicode_takes_for_the_end_of_a_line(prune: Run, tmp_path: Path) -> None:
    keys = ["a\u2028b", "c\u2029d", "e"]
    make(tmp_path / "index", keys, [0, 1, 2])
    (tmp_path / "s.txt").write_text("\n".join(keys[:2]), encoding="utf-8")
    prune("import", tmp_path / "s.txt", tmp_path / "index", "--indices", "--no-beton", "-o", tmp_path / "out")
    assert kept(tmp_path / "out") == [0, 1]


def test_samples_named_twice_or_unreadable_are_told(prune: Run, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("0\n0\n4\n7\n")
    told = prune("import", tmp_path / "s.txt", INDEX, "--indices", "--no-beton", "-o", tmp_path / "out").stderr
    assert "names 1 samples more than once" in told
    assert "1 of the samples that s.txt names cannot be read" in told
    assert kept(tmp_path / "out") == [0, 7]


@pytest.fixture
def hyphened(tmp_path: Path) -> Path:
    """Folders whose keys sort otherwise than their classes: "a-b/" comes before "a/"."""
    for number, name in enumerate(["a/1.png", "a/z/1.png", "a/0.png", "a-b/2.png", "a-b/1.png", "a b/1.png"]):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    return tmp_path / "images"


def test_rows_of_an_imagefolder_are_those_of_torchvision(prune: Run, hyphened: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    listed = [Path(path).relative_to(hyphened).as_posix() for path, _ in ImageFolder(hyphened).samples]
    prune("index", "--data", hyphened, "-o", tmp_path / "index")
    keys = Manifest.open(tmp_path / "index").samples().column("key").to_pylist()
    assert sorted(listed) == keys != listed
    assert [keys[row] for row in image_folder_rows(keys, None)] == listed
    (tmp_path / "s.txt").write_text("0\n5\n")
    words = ("import", tmp_path / "s.txt", tmp_path / "index", "--indices", "--no-beton", "-o")
    assert "--order imagefolder or --order keys" in prune(*words, tmp_path / "out", code=2).stderr
    for order, names in (("imagefolder", [listed[0], listed[5]]), ("keys", [keys[0], keys[5]])):
        prune(*words, tmp_path / order, "--order", order)
        assert sorted(names) == [keys[row] for row in kept(tmp_path / order)]


def test_keys_below_a_split_are_ordered_by_their_class() -> None:
    keys = sorted(f"train/{key}" for key in ("a/1", "a-b/1", "a/z/1"))
    assert [keys[row] for row in image_folder_rows(keys, "train")] == ["train/a/1", "train/a/z/1", "train/a-b/1"]
