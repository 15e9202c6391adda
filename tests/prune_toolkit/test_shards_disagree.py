"""`prune merge` of what does not go together: other classes, teachers, views, unequal values of one key; --prefer."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_manifests import content, content_of, logits_of, make, some_logits

from manifests.format.parts import part_path, read_part, write_part
from manifests.manifest import Manifest, commit, part_entries

Run = Callable[..., subprocess.CompletedProcess[str]]
ANOTHER_SIZE = {"image_px": 8, "resize_px": 9, "mean": [0.5], "std": [0.5]}


@pytest.mark.parametrize(
    ("other", "code", "says"),
    [
        ({"classes": ("cat", "eel", "dog")}, 4, "class 1 is dog and eel"),
        ({"classes": ("cat", "dog", "eel", "fox")}, 4, "class 3 is None and fox"),
        ({"teacher": {"weights_sha256": "bb"}}, 4, "teacher.weights_sha256 is aa and bb"),
        ({"teacher": {"output_map": [1, 0, 2]}}, 4, "teacher.output_map is None and [1, 0, 2]"),
        ({"teacher": {"preprocessing": ANOTHER_SIZE}}, 4, "preprocessing.resize_px is 8 and 9"),
        ({"views": {"seed": 3}}, 4, "views.seed is 0 and 3"),
        ({"views": {"pad_px": 2}}, 4, "views.pad_px is None and 2"),
        ({"data": {"source": "parquet"}}, 4, "data.source is folder and parquet"),
        ({"kept": ["b"]}, 2, "is a selection"),
    ],
)  # fmt: skip
def test_what_is_no_shard_of_the_same_is_refused(
    tmp_path: Path, prune: Run, other: dict[str, Any], code: int, says: str
) -> None:
    classes = other.get("classes", ("cat", "dog", "eel"))
    make(tmp_path / "x", ["a", "c"], [0, 1], some_logits(0, 1, 2, 3))
    make(tmp_path / "y", ["b", "d"], [0, 1], some_logits(0, 1, 2, len(classes)), **other)
    stderr = prune("merge", "x", "y", "-o", "m", cwd=tmp_path, code=code).stderr
    # Manifests are compared in the order of their ids.
    what, _, values = says.partition(" is ")
    assert says in stderr or f"{what} is {' and '.join(reversed(values.split(' and ')))}" in stderr
    assert not (tmp_path / "m").exists()


def test_another_machine_is_no_other_teacher(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "x", ["a"], [0], some_logits(0, 1, 1, 3), config={"batch_size": 1}, teacher={"val_top1": 0.5})
    make(tmp_path / "y", ["b"], [1], some_logits(1, 1, 1, 3), config={"batch_size": 9}, teacher={"val_top1": 0.5})
    prune("merge", "x", "y", "-o", "m", cwd=tmp_path)
    assert Manifest.open(tmp_path / "m").header.teacher.val_top1 == 0.5


def test_two_score_sets_of_one_name_must_be_the_same_score(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "x", ["a"], [0], some_logits(0, 1, 1, 3), sets={"imported": {"mine": [1]}})
    make(tmp_path / "y", ["b"], [1], some_logits(1, 1, 1, 3), sets={"imported": {"mine": [1]}})
    content = json.loads((tmp_path / "y" / "manifest.json").read_text())
    content["scores"][-1]["harder"] = "low"
    (tmp_path / "y" / "manifest.json").write_text(json.dumps(content))
    told = prune("merge", "x", "y", "-o", "m", cwd=tmp_path, code=4).stderr
    assert "score imported/mine" in told


DISAGREE = {
    "label": ({"labels": [0, 2, 1]}, "disagree on the label of 1 samples; the first: q"),
    "content": ({"contents": {"q": content("else")}}, "disagree on the view_id and content of 1 samples; the first: q"),
    "problem": ({"unreadable": ["q"]}, "disagree on the problem of 1 samples; the first: q"),
    "logits": ({"logits": 1}, "disagree on logits/view-000 of 2 samples; the first: q"),
    "scores": ({"mine": [9, 8, 7]}, "disagree on scores/imported of 1 samples; the first: r"),
}


def disagreeing(folder: Path, what: str) -> tuple[Manifest, Manifest]:
    """Two manifests with q and r in common; p is of the first alone, s of the second."""
    change = {"labels": [1, 2, 1], "logits": 0, "mine": [9, 8, 5]} | DISAGREE[what][0]
    logits = some_logits(0, 1, 3, 3)
    first = make(folder / "x", ["p", "q", "r"], [0, 1, 2], logits, sets={"imported": {"mine": [4, 9, 8]}})
    theirs = np.concatenate([logits[:, 1:], some_logits(5, 1, 1, 3)], axis=1)
    if change["logits"]:
        theirs = theirs + np.float16(1)
    if what == "scores":
        change["mine"] = [9, 7, 5]
    second = make(
        folder / "y",
        ["q", "r", "s"],
        [change["labels"][0], 2, 1] if what == "label" else [1, 2, 1],
        theirs,
        sets={"imported": {"mine": change["mine"]}},
        contents=change.get("contents"),
        unreadable=change.get("unreadable", ()),
    )
    return first, second


@pytest.mark.parametrize("what", DISAGREE)
def test_equal_keys_with_unequal_values_are_refused(tmp_path: Path, prune: Run, what: str) -> None:
    disagreeing(tmp_path, what)
    result = prune("merge", "x", "y", "-o", "m", cwd=tmp_path, code=4)
    assert DISAGREE[what][1] in result.stderr
    assert "--prefer" in result.stderr
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("what", DISAGREE)
def test_unless_one_is_preferred(tmp_path: Path, prune: Run, what: str) -> None:
    first, second = disagreeing(tmp_path, what)
    for out, flags in (("mx", ("--prefer", "x/")), ("m1", ("--prefer", "first")), ("ml", ("--prefer", "last"))):
        prune("merge", "x", "y", *flags, "-o", out, cwd=tmp_path)
    by_x, by_first, by_last = (Manifest.open(tmp_path / out) for out in ("mx", "m1", "ml"))
    ours, theirs = content_of(first), content_of(second)
    assert content_of(by_x) == content_of(by_first) == {name: [*ours[name], theirs[name][-1]] for name in ours}
    assert content_of(by_last) == {name: [ours[name][0], *theirs[name]] for name in ours}
    assert by_x.header.config["prefer"] == [first.id]
    assert by_last.header.config["prefer"] == [second.id, first.id]


def test_one_that_is_preferred_does_not_settle_what_it_does_not_have(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "x", ["a"], [0], some_logits(0, 1, 1, 3))
    make(tmp_path / "y", ["b"], [1], some_logits(1, 1, 1, 3))
    make(tmp_path / "z", ["b"], [1], some_logits(2, 1, 1, 3))
    stderr = prune("merge", "x", "y", "z", "--prefer", "x", "-o", "m", cwd=tmp_path, code=4).stderr
    assert "disagree on logits/view-000 of 1 samples; the first: b" in stderr
    prune("merge", "x", "y", "z", "--prefer", "z", "-o", "m", cwd=tmp_path)
    assert logits_of(Manifest.open(tmp_path / "m"))[1] == some_logits(2, 1, 1, 3)[0, 0].tolist()


def test_what_the_preferred_one_describes_otherwise_is_counted(tmp_path: Path, prune: Run) -> None:
    """Of q, r and s, q is another image in y."""
    disagreeing(tmp_path, "content")
    told = prune("merge", "x", "y", "--prefer", "x", "-o", "m", cwd=tmp_path).stderr
    assert told == "left out: 1 samples of y, which the preferred manifest describes differently\n"
    plan = json.loads(prune("merge", "x", "y", "--prefer", "x", "--dry-run", "--json", cwd=tmp_path).stdout)
    assert plan["left_out"] == [told.removeprefix("left out: ").strip()]
    assert plan["shares"] == {"x": 3, "y": 2}


ROWS = [f"train/{row:08d}" for row in range(3)]


def rows(folder: Path, first: int, **blocks: Any) -> Manifest:
    """Three rows of a Parquet file, whose images are numbered from `first`."""
    contents = {key: content(f"image {first + number}") for number, key in enumerate(ROWS)}
    return make(folder, ROWS, [0, 1, 2], contents=contents, **({"data": {"source": "parquet"}} | blocks))


@pytest.mark.parametrize("flags", [(), ("--prefer", "first"), ("--prefer", "x")])
def test_row_numbers_of_two_files_are_no_keys_in_common(tmp_path: Path, prune: Run, flags: tuple[str, ...]) -> None:
    """Preferring one of them would throw away the images of the other."""
    rows(tmp_path / "x", 0)
    rows(tmp_path / "y", 2)
    told = prune("merge", "x", "y", *flags, "-o", "m", cwd=tmp_path, code=4).stderr
    assert "row numbers, and 3 of these stand for different images; the first: train/00000000" in told
    assert "prune split" in told
    assert "--prefer" not in told
    assert not (tmp_path / "m").exists()


def test_one_file_read_twice_is_one_data_set(tmp_path: Path, prune: Run) -> None:
    """Row 2 could not be read the second time: that is for --prefer to decide."""
    rows(tmp_path / "x", 0)
    make(tmp_path / "y", ROWS, [0, 1, 2], unreadable=ROWS[2:], data={"source": "parquet"},
         contents={ROWS[0]: content("image 0"), ROWS[1]: content("image 1"), ROWS[2]: bytes(16)})  # fmt: skip
    assert "--prefer MANIFEST" in prune("merge", "x", "y", "-o", "m", cwd=tmp_path, code=4).stderr
    prune("merge", "x", "y", "--prefer", "x", "-o", "m", cwd=tmp_path)
    assert Manifest.open(tmp_path / "m").header.data.readable == 3


def test_names_and_licences_are_told_once_however_often_manifests_are_merged(tmp_path: Path, prune: Run) -> None:
    for name, data_name, licence in (("x", "a", "MIT"), ("y", "b", "CC0"), ("z", "a", "MIT"), ("w", "a", None)):
        make(tmp_path / name, [f"{name}0"], [0], data={"name": data_name, "licence": licence})
    for out, pieces in (("xy", "xy"), ("xyz", ("xy", "z")), ("all", ("xyz", "w")), ("again", ("all", "w", "x"))):
        prune("merge", *pieces, "-o", out, cwd=tmp_path)
    found = Manifest.open(tmp_path / "again").header.data
    assert found.name == "a + b"
    assert found.licence is not None
    assert sorted(found.licence.split("; ")) == ["CC0", "MIT", "not stated"]


def with_score(manifest: Manifest, name: str, value: float) -> None:
    """Another value of one score of its second sample, in a manifest without its logits."""
    path = manifest.folder / part_path("scores/teacher", 0)
    table = read_part(path)
    values = table.column(name).to_numpy().copy()
    values[1] = value
    path.unlink()
    write_part(path, table.set_column(table.column_names.index(name), name, pa.array(values)), "d")
    files = part_entries(manifest.folder, ["samples", "scores/teacher"], len(table))
    commit(manifest.folder, manifest.header.model_copy(update={"files": files, "left_out": ["logits"]}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_name_the_sample(tmp_path: Path, prune: Run, value: float) -> None:
    logits = some_logits(0, 1, 4, 3)
    logits[0, 2, 1] = value
    with np.errstate(invalid="ignore"):
        make(tmp_path / "x", "abcd", [0, 1, 2, 0], logits)
    make(tmp_path / "y", "e", [0], some_logits(1, 1, 1, 3))
    for words in (("merge", "x", "y"), ("split", "x", "--prefix", "c")):
        told = prune(*words, "-o", "m", cwd=tmp_path, code=3).stderr
        assert "sample c: logit 1 is not finite" in told
        assert not (tmp_path / "m" / "manifest.json").exists()
        shutil.rmtree(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "value"),
    [("confidence", np.nan), ("confidence", np.inf), ("confidence", -3), ("confidence", 1.5),
     ("correct", np.nan), ("correct", -np.inf), ("correct", 5), ("correct", 0.5)],
)  # fmt: skip
def test_scores_that_are_no_answers_name_the_sample(tmp_path: Path, prune: Run, name: str, value: float) -> None:
    with_score(make(tmp_path / "x", "abcd", [0, 1, 2, 0], some_logits(0, 1, 4, 3)), name, value)
    told = prune("split", "x", "--prefix", "a", "--prefix", "b", "-o", "m", cwd=tmp_path, code=3).stderr
    assert "x: sample b: confidence is" in told
    assert f"{value:g}" in told
    # Its other pieces are sound.
    prune("split", "x", "--prefix", "a", "-o", "n", cwd=tmp_path)
