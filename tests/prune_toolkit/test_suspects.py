"""`prune suspects`: by hand-worked values, by oracles, and on digits whose labels were disturbed."""

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_manifests import content, make
from PIL import Image
from scipy.stats import median_abs_deviation
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from tests_support import write_idx

import prune_toolkit as pt
from manifests.manifest import Manifest
from prune_toolkit.suspecting.copies import first_of_content, in_two_classes, nearest_before
from prune_toolkit.suspecting.mislabelled import is_mislabelled, modified_z

Run = Callable[..., subprocess.CompletedProcess[str]]
ZEROS = np.zeros(192, np.uint8)


def test_the_modified_z_score_is_that_of_the_class() -> None:
    # Class 0: median 2, deviations 1 0 1 2 12, MAD 1. Class 1: median 2, MAD 0, mean deviation 4 / 4 = 1.
    value_n = np.array([1, 2, 3, 4, -10, 2, 2, 2, -2], float)
    label_n = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
    z_n = modified_z(value_n, label_n)
    np.testing.assert_allclose(z_n[:5], 0.6745 * np.array([-1, 0, 1, 2, -12]))
    np.testing.assert_allclose(z_n[5:], np.array([0, 0, 0, -4]) / 1.253314)
    # -12 * 0.6745 = -8.1 is an outlier, -4 / 1.2533 = -3.2 is not.
    assert is_mislabelled(value_n, z_n).tolist() == [False] * 4 + [True] + [False] * 4
    # The same distances above zero: an outlier that still agrees with its label.
    assert not is_mislabelled(value_n + 20, modified_z(value_n + 20, label_n)).any()


def test_a_class_of_equal_values_has_no_outlier_and_nan_stays_unknown() -> None:
    z_n = modified_z(np.array([-5.0, -5.0, np.nan, 7.0]), np.array([0, 0, 0, 1]))
    assert np.array_equal(z_n, [0, 0, np.nan, 0], equal_nan=True)
    assert not is_mislabelled(np.array([-5.0, -5.0, np.nan, 7.0]), z_n).any()


@given(arrays.arrays(np.uint8, st.tuples(st.integers(0, 30), st.just(16)), elements=st.integers(0, 1)), st.data())
def test_contents_are_grouped_as_by_comparing_all_pairs(hash_N16: np.ndarray, data: st.DataObject) -> None:
    hash_N16[:, 2:] = 0
    label_N = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(hash_N16), max_size=len(hash_N16))), int)
    rows = [row.tobytes() for row in hash_N16]
    first_N = first_of_content(hash_N16)
    assert first_N.tolist() == [rows.index(row) for row in rows]
    assert in_two_classes(first_N, label_N).tolist() == [
        len({label for label, other in zip(label_N, rows, strict=True) if other == row}) > 1 for row in rows
    ]


def test_near_duplicates_are_those_of_all_pairs() -> None:
    generator = np.random.default_rng(0)
    base_nP = generator.integers(0, 256, (12, 192))
    noise_NP = generator.integers(-2, 3, (60, 192)) * (generator.random((60, 1)) < 0.8)
    thumbnail_NP = np.clip(base_nP[generator.integers(0, 12, 60)] + noise_NP, 0, 255).astype(np.uint8)
    other_N, difference_N = nearest_before(thumbnail_NP, 2.0)
    apart_NN = np.abs(thumbnail_NP[:, None].astype(int) - thumbnail_NP[None]).mean(axis=2)
    assert (apart_NN[np.tril_indices(60, -1)] == 0).any()
    for row in range(60):
        nearest = int(apart_NN[row, :row].argmin()) if row else -1
        if row and apart_NN[row, nearest] <= 2.0:
            assert other_N[row] == nearest
            assert difference_N[row] == pytest.approx(apart_NN[row, nearest], abs=1e-5)
        else:
            assert (other_N[row], difference_N[row]) == (-1, 0)
    assert (other_N >= 0).sum() > 20


def test_few_thumbnails_have_no_near_duplicates() -> None:
    assert nearest_before(np.zeros((0, 192), np.uint8))[0].tolist() == []
    assert nearest_before(ZEROS[None])[0].tolist() == [-1]
    assert nearest_before(np.stack([ZEROS, ZEROS]))[0].tolist() == [-1, 0]
    # 2 grey levels are the limit, and 3 are beyond it.
    assert nearest_before(np.stack([ZEROS, ZEROS + 2, ZEROS + 5]))[0].tolist() == [-1, 0, -1]


def margins(values: list[float]) -> np.ndarray:
    """Logits (1, N, 3) with these margins for LABELS; the best other class is the next one."""
    logits_NC = np.full((len(values), 3), -100.0)
    rows, label_N = np.arange(len(values)), np.array(LABELS)
    logits_NC[rows, label_N], logits_NC[rows, (label_N + 1) % 3] = values, 0.0
    return logits_NC[None]


KEYS = ["a1", "a2", "a3", "a4", "a5", "a6", "b1", "b2", "b3", "c1", "c2", "c3"]
LABELS = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
# The cats have median 3.5, deviations 1.5 .5 .5 1.5 12.5 .5, MAD 1: z = 0.6745 * -12.5 = -8.431 of the fifth.
VALUES = [2, 3, 4, 5, -9, 4, 6, 6, 6, 7, 7, 7]
SAME = {"a2": content("a1"), "b2": content("a3"), "b3": content("a3"), "c2": content("c1"), "c3": content("c1")}


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make(tmp_path / "m", KEYS, LABELS, margins(VALUES), contents=SAME, unreadable=["c3"])


def test_every_kind_is_listed_with_its_other_key(manifest: Manifest) -> None:
    found = pt.suspects(manifest)
    assert found.judged_by == "teacher/margin"
    assert [tuple(row.values()) for row in found.rows.to_pylist()] == [
        (4, "a5", "cat", "mislabelled", -8.431, "", "dog"),
        (2, "a3", "cat", "two classes", None, "b2", "dog"),
        (7, "b2", "dog", "two classes", None, "a3", "cat"),
        (8, "b3", "dog", "two classes", None, "a3", "cat"),
        (1, "a2", "cat", "duplicate", None, "a1", ""),
        # c3 has this content too, but cannot be read.
        (10, "c2", "eel", "duplicate", None, "c1", ""),
    ]
    assert found.counts == {"mislabelled": 1, "two classes": 3, "duplicate": 2}
    assert list(found.not_looked_for) == ["near duplicate", "leaked"]
    assert len(found.to_pandas()) == 6


def test_the_aum_is_preferred_and_needs_no_logits(tmp_path: Path) -> None:
    # The values of the cats, now with the fifth first.
    aum_N = [-9, 3, 4, 5, 2, 4, 6, 6, 6, 7, 7, 7]
    both = make(tmp_path / "both", KEYS, LABELS, margins(VALUES), sets={"dynamics": {"aum": aum_N}})
    found = pt.suspects(both)
    assert (found.judged_by, found.first("mislabelled")) == ("dynamics/aum", ["a1"])
    # What is suggested comes from the teacher.
    assert found.of("mislabelled").column("suggested_class").to_pylist() == ["dog"]
    alone = pt.suspects(make(tmp_path / "alone", KEYS, LABELS, sets={"dynamics": {"aum": aum_N}}))
    assert alone.of("mislabelled").to_pylist()[0] == {
        "sample_id": 0, "key": "a1", "class": "cat", "reason": "mislabelled", "score": -8.431, "other_key": "",
        "suggested_class": "",
    }  # fmt: skip


def test_an_index_has_its_copies_listed_and_the_rest_is_told(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "index", KEYS, LABELS, contents=SAME)
    told = prune("suspects", "index", cwd=tmp_path)
    assert told.stdout.splitlines() == [
        "index: 12 readable samples",
        "suspects     samples  first",
        "two classes        3  a3, b2, b3",
        "duplicate          3  a2, c2, c3",
    ]
    assert told.stderr.splitlines() == [
        "mislabelled: not looked for; no margin or AUM is stored: prune score --teacher TEACHER, or --dynamics RUN",
        "near duplicate: not looked for; no thumbnails are stored: prune index --thumbnails, before scoring",
        "leaked: not looked for; name the validation images: --val DATA",
    ]


def test_the_file_has_all_rows_and_the_same_bytes(manifest: Manifest, tmp_path: Path, prune: Run) -> None:
    told = prune("suspects", "m", "--out", "s.csv", cwd=tmp_path)
    assert told.stdout.splitlines()[-2:] == [
        "s.csv: 6 rows",
        "next: prune select m --keep 0.5 --without-suspects",
    ]
    assert "mislabelled: teacher/margin is below 0, and its modified z-score within the class below -3.5" in told.stderr
    first = (tmp_path / "s.csv").read_bytes()
    rows = list(csv.reader(first.decode().splitlines()))
    assert rows[:2] == [
        ["sample_id", "key", "class", "reason", "score", "other_key", "suggested_class"],
        ["4", "a5", "cat", "mislabelled", "-8.431", "", "dog"],
    ]
    assert len(rows) == 7
    report = json.loads(prune("suspects", "m", "--out", "t.csv", "--json", cwd=tmp_path).stdout)
    assert (tmp_path / "t.csv").read_bytes() == first
    assert report["counts"] == {"mislabelled": 1, "two classes": 3, "duplicate": 2}
    prune("suspects", "m", "--out", "s.csv", cwd=tmp_path)
    (tmp_path / "s.csv").write_text("my notes\n")
    assert "s.csv already exists" in prune("suspects", "m", "--out", "s.csv", cwd=tmp_path, code=2).stderr
    assert (tmp_path / "s.csv").read_text() == "my notes\n"
    assert report["first"]["two classes"] == ["a3", "b2", "b3"]
    assert (report["manifest"], report["samples"], report["judged_by"]) == (manifest.id, 11, "teacher/margin")


def picture(path: Path, value: int, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), value).save(path)


def test_near_duplicates_and_leaks_of_real_files(tmp_path: Path, prune: Run) -> None:
    for number, value in enumerate((10, 90, 170, 250)):
        picture(tmp_path / "train" / "ab"[number % 2] / f"{number}.png", value)
    picture(tmp_path / "train" / "b" / "again.bmp", 10)
    # Two of the validation images are training images, one of them under another name and in another class.
    for name, value in (("a/0", 10), ("b/x", 170), ("a/y", 33)):
        picture(tmp_path / "held" / f"{name}.png", value)
    prune("index", "train", "--thumbnails", "-o", "index", cwd=tmp_path)
    told = prune("suspects", "index", "--val", "held", "--out", "s.csv", cwd=tmp_path)
    assert "index: 5 readable samples, and 3 validation images" in told.stdout
    rows = list(csv.reader((tmp_path / "s.csv").read_text().splitlines()))
    assert [row[1:] for row in rows[1:]] == [
        ["b/again.bmp", "b", "near duplicate", "0", "a/0.png", "a"],
        ["a/0.png", "a", "leaked", "", "a/0.png", ""],
        ["a/2.png", "a", "leaked", "", "b/x.png", ""],
    ]
    assert pt.suspects(tmp_path / "index", tmp_path / "held").counts["leaked"] == 2


def test_files_and_pixels_are_told_apart(tmp_path: Path, prune: Run) -> None:
    images = np.arange(10 * 64).reshape(10, 8, 8).astype(np.uint8)
    write_idx(tmp_path / "arrays", images, np.arange(10) % 2)
    for number in range(10):
        picture(tmp_path / "files" / str(number % 2) / f"{number}.png", number)
    prune("index", "files", "-o", "index", cwd=tmp_path)
    prune("index", "arrays", "-o", "raw", cwd=tmp_path)
    told = prune("suspects", "index", "--val", "arrays", "--val-split", "train", cwd=tmp_path)
    assert "leaked: index was made of files, arrays of pixels: equal images do not match" in told.stderr
    told = prune("suspects", "raw", "--val", "files", cwd=tmp_path)
    assert "leaked: raw was made of pixels, files of files: equal images do not match" in told.stderr
    told = prune("suspects", "raw", "--val", "arrays", "--val-split", "train", "--json", cwd=tmp_path)
    assert json.loads(told.stdout)["counts"]["leaked"] == 10
    assert "equal images" not in told.stderr


def test_a_hidden_manifest_needs_its_secret_for_leaks_alone(tmp_path: Path, prune: Run) -> None:
    for number in range(4):
        picture(tmp_path / "train" / "ab"[number % 2] / f"{number}.png", number // 2)
    prune("index", "train", "-o", "index", cwd=tmp_path)
    (tmp_path / "secret").write_text("a secret of many characters, known to few\n")
    prune("push", "index", "hidden", "--secret", "secret", cwd=tmp_path)
    report = json.loads(prune("suspects", "hidden", "--json", cwd=tmp_path).stdout)
    assert report["counts"] == {"two classes": 4, "duplicate": 0}
    assert "--secret FILE" in prune("suspects", "hidden", "--val", "train", cwd=tmp_path, code=2).stderr
    told = prune("suspects", "hidden", "--val", "train", "--secret", "secret", "--json", cwd=tmp_path)
    assert json.loads(told.stdout)["counts"]["leaked"] == 4


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--val-split", "test"), "--val-split needs --val"),
        (("--label", "fine"), "--label needs --val"),
        (("--out", "m"), "--out m is a folder"),
    ],
)
def test_what_has_no_meaning_is_refused(
    manifest: Manifest, tmp_path: Path, prune: Run, arguments: tuple[str, ...], why: str
) -> None:
    assert why in prune("suspects", "m", *arguments, cwd=tmp_path, code=2).stderr


def outliers(margin_N: np.ndarray, label_N: np.ndarray) -> set[int]:
    """The rule with scipy's MAD."""
    found = set()
    for c in np.unique(label_N):
        ids, own_n = np.flatnonzero(label_N == c), margin_N[label_N == c]
        z_n = 0.6745 * (own_n - np.median(own_n)) / median_abs_deviation(own_n)
        found |= set(ids[(z_n < -3.5) & (own_n < 0)].tolist())
    return found


def test_disturbed_labels_of_digits_are_found(tmp_path: Path) -> None:
    pixels, truth_N = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    label_N, count = truth_N.copy(), len(truth_N)
    flipped = generator.choice(count, count // 20, replace=False)
    label_N[flipped] = (truth_N[flipped] + generator.integers(1, 10, len(flipped))) % 10
    # The network is another one than ours, and has not seen the samples that it judges.
    logits_NC = cross_val_predict(
        LogisticRegression(C=0.1, max_iter=300), pixels / 16, label_N, cv=3, method="decision_function"
    )
    keys = [f"{row:05}" for row in range(count)]
    manifest = make(tmp_path / "m", keys, label_N.tolist(), logits_NC[None], classes=list("0123456789"))
    rows = pt.suspects(manifest).of("mislabelled").to_pylist()
    found = [row["sample_id"] for row in rows]
    stored_NC = np.asarray(logits_NC, np.float16).astype(float)
    others_NC = np.where(np.eye(10, dtype=bool)[label_N], -np.inf, stored_NC)
    assert set(found) == outliers(stored_NC[np.arange(count), label_N] - others_NC.max(axis=1), label_N)
    assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)
    assert [row["suggested_class"] for row in rows] == [str(c) for c in others_NC[found].argmax(axis=1)]
    right = len(set(found) & set(flipped.tolist()))
    assert right / len(found) > 0.85
    assert right / len(flipped) > 0.7
    assert np.mean([int(row["suggested_class"]) == truth_N[row["sample_id"]] for row in rows]) > 0.75


def test_disturbed_labels_are_found_by_an_aum_against_an_oracle(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    label_N, wrong_N = generator.integers(0, 3, 900), np.arange(900) % 20 == 0
    aum_N = generator.normal(np.where(wrong_N, -5, 5), 1.5 + label_N)
    manifest = make(tmp_path / "m", [f"{row:03}" for row in range(900)], label_N, sets={"dynamics": {"aum": aum_N}})
    expected = outliers(aum_N.astype(np.float32).astype(float), label_N)
    assert set(pt.suspects(manifest).of("mislabelled").column("sample_id").to_pylist()) == expected
    assert 20 < len(expected) <= wrong_N.sum() + 3
