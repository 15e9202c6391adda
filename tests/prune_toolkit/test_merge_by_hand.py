"""`prune merge --average` of hand-made manifests: by hand, what does not go together, kills."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests_support import tree_bytes

from manifests.format.header import Compute, DataSet, Header, Hidden, Preprocessing, TeacherCard, Tool, Views
from manifests.format.parts import SAMPLES_SCHEMA, part_count, part_path, part_rows, vectors_table, write_part
from manifests.integrity import verify
from manifests.manifest import Manifest, commit, part_entries
from manifests.tables.thumbnails_table import stored_thumbnails, thumbnails_block, thumbnails_table
from prune_toolkit.scoring.logit_scores import LogitScore, compute_scores
from trainer.loop.label_times import label_times

Run = Callable[..., subprocess.CompletedProcess[str]]
KILL_AT = Path(__file__).parents[1] / "support" / "kill_at.py"


def logits_of(path: Path, view: int = 0) -> np.ndarray:
    """(n, C) float64."""
    return np.concatenate([logits for _, logits in Manifest.open(path).logits(view)]).astype(np.float64)


def written(
    folder: Path,
    logits_VNC: np.ndarray,
    *,
    weights: str = "aa",
    data: dict[str, Any] | None = None,
    views: dict[str, Any] | None = None,
    teacher: dict[str, Any] | None = None,
    problem: int | None = None,
    view_id: int = 0,
    score_views: str | None = None,
) -> Path:
    """A scored manifest of samples whose class is their number modulo C, logits as given."""
    count, classes = logits_VNC.shape[1:]
    label_N = np.arange(count) % classes
    for part in range(part_count(count)):
        rows = np.array(part_rows(part, count))
        readable = rows[rows != problem]
        samples = {
            "sample_id": rows,
            "key": [f"train/{row:08d}" for row in rows],
            "label": label_N[rows],
            "size_bytes": np.full(len(rows), 64),
            "content_hash": [int(row).to_bytes(16, "big") for row in rows],
            "view_id": rows.astype(np.uint64) + np.uint64(view_id),
            "width": np.full(len(rows), 8),
            "height": np.full(len(rows), 8),
            "problem": ["torn" if row == problem else None for row in rows],
        }
        write_part(folder / part_path("samples", part), pa.table(samples).cast(SAMPLES_SCHEMA), "d")
        for view, logits_NC in enumerate(logits_VNC):
            table = vectors_table(readable, "logits", logits_NC[readable])
            write_part(folder / part_path(f"logits/view-{view:03d}", part), table, "d")
        scores = compute_scores(np.nan_to_num(logits_VNC[0][readable]), label_N[readable])
        columns = {name: pa.array(values) for name, values in scores.items()}
        write_part(folder / part_path("scores/teacher", part), pa.table({"sample_id": readable, **columns}), "d")
    tables = ["samples", "scores/teacher", *(f"logits/view-{view:03d}" for view in range(len(logits_VNC)))]
    facts = {
        "name": "squares",
        "source": "folder",
        "count": count,
        "readable": count - (problem is not None),
        "class_names": [f"class {c}" for c in range(classes)],
        "fingerprint": "f" * 64,
    }
    shown = Preprocessing(image_px=8, resize_px=8, mean=[0.5], std=[0.5])
    card = {
        "spec": f"net {weights}",
        "weights_sha256": weights,
        "parameters": 1000,
        "preprocessing": shown,
        "train_top1": 0.5,
        "train_ece": 0.1,
    }
    block = {"recipe": "pad_crop_flip", "version": 1, "seed": 0, "count": len(logits_VNC), "image_px": 8}
    header = Header(
        kind="scores",
        data=DataSet(**(facts | (data or {}))),
        teacher=TeacherCard(**(card | (teacher or {}))),
        compute=Compute(device="cpu", dtype="float32", batch_size=1, threads=1, versions={"torch": weights}),
        views=Views(**(block | (views or {}))),
        scores=[entry.spec(score_views) for entry in LogitScore.registered()],
        tool=Tool(name="prune-toolkit", version="0"),
        files=part_entries(folder, tables, count),
        run={"command": "score", "seconds": 10.0},
    )
    commit(folder, header)
    return folder


def some_logits(seed: int, shape: tuple[int, int, int] = (1, 12, 3)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float16)


def test_two_hand_made_manifests_by_hand(tmp_path: Path, prune: Run) -> None:
    """Sample 0 is of class 0, sample 1 of class 1."""
    written(tmp_path / "a", np.array([[[2, 0], [0, 2]]], np.float16))
    written(tmp_path / "b", np.array([[[0, 4], [0, 4]]], np.float16), weights="bb")
    prune("merge", "a", "b", "--average", "logits", "-o", "m", cwd=tmp_path)
    merged = Manifest.open(tmp_path / "m")
    assert logits_of(tmp_path / "m").tolist() == [[1, 2], [0, 3]]
    assert merged.scores().column("margin").to_pylist() == [-1, 3]
    assert merged.scores().column("correct").to_pylist() == [0, 1]
    assert merged.header.teacher.train_top1 == 0.5
    assert merged.header.teacher.spec == "average of logits: net aa + net bb"
    assert merged.header.compute is None
    assert {spec.views for spec in merged.header.scores} == {None}
    assert label_times(merged.header)["scoring_s"] == pytest.approx(20 + merged.header.run["seconds"])


@pytest.mark.parametrize(
    ("other", "code", "says"),
    [
        ({"data": {"fingerprint": "e" * 64}}, 4, "different data"),
        ({"data": {"class_names": ["class 1", "class 0", "class 2"]}}, 4, "class 0 is class 0 and class 1"),
        ({"data": {"class_names": ["class 0", "class 1", "class 2", "class 3"]}}, 4, "class 3 is None and class 3"),
        ({"views": {"seed": 1}}, 4, "seed is 0 and 1"),
        ({"views": {"recipe": "eval"}}, 4, "recipe is pad_crop_flip and eval"),
        ({"views": {"pad_px": 2}}, 4, "pad_px is None and 2"),
        ({"teacher": {"preprocessing": {"image_px": 8, "resize_px": 9, "mean": [0], "std": [1]}}}, 4, "resize_px"),
        ({"problem": 5}, 4, "disagree on the problem of 1 samples; the first: train/00000005"),
        ({"view_id": 1}, 4, "disagree on the view_id of 12 samples; the first: train/00000000"),
        ({"views": {"top_k": 2}}, 2, "2 largest logits"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, prune: Run, other: dict[str, Any], code: int, says: str
) -> None:
    written(tmp_path / "a", some_logits(0))
    written(tmp_path / "b", some_logits(1), weights="bb", **other)
    result = prune("merge", "a", "b", "--average", "logits", "-o", "m", cwd=tmp_path, code=code)
    assert says in result.stderr
    assert not (tmp_path / "m").exists()


def test_other_numbers_of_views_are_refused(tmp_path: Path, prune: Run) -> None:
    written(tmp_path / "a", some_logits(0))
    written(tmp_path / "b", some_logits(1, (2, 12, 3)), weights="bb")
    result = prune("merge", "a", "b", "--average", "logits", "-o", "m", cwd=tmp_path, code=4)
    assert "count is 1 and 2" in result.stderr


def test_another_normalisation_is_the_teachers_own_affair(tmp_path: Path, prune: Run) -> None:
    written(tmp_path / "a", some_logits(0))
    shown = {"image_px": 8, "resize_px": 8, "mean": [0.1], "std": [0.2]}
    written(tmp_path / "b", some_logits(1), weights="bb", teacher={"preprocessing": shown})
    prune("merge", "b", "a", "--average", "logits", "-o", "m", cwd=tmp_path)
    assert Manifest.open(tmp_path / "m").header.teacher.preprocessing.mean == [0.5]


def test_licences_of_data_and_teachers_add_up(tmp_path: Path, prune: Run) -> None:
    written(tmp_path / "a", some_logits(0), data={"licence": "MIT", "redistributable": True}, teacher={"licence": "A"})
    written(tmp_path / "b", some_logits(1), weights="bb", data={"licence": "MIT", "redistributable": False})
    prune("merge", "a", "b", "--average", "logits", "-o", "m", cwd=tmp_path)
    header = Manifest.open(tmp_path / "m").header
    assert (header.data.licence, header.data.redistributable) == ("MIT", False)
    assert header.teacher.licence == "A; not stated"


def test_an_unreadable_image_has_no_logits_in_any(tmp_path: Path, prune: Run) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        written(tmp_path / name, some_logits(seed), weights=name, problem=5)
    prune("merge", "a", "b", "--average", "logits", "-o", "m", cwd=tmp_path)
    [(ids, logits)] = Manifest.open(tmp_path / "m").logits()
    assert ids.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    mean = np.stack([some_logits(seed)[0].astype(np.float64) for seed in (0, 1)]).mean(0)
    np.testing.assert_allclose(logits, mean[ids], rtol=1e-3)


def test_score_views_of_manifests_that_disagree_must_be_said(tmp_path: Path, prune: Run) -> None:
    shape = (3, 12, 3)
    written(tmp_path / "a", some_logits(0, shape), score_views="0")
    written(tmp_path / "b", some_logits(1, shape), weights="bb", score_views="1-2")
    written(tmp_path / "c", some_logits(2, shape), weights="cc", score_views="0")
    merge = ("merge", "--average", "logits", "-o", "m")
    assert "different views: 0, 1-2" in prune(*merge, "a", "b", cwd=tmp_path, code=2).stderr
    prune(*merge, "a", "b", "--score-views", "train", cwd=tmp_path)
    assert {spec.views for spec in Manifest.open(tmp_path / "m").header.scores} == {"1-2"}
    prune("merge", "--average", "logits", "a", "c", "-o", "same", cwd=tmp_path)
    assert {spec.views for spec in Manifest.open(tmp_path / "same").header.scores} == {"0"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_logit_that_is_not_finite_names_file_and_sample(tmp_path: Path, prune: Run, value: float) -> None:
    logits = some_logits(0)
    logits[0, 7, 2] = value
    written(tmp_path / "a", logits)
    written(tmp_path / "b", some_logits(1), weights="bb")
    result = prune("merge", "a", "b", "--average", "logits", "-o", "m", cwd=tmp_path, code=3)
    assert "a/logits/view-000/part-00000.parquet: sample train/00000007: logit 2 is not finite" in result.stderr
    assert not (tmp_path / "m" / "manifest.json").exists()


def test_an_average_that_does_not_fit_float16_names_the_sample(tmp_path: Path, prune: Run) -> None:
    logits = some_logits(0)
    logits[0, 4] = 65504, 0, -65504
    for name in ("a", "b"):
        written(tmp_path / name, logits, weights=name)
    result = prune("merge", "a", "b", "--average", "probabilities", "-o", "m", cwd=tmp_path, code=3)
    assert "sample train/00000004: logit 2 does not fit float16" in result.stderr


def test_wrong_calls_say_what_to_type(tmp_path: Path, prune: Run) -> None:
    written(tmp_path / "a", some_logits(0))
    prune("index", "demo:digits", cwd=tmp_path)
    for words, code, says in (
        (("a", "--average", "logits"), 2, "at least two"),
        (("--average", "logits"), 2, "at least two"),
        (("a", "index", "--average", "logits"), 2, "of kind index"),
        (("a", "nowhere", "--average", "logits"), 3, "no such folder"),
        (("a", "a"), 2, "are the same manifest"),
        (("a", "a", "--average", "median"), 2, "median"),
        (("a", "a", "--average", "logits", "--score-views", "train"), 2, "training views"),
        (("a", "a", "--average", "logits", "-o", "a"), 2, "a is a finished manifest"),
    ):
        assert says in prune("merge", *words, cwd=tmp_path, code=code).stderr
    assert verify(tmp_path / "a").ok


def test_an_altered_part_is_refused(tmp_path: Path, prune: Run) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        written(tmp_path / name, some_logits(seed), weights=name)
    part = tmp_path / "b" / "logits" / "view-000" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    assert "was altered" in prune("merge", "a", "b", "--average", "logits", cwd=tmp_path, code=3).stderr
    part.unlink()
    assert "cannot read" in prune("merge", "a", "b", "--average", "logits", cwd=tmp_path, code=3).stderr


@pytest.mark.slow
def test_a_run_killed_at_any_point_and_repeated_gives_the_same_bytes(tmp_path: Path, prune: Run) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        written(tmp_path / name, some_logits(seed, (2, 17_000, 2)), weights=name, score_views="1")
    arguments = ("merge", "a", "b", "--average", "probabilities")
    prune(*arguments, "-o", "undisturbed", cwd=tmp_path)
    # 3 linked parts of samples, then 3 parts x (2 logits, a time, scores), local.json, README.md, manifest.json.
    for renames, files_before in ((2, 4), (7, 9), (11, 17)):
        launcher = (sys.executable, str(KILL_AT), str(renames))
        prune(*arguments, "-o", "m", cwd=tmp_path, code=-signal.SIGKILL, launcher=launcher)
        found = [path for path in (tmp_path / "m").rglob("*") if path.is_file() and not path.name.endswith(".tmp")]
        assert len(found) == files_before
        assert not (tmp_path / "m" / "manifest.json").exists()
    prune(*arguments, "-o", "m", cwd=tmp_path)
    assert tree_bytes(tmp_path / "m") == tree_bytes(tmp_path / "undisturbed")
    assert Manifest.open(tmp_path / "m").id == Manifest.open(tmp_path / "undisturbed").id


def test_thumbnails_and_that_keys_are_hidden_are_carried_over(tmp_path: Path, prune: Run) -> None:
    """The second teacher's index alone had thumbnails."""
    small_NP = np.random.default_rng(0).integers(0, 256, (12, 192), np.uint8)
    hidden = Hidden(method="hmac-sha256", check="c" * 64)
    for name in ("a", "b"):
        folder = written(tmp_path / name, some_logits(0), weights=name)
        header = Manifest.open(folder).header.model_copy(update={"hidden": hidden, "schema_version": "1.3"})
        if name == "b":
            write_part(folder / part_path("thumbnails", 0), thumbnails_table(np.arange(12), small_NP), "d")
            files = [*header.files, *part_entries(folder, ["thumbnails"], 12)]
            header = header.model_copy(update={"files": files, "thumbnails": thumbnails_block()})
        commit(folder, header)
    prune("merge", "a", "b", "--average", "logits", "-o", "m", cwd=tmp_path)
    merged = Manifest.open(tmp_path / "m")
    assert merged.header.hidden == hidden
    assert merged.header.thumbnails == thumbnails_block()
    assert stored_thumbnails(merged, np.arange(12)).tolist() == small_NP.tolist()
    assert verify(tmp_path / "m").findings == []


def test_features_and_other_sets_are_left_behind(tmp_path: Path, prune: Run) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        written(tmp_path / name, some_logits(seed), weights=name)
        folder, header = tmp_path / name, Manifest.open(tmp_path / name).header
        shutil.copytree(folder / "scores" / "teacher", folder / "scores" / "dynamics")
        files = [*header.files, *part_entries(folder, ["scores/dynamics"], 12)]
        scores = [*header.scores, header.scores[0].model_copy(update={"set": "dynamics"})]
        commit(folder, header.model_copy(update={"files": files, "scores": scores}))
    prune("merge", "a", "b", "--average", "logits", "-o", "m", cwd=tmp_path)
    merged = Manifest.open(tmp_path / "m")
    assert {entry.path.split("/")[0] for entry in merged.header.files} == {"samples", "logits", "scores"}
    assert {spec.set for spec in merged.header.scores} == {"teacher"}
