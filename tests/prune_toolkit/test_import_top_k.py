"""`prune import FILE --logits` of outputs in other forms: the K largest, probabilities, several views."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_manifests import make
from scipy.special import log_softmax, logsumexp, softmax

from manifests.format.top_k import TopK
from manifests.integrity import verify
from manifests.manifest import Manifest

CLASSES, K = 6, 3
KEYS = [f"{number}.png" for number in range(5)]
LABELS = [0, 1, 2, 3, 4]
LOGITS = np.random.default_rng(0).normal(0, 2, (5, CLASSES))
IDS = np.argsort(-LOGITS, axis=1)[:, :K]
LARGEST = np.take_along_axis(LOGITS, IDS, axis=1)
FLAGS = ("--logits", "--teacher-name", "T", "--image-size", "32")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return make(tmp_path / "index", KEYS, LABELS, classes=tuple("abcdef")).folder


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "t.npz", **arrays)
    return folder / "t.npz"


def stored(folder: Path) -> TopK:
    [(ids, labels)] = Manifest.open(folder).soft_labels("logits")
    assert ids.tolist() == list(range(5))
    assert isinstance(labels, TopK)
    return labels


def even(p_nC: np.ndarray) -> np.ndarray:
    """Probabilities of which all but the K largest are evened out: the oracle."""
    flat = np.repeat((1 - np.take_along_axis(p_nC, IDS, 1).sum(1))[:, None] / (CLASSES - K), CLASSES, axis=1)
    np.put_along_axis(flat, IDS, np.take_along_axis(p_nC, IDS, 1), 1)
    return flat


P = softmax(LOGITS, axis=1)
P_K = np.take_along_axis(P, IDS, 1)
SAID = {
    "probabilities": ({"values": P_K}, ("--values", "probabilities")),
    "log-probabilities": ({"values": np.log(P_K)}, ()),
    "logits": ({"values": LARGEST, "lse": logsumexp(LOGITS, axis=1)}, ()),
}


@pytest.mark.parametrize("kind", SAID)
def test_every_kind_of_values_gives_the_same_probabilities(prune: Run, index: Path, tmp_path: Path, kind: str) -> None:
    arrays, flags = SAID[kind]
    path, out = npz(tmp_path, ids=IDS, **arrays), tmp_path / "out"
    told = prune("import", path, index, *FLAGS, *flags, "-o", out).stderr
    assert "share what is left evenly" in told
    assert (f"is taken to hold {kind} at temperature 1" in told) == (not flags)
    labels, manifest = stored(out), Manifest.open(out)
    assert labels.class_nK.tolist() == IDS.tolist()
    for temperature in (0.5, 1.0, 3.0):
        expected = softmax(np.log(even(P)) / temperature, axis=1)
        np.testing.assert_allclose(softmax(labels.logits(temperature) / temperature, axis=1), expected, rtol=1e-2)
    assert manifest.header.views is not None
    assert manifest.header.views.top_k == K
    loss = -np.log(even(P))[np.arange(5), LABELS]
    np.testing.assert_allclose(manifest.scores().column("loss"), loss, rtol=1e-2)
    z_nC = np.log(even(P))
    z_nC += (labels.logit_nK[:, 0] - z_nC.max(axis=1))[:, None]
    np.testing.assert_allclose(labels.mean_n, z_nC.mean(axis=1), atol=5e-3)
    np.testing.assert_allclose(labels.std_n, z_nC.std(axis=1, ddof=1), atol=5e-3)
    np.testing.assert_allclose(labels.label_logit_n, z_nC[np.arange(5), LABELS], atol=5e-3)
    assert verify(out).ok


def test_a_row_by_hand(prune: Run, tmp_path: Path) -> None:
    """p = .5, .3 of classes 3, 1; .2 is left for two. log .5 = -.6931, log .3 = -1.2040, log .1 = -2.3026."""
    index = make(tmp_path / "index", ["a"], [0], classes=tuple("wxyz")).folder
    path = npz(tmp_path, ids=np.array([[1, 3]]), values=np.array([[0.3, 0.5]]))
    prune("import", path, index, *FLAGS, "--values", "probabilities", "-o", tmp_path / "out")
    [(_, labels)] = Manifest.open(tmp_path / "out").soft_labels("logits")
    assert isinstance(labels, TopK)
    assert labels.class_nK.tolist() == [[3, 1]]
    np.testing.assert_allclose(labels.logit_nK, [[-0.6931, -1.2040]], atol=1e-3)
    # log 2 + -2.3026 / T at T = .5, 1, 2, 4.
    np.testing.assert_allclose(labels.tail_n4, [[-3.9120, -1.6094, -0.4581, 0.1175]], atol=1e-4)
    np.testing.assert_allclose(labels.label_logit_n, [-2.3026], atol=2e-3)
    # (-.6931 - 1.2040 - 2.3026 * 2) / 4; deviations .9325, .4216, -.6770 twice: sqrt(1.9640 / 3).
    np.testing.assert_allclose(labels.mean_n, [-1.6256], atol=1e-3)
    np.testing.assert_allclose(labels.std_n, [0.8091], atol=1e-3)


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_other_files_hold_the_same(prune: Run, index: Path, tmp_path: Path, form: str) -> None:
    largest, total = LARGEST.astype(np.float32), logsumexp(LOGITS, axis=1).astype(np.float32)
    prune("import", npz(tmp_path, ids=IDS, values=largest, lse=total), index, *FLAGS, "-o", tmp_path / "npz")
    if form == "npy":
        for name, array in (("v", largest), ("i", IDS), ("t", total)):
            np.save(tmp_path / f"{name}.npy", array)
        path, flags = tmp_path / "v.npy", ("--ids", tmp_path / "i.npy", "--lse", tmp_path / "t.npy")
    else:
        path, flags = tmp_path / "t.parquet", ("--ids", "top", "--tensor", "z")
        rows = [3, 0, 4, 1, 2]
        table = {
            "key": [KEYS[row] for row in rows],
            "top": IDS[rows].tolist(),
            "z": pa.array(largest[rows].tolist(), pa.list_(pa.float32(), K)),
            "lse": total[rows],
        }
        pq.write_table(pa.table(table), path)
    prune("import", path, index, *FLAGS, *flags, "-o", tmp_path / "out")
    np.testing.assert_array_equal(stored(tmp_path / "out").words(), stored(tmp_path / "npz").words())


def test_classes_in_another_order_are_named(prune: Run, index: Path, tmp_path: Path) -> None:
    """Their class 0 is our f, and so on."""
    (tmp_path / "names.txt").write_text("f\ne\nd\nc\nb\na\n")
    path = npz(tmp_path, ids=5 - IDS, values=np.log(P_K))
    prune("import", path, index, *FLAGS, "--outputs", tmp_path / "names.txt", "-o", tmp_path / "out")
    assert stored(tmp_path / "out").class_nK.tolist() == IDS.tolist()


def test_what_is_left_is_told_where_the_values_do_not_say_it(prune: Run, index: Path, tmp_path: Path) -> None:
    renormalised = npz(tmp_path, ids=IDS, values=P_K / P_K.sum(axis=1, keepdims=True))
    words = ("import", renormalised, index, *FLAGS)
    assert "probabilities that add up to 1: they do not say" in prune(*words, "-o", tmp_path / "x", code=2).stderr
    prune(*words, "--rest", "0.01", "-o", tmp_path / "some")
    share = softmax(stored(tmp_path / "some").logits(), axis=1)
    np.testing.assert_allclose(share.sum(axis=1) - np.take_along_axis(share, IDS, 1).sum(axis=1), 0.01, rtol=1e-2)
    prune(*words, "--rest", "0", "-o", tmp_path / "none")
    for temperature in (1.0, 4.0, 20.0):
        p_nC = softmax(stored(tmp_path / "none").logits(temperature) / temperature, axis=1)
        np.testing.assert_allclose(np.take_along_axis(p_nC, IDS, 1).sum(axis=1), 1, atol=1e-6)
    logits = npz(tmp_path, ids=IDS, values=LARGEST)
    told = prune("import", logits, index, *FLAGS, "-o", tmp_path / "y", code=2).stderr
    assert "logits without the log-sum-exp of all classes" in told
    prune("import", logits, index, *FLAGS, "--rest", "0.01", "-o", tmp_path / "z")
    np.testing.assert_allclose(
        stored(tmp_path / "z").tail_n4,
        stored(tmp_path / "some").tail_n4 + (logsumexp(LARGEST, axis=1)[:, None] / [0.5, 1, 2, 4]),
        atol=1e-5,
    )


SMALL = np.full((5, K), 0.1)


@pytest.mark.parametrize(
    ("arrays", "flags", "code", "message"),
    [
        ({"ids": IDS, "values": P_K}, (), 2, "--values probabilities or --values logits"),
        ({"ids": IDS, "values": P_K}, ("--values", "probabilities", "--rest", "0.1"), 2, "the file says it itself"),
        ({"ids": IDS, "values": P_K}, ("--rest", "1"), 2, "from 0 to below 1"),
        ({"ids": IDS, "values": LARGEST}, ("--values", "probabilities"), 3, "not all rows hold probabilities"),
        ({"ids": IDS, "values": LARGEST + 9}, ("--values", "log-probabilities"), 3, "not all rows hold log-prob"),
        ({"ids": IDS, "values": SMALL}, ("--values", "probabilities"), 3, "0.7 is left for 3 classes"),
        ({"ids": IDS + 4, "values": np.log(P_K)}, (), 4, "are not all of the 6, from 0"),
        ({"ids": IDS * 0, "values": np.log(P_K)}, (), 3, "a class is there twice"),
        ({"ids": IDS[:4], "values": np.log(P_K)[:4]}, (), 4, "has rows of 4 samples"),
        ({"ids": IDS[:, :2], "values": LARGEST}, (), 3, "both of shape (N, K)"),
        ({"ids": IDS.astype(float), "values": LARGEST}, (), 3, "both of shape (N, K)"),
        ({"ids": IDS, "values": LARGEST, "lse": LARGEST}, (), 3, "expected floats (N,)"),
        ({"ids": IDS, "values": np.full((5, K), np.nan)}, ("--rest", "0"), 3, "logit 0 is nan"),
        ({"classes": IDS, "values": LARGEST}, (), 2, "has no 'ids'"),
        ({"ids": np.tile(np.arange(6), (5, 1)), "values": LOGITS}, ("--rest", "0"), 4, "6 values per row of 6 classes"),
        ({"ids": IDS, "values": np.log(P_K)}, ("--view", "0"), 2, "several views cannot be averaged"),
        ({"ids": IDS, "values": P_K, "lse": P_K[:, 0]}, ("--values", "probabilities"), 2, "log-sum-exps, which are of"),
    ],
)
def test_top_k_labels_that_do_not_fit_are_refused(
    prune: Run, index: Path, tmp_path: Path, arrays: dict[str, Any], flags: tuple[str, ...], code: int, message: str
) -> None:
    told = prune("import", npz(tmp_path, **arrays), index, *FLAGS, *flags, "-o", tmp_path / "out", code=code).stderr
    assert message in told
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_student_is_taught_the_top_k_labels(prune: Run, index: Path, tmp_path: Path) -> None:
    prune("import", npz(tmp_path, ids=IDS, values=np.log(P_K)), index, *FLAGS, "-o", tmp_path / "m")
    prune("select", tmp_path / "m", "--keep", "1", "--no-beton", "-o", tmp_path / "s")
    header = Manifest.open(tmp_path / "s").header
    assert header.labels is not None
    assert (header.labels.top_k, header.labels.policy) == (K, "single")


def full(folder: Path, name: str, array: np.ndarray) -> Path:
    np.save(folder / name, array)
    return folder / name


def dense(folder: Path) -> np.ndarray:
    [(_, logits)] = Manifest.open(folder).logits()
    return logits


def test_probabilities_of_all_classes_become_logits(prune: Run, index: Path, tmp_path: Path) -> None:
    path = full(tmp_path, "p.npy", P)
    told = prune("import", path, index, *FLAGS, "-o", tmp_path / "out").stderr
    assert "p.npy is taken to hold probabilities at temperature 1 (--values says otherwise)" in told
    np.testing.assert_array_equal(dense(tmp_path / "out"), log_softmax(LOGITS, axis=1).astype(np.float16))
    sure = full(tmp_path, "sure.npy", np.eye(6)[LABELS])
    prune("import", sure, index, *FLAGS, "--values", "probabilities", "-o", tmp_path / "sure")
    assert dense(tmp_path / "sure")[1].tolist() == [-1000, 0, -1000, -1000, -1000, -1000]
    prune("import", sure, index, *FLAGS, "--values", "logits", "-o", tmp_path / "ones")
    assert dense(tmp_path / "ones")[1].tolist() == [0, 1, 0, 0, 0, 0]


VIEWS = np.stack([LOGITS, LOGITS + 1, LOGITS * 3], axis=1)


def test_the_mean_of_several_views_is_the_label_of_the_image(prune: Run, index: Path, tmp_path: Path) -> None:
    path, mean = full(tmp_path, "views.npy", VIEWS), VIEWS.mean(axis=1).astype(np.float16)
    told = prune("import", path, index, *FLAGS, "-o", tmp_path / "mean").stderr
    assert "views.npy holds 3 views: their mean becomes the label of the whole image" in told
    np.testing.assert_array_equal(dense(tmp_path / "mean"), mean)
    views = Manifest.open(tmp_path / "mean").header.views
    assert views is not None
    assert (views.count, views.recipe) == (1, "eval")
    told = prune("import", path, index, *FLAGS, "--view", "2", "-o", tmp_path / "one").stderr
    assert "mean" not in told
    np.testing.assert_array_equal(dense(tmp_path / "one"), VIEWS[:, 2].astype(np.float16))
    first, *more = (full(tmp_path, f"v{view}.npy", VIEWS[:, view]) for view in range(3))
    flags = [word for path in more for word in ("--view-file", path)]
    prune("import", first, index, *FLAGS, *flags, "-o", tmp_path / "files")
    np.testing.assert_array_equal(dense(tmp_path / "files"), mean)


def test_views_with_keys_are_of_the_same_rows(prune: Run, index: Path, tmp_path: Path) -> None:
    for view, rows in ((0, [2, 0, 1, 4, 3]), (1, [2, 0, 1, 4, 3]), (2, [0, 1, 2, 3, 4])):
        table = pa.table({"key": [KEYS[row] for row in rows], "z": VIEWS[rows, view].tolist()})
        pq.write_table(table, tmp_path / f"{view}.parquet")
    words = ("import", tmp_path / "0.parquet", index, *FLAGS, "--view-file")
    prune(*words, tmp_path / "1.parquet", "-o", tmp_path / "out")
    np.testing.assert_array_equal(dense(tmp_path / "out"), VIEWS[:, :2].mean(axis=1).astype(np.float16))
    told = prune(*words, tmp_path / "2.parquet", "-o", tmp_path / "x", code=4).stderr
    assert "do not hold one view each of the same rows" in told


def test_options_of_views_that_do_not_fit_are_refused(prune: Run, index: Path, tmp_path: Path) -> None:
    one, three = full(tmp_path, "one.npy", LOGITS), full(tmp_path, "three.npy", VIEWS)
    for path, flags, code, message in (
        (one, ("--view", "0"), 2, "holds 1 view, from 0"),
        (three, ("--view", "3"), 2, "holds 3 views, from 0"),
        (one, ("--view-file", three), 4, "do not hold one view each"),
        (one, ("--view-file", tmp_path / "absent.npy"), 3, "absent.npy: no such file"),
        (one, ("--rest", "0.1"), 2, "one.npy holds all classes"),
        (one, ("--ids", tmp_path / "absent.npy"), 3, "absent.npy: no such file"),
    ):
        assert message in prune("import", path, index, *FLAGS, *flags, "-o", tmp_path / "x", code=code).stderr
