"""`prune merge` of what does not go together: other classes, teachers, views, unequal values of one key; --prefer."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_manifests import content, content_of, logits_of, make, some_logits

from manifests.manifest import Manifest

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
