"""Two manifests compared: hand-worked pairs of manifests first, then numpy and scipy on random ones."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_manifests import content, make, some_logits
from scipy.special import rel_entr, softmax
from scipy.stats import spearmanr

from manifests.compare.diff import compare
from manifests.compare.divergence import divergences
from manifests.errors import MismatchError, UsageError
from manifests.hidden.hide import hide
from manifests.hidden.secret import hide_keys

LOG3 = math.log(3)


def compared(a: Any, b: Any) -> dict[str, Any]:
    report = compare(a, b)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    return report


def test_a_manifest_and_itself(tmp_path: Path) -> None:
    logits = some_logits(0, 2, 4, 3)
    a = make(tmp_path / "a", "pqrs", [0, 1, 2, 0], logits)
    report = compared(a, a)
    assert report["same"]
    assert report["data"]["same"]
    assert {entry["spearman"] for entry in report["scores"]["common"] if entry["score"] == "teacher/loss"} == {1}
    assert all(entry["equal"] for entry in report["scores"]["common"])
    assert [(view["table"], view["samples"], view["kl_a_b"], view["kl_b_a"]) for view in report["labels"]["views"]] == [
        ("logits/view-000", 4, 0, 0),
        ("logits/view-001", 4, 0, 0),
    ]
    assert report["settings"] == []


def test_data_by_hand(tmp_path: Path) -> None:
    """q and r are in both; r is an eel in B, q has another content there."""
    a = make(tmp_path / "a", "pqr", [0, 1, 1])
    b = make(tmp_path / "b", "qrst", [0, 2, 1, 1], classes=("dog", "fox", "eel"), contents={"q": content("else")})
    data = compared(a, b)["data"]
    assert (data["samples"], data["common"], data["joined_by"], data["same"]) == ([3, 4], 2, "key", False)
    assert data["only_a"] == {"count": 1, "first": ["p"]}
    assert data["only_b"] == {"count": 2, "first": ["s", "t"]}
    assert data["another_label"] == {"count": 1, "first": ["r"]}
    assert data["another_content"] == {"count": 1, "first": ["q"]}
    assert data["classes"] == {"count": [3, 3], "same_order": False, "only_a": ["cat"], "only_b": ["fox"]}


def test_renamed_files_are_found_by_their_content(tmp_path: Path) -> None:
    contents = {name: content(f"image {number}") for name, number in zip("pqrst", (0, 1, 2, 1, 0), strict=True)}
    a = make(tmp_path / "a", "pqr", [0, 1, 2], [np.eye(3)], contents=contents)
    b = make(tmp_path / "b", "st", [1, 0], [[[0, 1, 0], [1, 0, 0]]], contents=contents)
    report = compared(a, b)
    assert (report["data"]["joined_by"], report["data"]["common"]) == ("content hash", 2)
    assert report["data"]["another_label"]["count"] == report["data"]["another_content"]["count"] == 0
    assert report["labels"]["views"][0] == {"table": "logits/view-000", "samples": 2, "kl_a_b": 0, "kl_b_a": 0}


def test_a_hidden_manifest_and_the_open_one_are_compared_with_the_secret(tmp_path: Path) -> None:
    """q and r are in both, r with another content; s is only in the hidden one, whose keys cannot be told."""
    secret = b"0123456789abcdef"
    a = make(tmp_path / "a", "pqr", [0, 1, 2], [np.eye(3)])
    b = make(tmp_path / "b", "qrs", [1, 2, 0], [np.eye(3)[[1, 2, 0]]], contents={"r": content("else")})
    hidden = hide(b, secret, tmp_path / "hidden")
    [name_s] = hide_keys(secret, ["s"]).to_pylist()
    for first, second, only in ((a, hidden, ("only_a", "only_b")), (hidden, a, ("only_b", "only_a"))):
        report = compare(first, second, secret)
        data = report["data"]
        assert (data["common"], data["joined_by"], data["hidden"]) == (2, "key", None)
        assert data[only[0]] == {"count": 1, "first": ["p"]}
        assert data[only[1]] == {"count": 1, "first": [name_s]}
        assert data["another_content"]["count"] == 1
        assert data["another_label"]["count"] == 0
        assert report["labels"]["views"] == [{"table": "logits/view-000", "samples": 2, "kl_a_b": 0, "kl_b_a": 0}]
    assert compare(hidden, hidden, secret)["data"]["common"] == compare(hidden, hidden)["data"]["common"] == 3
    other = hide(b, b"another secret than that", tmp_path / "other")
    assert compare(a, hidden)["data"]["hidden"] == "B is hidden: name the file with its secret: --secret FILE"
    assert compare(hidden, other)["data"]["hidden"] == "they are hidden by two different secrets"
    with pytest.raises(MismatchError, match="not the secret of"):
        compare(a, other, secret)
    with pytest.raises(UsageError, match="neither manifest is hidden"):
        compare(a, b, secret)


def test_rows_in_another_order_are_compared_image_by_image(tmp_path: Path) -> None:
    """B is A in another order, with its own row numbers: scores and labels are the same, image by image."""
    order = np.random.default_rng(0).permutation(40)
    keys, label, logits = [f"train/{row:08d}" for row in range(40)], np.arange(40) % 3, some_logits(0, 2, 40, 3)
    a = make(tmp_path / "a", keys, label, logits, data={"source": "idx"})
    contents = {keys[new]: content(keys[old]) for new, old in enumerate(order)}
    b = make(tmp_path / "b", keys, label[order], logits[:, order], data={"source": "idx"}, contents=contents)
    report = compared(a, b)
    assert (report["data"]["common"], report["data"]["joined_by"]) == (40, "content hash, then row number")
    assert report["data"]["another_label"]["count"] == report["data"]["another_content"]["count"] == 0
    assert {score["spearman"] for score in report["scores"]["common"] if score["score"] != "teacher/correct"} == {1}
    assert [view["kl_a_b"] for view in report["labels"]["views"]] == [0, 0]
    hidden = hide(b, b"0123456789abcdef", tmp_path / "hidden")
    assert compare(a, hidden, b"0123456789abcdef")["labels"] == report["labels"]


def test_labels_that_are_no_numbers_are_left_out_and_counted(tmp_path: Path) -> None:
    """Of p, q, r and s, A has no number for q, B none for r."""
    logits_a, logits_b = some_logits(1, 1, 4, 3), some_logits(2, 1, 4, 3)
    p, q = (softmax(logits[0, [0, 3]].astype(np.float64), axis=1) for logits in (logits_a, logits_b))
    logits_a[0, 1, 2], logits_b[0, 2] = np.inf, np.nan
    chosen = [make(tmp_path / name, "pqrs", [0, 1, 2, 0], logits, kept="pqrs") for name, logits in
              (("a", logits_a), ("b", logits_b))]  # fmt: skip
    [found] = compared(*chosen)["labels"]["views"]
    assert (found["samples"], found["not_finite"]) == (2, 2)
    assert found["kl_a_b"] == pytest.approx(rel_entr(p, q).sum(1).mean())
    assert found["kl_b_a"] == pytest.approx(rel_entr(q, p).sum(1).mean())


def test_divergence_by_hand() -> None:
    """p = (1/4, 3/4), q = (1/2, 1/2)."""
    a_b, b_a = divergences(np.array([[0, LOG3]]), np.array([[5.0, 5.0]]))
    assert a_b == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert b_a == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert divergences(np.zeros((0, 2)), np.zeros((0, 2))).tolist() == [0, 0]


def test_labels_of_the_samples_in_common_are_compared_class_by_class(tmp_path: Path) -> None:
    """B numbers its classes the other way round; sample p is unreadable in B, and s is B's alone."""
    logits_a, logits_b = some_logits(1, 2, 4, 3), some_logits(2, 2, 4, 3)
    a = make(tmp_path / "a", "opqr", [0, 1, 2, 0], logits_a)
    b = make(tmp_path / "b", "pqrs", [0, 1, 2, 2], logits_b, classes=("eel", "dog", "cat"), unreadable="p")
    labels = compared(a, b)["labels"]
    for view, found in enumerate(labels["views"]):
        p_23 = softmax(logits_a[view, 2:].astype(np.float64), axis=1)
        q_23 = softmax(logits_b[view, 1:3, ::-1].astype(np.float64), axis=1)
        assert found["samples"] == 2
        assert found["kl_a_b"] == pytest.approx(rel_entr(p_23, q_23).sum(1).mean())
        assert found["kl_b_a"] == pytest.approx(rel_entr(q_23, p_23).sum(1).mean())
    assert labels["same_crops"]


def test_the_largest_logits_are_compared_as_what_they_stand_for(tmp_path: Path) -> None:
    logits = some_logits(1, 1, 40, 6)
    classes = [f"c{number}" for number in range(6)]
    a = make(tmp_path / "a", [f"{n:02d}" for n in range(40)], [0] * 40, logits, classes=classes)
    b = make(tmp_path / "b", [f"{n:02d}" for n in range(40)], [0] * 40, logits, classes=classes, keep_k=3)
    [found] = compared(a, b)["labels"]["views"]
    p = softmax(logits[0].astype(np.float64), axis=1)
    top = np.sort(p, axis=1)[:, ::-1]
    rest = 1 - top[:, :3].sum(1)
    kept = np.where(p >= top[:, 2:3], p, rest[:, None] / 3)
    assert found["kl_a_b"] == pytest.approx(rel_entr(p, kept).sum(1).mean(), rel=1e-2)


def test_where_labels_cannot_be_compared_it_says_why(tmp_path: Path) -> None:
    logits = some_logits(0, 1, 2, 3)
    scored = make(tmp_path / "scored", "pq", [0, 1], logits)
    index = make(tmp_path / "index", "pq", [0, 1])
    other = make(tmp_path / "other", "pq", [0, 1], logits, classes=("cat", "dog", "fox"))
    chosen = make(tmp_path / "chosen", "pq", [0, 1], logits, kept="p")
    assert compared(scored, index)["labels"]["why"] == "one has logits, the other no labels"
    assert compared(scored, other)["labels"]["why"] == "the classes differ"
    assert compared(chosen, scored)["labels"]["why"] == "one has targets, the other logits"
    assert compared(index, index)["labels"] is None
    assert compared(index, index)["teacher"] is None
    assert compared(index, index)["scores"] is None
    assert compared(index, scored)["selections"] is None


def test_crops_of_another_seed_are_told(tmp_path: Path) -> None:
    logits = some_logits(0, 2, 2, 3)
    a = make(tmp_path / "a", "pq", [0, 1], logits)
    b = make(tmp_path / "b", "pq", [0, 1], logits, views={"seed": 7})
    report = compared(a, b)
    assert not report["labels"]["same_crops"]
    assert {"key": "views.seed", "a": 0, "b": 7} in report["settings"]


def test_scores_are_correlated_over_the_samples_in_common_and_by_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    keys = [f"{n:03d}" for n in range(60)]
    label = rng.integers(0, 3, 60)
    ours, theirs = rng.integers(0, 9, 60), rng.integers(0, 9, 60)
    a = make(tmp_path / "a", keys, label, some_logits(0, 1, 60, 3), sets={"x": {"one": ours, "two": ours}})
    sets = {"x": {"one": theirs[10:]}, "y": {"z": theirs[10:]}}
    b = make(tmp_path / "b", keys[10:], label[10:], some_logits(1, 1, 50, 3), sets=sets, unreadable=[keys[20]])
    scores = compared(a, b)["scores"]
    assert (scores["only_a"], scores["only_b"]) == (["x/two"], ["y/z"])
    [found] = [entry for entry in scores["common"] if entry["score"] == "x/one"]
    rows = [row for row in range(10, 60) if row != 20]
    assert found["samples"] == 49
    assert found["spearman"] == pytest.approx(spearmanr(ours[rows], theirs[rows]).statistic)
    assert [entry["class"] for entry in found["per_class"]] == ["cat", "dog", "eel"]
    for c, entry in enumerate(found["per_class"]):
        of_class = [row for row in rows if label[row] == c]
        assert entry["samples"] == len(of_class)
        assert entry["spearman"] == pytest.approx(spearmanr(ours[of_class], theirs[of_class]).statistic)


def test_selections_by_hand(tmp_path: Path) -> None:
    """A keeps p q r of six, B keeps q r s t, and u is B's alone: 2 of 6 kept by either are kept by both."""
    logits = some_logits(0, 1, 5, 3)
    a = make(tmp_path / "a", "pqrst", [0, 0, 1, 1, 2], logits, kept="pqr")
    b = make(tmp_path / "b", "qrstu", [1, 2, 2, 0, 2], logits, classes=("eel", "cat", "dog"), kept="qrstu")
    report = compared(a, b)
    kept = report["selections"]
    assert (kept["kept"], kept["both"], kept["jaccard"]) == ([3, 5], 2, 2 / 6)
    assert kept["only_a"] == {"count": 1, "first": ["p"]}
    assert kept["only_b"] == {"count": 3, "first": ["s", "t", "u"]}
    assert kept["per_class"] == [
        {"class": "cat", "a": 2, "b": 1, "both": 1},
        {"class": "dog", "a": 1, "b": 3, "both": 1},
        {"class": "eel", "a": 0, "b": 1, "both": 0},
    ]
    assert [view["samples"] for view in report["labels"]["views"]] == [2]


def test_teachers_and_settings(tmp_path: Path) -> None:
    logits = some_logits(0, 1, 2, 3)
    one = {"command": "score", "batch": {"size": 1, "seed": 5}, "only": True}
    other = {"command": "score", "batch": {"size": 2, "seed": 5}}
    a = make(tmp_path / "a", "pq", [0, 1], logits, config=one)
    b = make(tmp_path / "b", "pq", [0, 1], logits, config=other, teacher={"weights_sha256": "bb", "train_top1": 0.75})
    report = compared(a, b)
    assert report["teacher"] == {
        "same": False,
        "spec": ["net", "net"],
        "weights_sha256": ["aa", "bb"],
        "train_top1": [0.5, 0.75],
        "differing": [
            {"key": "weights_sha256", "a": "aa", "b": "bb"},
            {"key": "train_top1", "a": 0.5, "b": 0.75},
        ],
    }
    assert report["settings"] == [
        {"key": "config.batch.size", "a": 1, "b": 2},
        {"key": "config.only", "a": True, "b": None},
    ]
    c = make(tmp_path / "c", "pq", [0, 1], logits, config={"command": "merge", "parents": [], "batch": {"size": 3}})
    assert compared(a, c)["settings"] == [
        {"key": "config.command", "a": "score", "b": "merge"},
        {"key": "config.batch.size", "a": 1, "b": 3},
    ]


def test_many_parts_in_another_order_are_compared_row_by_row(tmp_path: Path) -> None:
    """17,000 samples whose keys have nothing in common, in reverse order: found by content, part by part."""
    count = 17_000
    ours = some_logits(4, 1, count, 2)
    keys = [f"{n:05d}" for n in range(count)]
    images = {f"{row:05d}": content(str(row)) for row in range(count)}
    renamed = [f"x{key}" for key in keys]
    theirs = {f"x{row:05d}": content(str(count - 1 - row)) for row in range(count)}
    label, classes = np.arange(count) % 2, ("cat", "dog")
    a = make(tmp_path / "a", keys, label, ours, classes=classes, contents=images)
    b = make(tmp_path / "b", renamed, label[::-1], ours[:, ::-1], classes=classes, contents=theirs)
    report = compared(a, b)
    assert report["data"]["common"] == count
    assert report["data"]["another_label"]["count"] == 0
    assert report["labels"]["views"] == [{"table": "logits/view-000", "samples": count, "kl_a_b": 0, "kl_b_a": 0}]
    assert {entry["spearman"] for entry in report["scores"]["common"] if entry["score"] != "teacher/correct"} == {1}
