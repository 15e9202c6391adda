"""`prune import FILE --logits`: what a teacher said elsewhere becomes a scored manifest."""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_manifests import make
from safetensors.numpy import save_file
from scipy.special import log_softmax

from manifests.integrity import verify
from manifests.manifest import Manifest

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "1.2"
INDEX = GOLDEN / "index"
SAMPLES = Manifest.open(INDEX).samples()
KEYS, LABELS = SAMPLES.column("key").to_pylist(), SAMPLES.column("label").to_numpy()
READABLE = np.flatnonzero(SAMPLES.column("problem").is_null().to_numpy(zero_copy_only=False))
ORDER = np.random.default_rng(1).permutation(13)
LOGITS = np.random.default_rng(0).normal(0, 3, (13, 3)).astype(np.float32)
FLAGS = ("--logits", "--teacher-name", "ViT-H of elsewhere", "--image-size", "224")
Run = Callable[..., subprocess.CompletedProcess[str]]


def written(folder: Path, form: str, logits: np.ndarray = LOGITS) -> Path:
    """The same logits in each form: rows in the order of keys, or with their keys in any order."""
    path = folder / form
    match form.partition(".")[2]:
        case "npy":
            np.save(path, logits[READABLE] if form.startswith("readable") else logits)
        case "safetensors":
            save_file({"logits": np.ascontiguousarray(logits)}, path)
        case "parquet":
            rows = ORDER[ORDER != 4]
            values = pa.array(logits[rows].tolist(), pa.list_(pa.float32()))
            if form.startswith("fixed"):
                values = values.cast(pa.list_(pa.float32(), logits.shape[1]))
            keys = pa.array([KEYS[row] for row in rows])
            pq.write_table(pa.table({"key": keys, "z": values}), path, row_group_size=5)
    return path


@pytest.mark.parametrize("form", ["all.npy", "readable.npy", "x.safetensors", "x.parquet", "fixed.parquet"])
def test_every_form_makes_the_same_scored_manifest(prune: Run, tmp_path: Path, form: str) -> None:
    path, out = written(tmp_path, form), tmp_path / "out"
    told = prune("import", path, INDEX, *FLAGS, "-o", out).stdout
    manifest = Manifest.open(out)
    [(ids, logits)] = manifest.logits()
    assert ids.tolist() == READABLE.tolist()
    np.testing.assert_array_equal(logits, LOGITS[READABLE].astype(np.float16))
    label = LABELS[READABLE]
    loss = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(12), label]
    np.testing.assert_allclose(manifest.scores().column("loss"), loss, rtol=1e-6)
    card, top1 = manifest.header.teacher, float((logits.argmax(axis=1) == label).mean())
    assert card is not None
    assert card.spec == "ViT-H of elsewhere"
    assert card.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card.train_top1 == pytest.approx(top1)
    assert f"top-1 {100 * top1:.2f} %" in told
    assert (card.preprocessing.image_px, card.preprocessing.resize_px) == (224, 256)
    assert manifest.header.parents == [Manifest.open(INDEX).id]
    assert verify(out).ok


def test_it_is_selected_from_with_its_labels(prune: Run, tmp_path: Path) -> None:
    prune("import", written(tmp_path, "all.npy"), INDEX, *FLAGS, "-o", tmp_path / "m")
    prune("select", tmp_path / "m", "--keep", "0.5", "--labels", "raw", "--no-beton", "-o", tmp_path / "s")
    [(ids, targets)] = Manifest.open(tmp_path / "s").targets()
    np.testing.assert_array_equal(targets, LOGITS[ids].astype(np.float16))


def test_columns_in_another_order_are_put_into_that_of_the_classes(prune: Run, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("c-blue\na-red\nb-green\nnobody\n")
    theirs = np.column_stack([LOGITS[:, [2, 0, 1]], np.full(13, 99.0)]).astype(np.float32)
    path = written(tmp_path, "all.npy", theirs)
    prune("import", path, INDEX, *FLAGS, "--outputs", tmp_path / "names.txt", "-o", tmp_path / "m")
    manifest = Manifest.open(tmp_path / "m")
    [(_, logits)] = manifest.logits()
    np.testing.assert_array_equal(logits, LOGITS[READABLE].astype(np.float16))
    assert manifest.header.teacher is not None
    assert manifest.header.teacher.output_map == [1, 2, 0]
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\nnobody\n")
    told = prune("import", path, INDEX, *FLAGS, "--outputs", tmp_path / "names.txt", "-o", tmp_path / "x", code=4)
    assert "names.txt names no output for 3 of 3 classes: a-red, b-green, c-blue" in told.stderr


def test_too_few_names_of_columns_are_told_as_such(prune: Run, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("c-blue\na-red\nb-green\nnobody\n")
    flags = (*FLAGS, "--outputs", tmp_path / "names.txt")
    told = prune("import", written(tmp_path, "all.npy"), INDEX, *flags, "-o", tmp_path / "x", code=4).stderr
    assert "all.npy has logits of 3 classes, --outputs names 4" in told


def test_logits_of_one_teacher_in_two_files_are_merged_by_its_weights(prune: Run, tmp_path: Path) -> None:
    weights = hashlib.sha256(b"its weights").hexdigest()
    out = {name: tmp_path / name for name in ("one", "two", "merged")}
    for row, name, says in ((0, "one", weights), (1, "two", weights.upper())):
        index = make(tmp_path / f"index-{name}", [f"{name}.png"], [0])
        np.save(tmp_path / f"{name}.npy", LOGITS[[row]])
        words = ("import", tmp_path / f"{name}.npy", index.folder, *FLAGS, "--weights-sha256", says, "-o", out[name])
        prune(*words)
        np.save(tmp_path / f"{name}.npy", LOGITS[[5]])
        assert "file_sha256 differ" in prune(*words, code=2).stderr
    prune("merge", out["one"], out["two"], "-o", out["merged"])
    card = Manifest.open(out["merged"]).header.teacher
    assert card is not None
    assert card.weights_sha256 == weights
    for wrong in ("", "abc", weights + "0", "g" * 64):
        told = prune(*words[:-1], tmp_path / "x", "--weights-sha256", wrong, code=2).stderr
        assert "64 lower-case hexadecimal digits" in told


@pytest.mark.parametrize(("right", "warns"), [(5, True), (7, False)])
def test_a_teacher_of_two_classes_is_doubted_near_one_half(prune: Run, tmp_path: Path, right: int, warns: bool) -> None:
    """5 and 7 of 10 are right."""
    make(tmp_path / "index", "abcdefghij", [0, 1] * 5, classes=("cat", "dog"))
    said = np.arange(10) % 2 ^ (np.arange(10) >= right)
    np.save(tmp_path / "l.npy", 4 * np.eye(2, dtype=np.float32)[said])
    told = prune("import", tmp_path / "l.npy", tmp_path / "index", *FLAGS, "-o", tmp_path / "m")
    assert f"top-1 {10 * right:.2f} %" in told.stdout
    assert ("about chance" in told.stderr) == warns


def with_value(value: float) -> np.ndarray:
    logits = LOGITS.copy()
    logits[7, 1] = value
    return logits


@pytest.mark.parametrize(
    ("logits", "code", "message"),
    [
        (LOGITS[:10], 4, "10 samples, "),
        (LOGITS[:, :2], 4, "2 classes"),
        (with_value(np.nan), 3, f"sample {KEYS[7]}: logit 1 is nan"),
        (with_value(1e6), 3, f"sample {KEYS[7]}: a logit of 1e+06 does not fit float16"),
        (LOGITS.astype(np.int64), 3, "logits are floats of shape"),
        (LOGITS[0], 3, "logits are floats of shape"),
    ],
)
def test_logits_that_do_not_fit_are_refused(
    prune: Run, tmp_path: Path, logits: np.ndarray, code: int, message: str
) -> None:
    np.save(tmp_path / "l.npy", logits)
    told = prune("import", tmp_path / "l.npy", INDEX, *FLAGS, "-o", tmp_path / "out", code=code).stderr
    assert message in told
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_archive_of_arrays_is_no_array(prune: Run, tmp_path: Path) -> None:
    with (tmp_path / "l.npy").open("wb") as stream:
        np.savez(stream, logits=LOGITS)
    told = prune("import", tmp_path / "l.npy", INDEX, *FLAGS, "-o", tmp_path / "out", code=3).stderr
    assert "an archive of arrays" in told


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def same_names(path: Path, rows: list[list[float]]) -> Path:
    pq.write_table(pa.table([KEYS, KEYS, rows], names=["key", "key", "z"]), path)
    return path


def test_files_that_say_too_little_or_too_much_are_refused(prune: Run, tmp_path: Path) -> None:
    rows = LOGITS.tolist()
    out = ("-o", tmp_path / "out")
    two = tmp_path / "two.safetensors"
    save_file({"a": LOGITS, "b": LOGITS}, two)
    for path, flags, code, message in (
        (two, (), 2, "--tensor a or b"),
        (written(tmp_path, "x.safetensors"), ("--tensor", "y"), 2, "--tensor logits"),
        (parquet(tmp_path / "nokey.parquet", z=rows), (), 2, "has no column 'key'"),
        (same_names(tmp_path / "same.parquet", rows), (), 3, "2 columns named 'key'"),
        (parquet(tmp_path / "nolist.parquet", key=KEYS), (), 2, "name the column of lists with the logits"),
        (parquet(tmp_path / "short.parquet", key=KEYS[:9], z=rows[:9]), (), 4, "no logits for 4 of 13 samples"),
        (
            parquet(tmp_path / "twice.parquet", key=[*KEYS, KEYS[0]], z=[*rows, rows[1]]),
            (),
            3,
            f"two different rows for {KEYS[0]}",
        ),
        (parquet(tmp_path / "odd.parquet", key=KEYS, z=[*rows[:-1], [1.0]]), (), 3, "do not all have 3 values"),
        (tmp_path / "absent.npy", (), 3, "no such file"),
        (parquet(tmp_path / "x.csv", key=KEYS), (), 2, "logits can be read from .npy"),
    ):
        assert message in prune("import", path, INDEX, *FLAGS, *flags, *out, code=code).stderr
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 100)
    prune("import", tmp_path / "broken.safetensors", INDEX, *FLAGS, *out, code=3)
    path = written(tmp_path, "all.npy")
    assert "--teacher-name or --image-size is missing" in prune("import", path, INDEX, "--logits", *out, code=2).stderr
    assert "is scored already" in prune("import", path, GOLDEN / "scores", *FLAGS, *out, code=2).stderr


def test_equal_rows_of_a_sample_are_no_fault(prune: Run, tmp_path: Path) -> None:
    """Those of row 4, which cannot be read, may be anything."""
    rows = [*range(13), 0, 12, 0, 4]
    logits = [*LOGITS[rows[:-1]].tolist(), [0.0, 0.0, 0.0]]
    path = parquet(tmp_path / "twice.parquet", key=[KEYS[row] for row in rows], z=logits)
    prune("import", path, INDEX, *FLAGS, "-o", tmp_path / "out")
    [(_, found)] = Manifest.open(tmp_path / "out").logits()
    np.testing.assert_array_equal(found, LOGITS[READABLE].astype(np.float16))


def test_scores_that_were_imported_before_stay(prune: Run, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("key,x\n" + "".join(f"{key},{row}\n" for row, key in enumerate(KEYS)))
    flags = ("--key", "key", "--score", "x", "--harder", "low")
    prune("import", tmp_path / "s.csv", INDEX, *flags, "-o", tmp_path / "with-x")
    prune("import", written(tmp_path, "all.npy"), tmp_path / "with-x", *FLAGS, "-o", tmp_path / "both")
    both = Manifest.open(tmp_path / "both")
    assert both.scores("imported").column("x").to_pylist() == READABLE.tolist()
    assert {spec.set for spec in both.header.scores} == {"imported", "teacher"}
    assert verify(tmp_path / "both").ok
