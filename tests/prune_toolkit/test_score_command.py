"""`prune score`: the pass of the teacher, against an independent computation; kills, ranks, wrong input."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
from tests_support import tree_bytes, write_idx

from manifests.manifest import Manifest
from manifests.sources import open_source

Run = Callable[..., subprocess.CompletedProcess[str]]
KILL_AT = Path(__file__).parents[1] / "support" / "kill_at.py"
TEACHER = ("--teacher", "teachers:linear", "--image-size", 8, "--threads", 1)


@pytest.fixture(scope="module")
def undisturbed(many_digits: Path, tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    """The manifest of an undisturbed run that indexes in the same read."""
    out = tmp_path_factory.mktemp("undisturbed") / "manifest"
    prune("score", many_digits, *TEACHER, "-o", out)
    return out


def test_logits_and_scores_are_those_of_the_teacher(
    undisturbed: Path, many_digits: Path, teachers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(teachers)
    from teachers import linear

    manifest = Manifest.open(undisturbed)
    source = open_source(str(many_digits))
    pixels = np.stack([image.array for image in source.read(range(20_000))])
    shown = manifest.header.teacher.preprocessing
    images = torch.from_numpy(pixels).double()[:, None].repeat(1, 3, 1, 1) / 255
    images = (images - torch.tensor(shown.mean).view(3, 1, 1)) / torch.tensor(shown.std).view(3, 1, 1)
    expected = linear(10).double()(images).detach().numpy()

    ids = np.concatenate([ids for ids, _ in manifest.logits()])
    logits = np.concatenate([logits for _, logits in manifest.logits()])
    assert ids.tolist() == list(range(20_000))
    # float32 arithmetic, then float16's 11 bits.
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=2e-3)

    stored = logits.astype(np.float64)
    log_p = scipy.special.log_softmax(stored, axis=1)
    scores = manifest.scores().to_pandas()
    np.testing.assert_allclose(scores["loss"], -log_p[ids, source.labels_N], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(scores["entropy"], scipy.stats.entropy(np.exp(log_p), axis=1), rtol=1e-4, atol=1e-6)
    correct = stored.argmax(1) == source.labels_N
    assert (scores["correct"] == correct).all()
    assert manifest.header.teacher.train_top1 == correct.mean()


def test_a_run_killed_at_any_point_and_repeated_gives_the_same_bytes(
    undisturbed: Path, many_digits: Path, tmp_path: Path, prune: Run
) -> None:
    out = tmp_path / "manifest"
    arguments = ("score", many_digits, *TEACHER, "-o", out)
    # 3 parts x (3 tables and a time), local.json, README.md, manifest.json: in a part, in the next, before the header.
    for renames, files_before in ((2, 1), (6, 5), (11, 14)):
        launcher = (sys.executable, str(KILL_AT), str(renames))
        prune(*arguments, code=-signal.SIGKILL, launcher=launcher)
        assert not (out / "manifest.json").exists()
        found = [path for path in out.rglob("*") if path.is_file() and not path.name.endswith(".tmp")]
        assert len(found) == files_before
    prune(*arguments)
    assert tree_bytes(out) == tree_bytes(undisturbed)
    assert Manifest.open(out).id == Manifest.open(undisturbed).id


def test_two_ranks_give_the_bytes_of_one(
    undisturbed: Path, many_digits: Path, tmp_path: Path, teachers: Path, prune: Run
) -> None:
    out = tmp_path / "manifest"
    program = [sys.executable, "-m", "prune_toolkit", "score", str(many_digits), *map(str, TEACHER), "-o", str(out)]
    environment = {**os.environ, "WORLD_SIZE": "2", "PYTHONPATH": str(teachers)}
    ranks = [
        subprocess.Popen(
            program, env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    # Whoever was last has committed; a rank started again finds nothing left to do.
    assert "finished already" in prune("score", many_digits, *TEACHER, "-o", out, RANK="0", WORLD_SIZE="2").stderr
    assert tree_bytes(out) == tree_bytes(undisturbed)
    assert Manifest.open(out).id == Manifest.open(undisturbed).id


def test_finish_only_commits(undisturbed: Path, many_digits: Path, tmp_path: Path, prune: Run) -> None:
    out = tmp_path / "manifest"
    shutil.copytree(undisturbed, out)
    (out / "manifest.json").unlink()
    prune("score", many_digits, *TEACHER, "--finish", "-o", out)
    assert Manifest.open(out).id == Manifest.open(undisturbed).id
    (out / "manifest.json").unlink()
    (out / "logits" / "view-000" / "part-00001.parquet").unlink()
    assert "1 of 3 parts are not there yet" in prune("score", many_digits, *TEACHER, "--finish", "-o", out).stderr
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize("loader", ["torch", "ffcv"])
def test_scoring_an_index_with_a_beton_gives_the_same_logits(
    undisturbed: Path, many_digits: Path, tmp_path: Path, prune: Run, loader: str
) -> None:
    if loader == "ffcv" and find_spec("ffcv") is None:
        pytest.skip("ffcv is not installed")
    prune("index", many_digits, "--beton", "-o", tmp_path / "index")
    prune("score", tmp_path / "index", *TEACHER, "--loader", loader, "-o", tmp_path / "manifest")
    scored, alone = Manifest.open(tmp_path / "manifest"), Manifest.open(undisturbed)
    assert scored.header.parents == [Manifest.open(tmp_path / "index").id]
    for (ids, logits), (other_ids, others) in zip(scored.logits(), alone.logits(), strict=True):
        assert np.array_equal(ids, other_ids)
        assert np.array_equal(logits, others)


def test_an_index_of_the_same_data_is_found_by_itself(tmp_path: Path, prune: Run) -> None:
    prune("index", "demo:digits", cwd=tmp_path)
    result = prune("score", "demo:digits", *TEACHER, cwd=tmp_path)
    assert "using the index" in result.stderr
    (tmp_path / "prune.toml").write_text('data = "demo:digits"\nteacher = "teachers:linear"\n[score]\nimage-size = 8\n')
    prune("score", "-o", "again", cwd=tmp_path)
    assert Manifest.open(tmp_path / "again").header.parents == [Manifest.open(tmp_path / "index").id]


def test_limit_previews_and_writes_nothing(many_digits: Path, tmp_path: Path, prune: Run) -> None:
    result = prune("score", many_digits, *TEACHER, "--limit", 500, "-o", tmp_path / "m")
    assert "on 500 of 20,000 images" in result.stdout
    assert "hardest" in result.stdout
    as_json = json.loads(prune("score", many_digits, *TEACHER, "--limit", 500, "--json", "-o", tmp_path / "m").stdout)
    assert len(as_json["hardest"]) == 5
    assert not (tmp_path / "m").exists()


def test_a_teacher_near_chance_is_questioned(tmp_path: Path, prune: Run) -> None:
    result = prune("score", "demo:digits", *TEACHER, "--val", "demo:digits", "-o", tmp_path / "m")
    header = Manifest.open(tmp_path / "m").header
    if header.teacher.train_top1 < 0.2:
        assert "the order of its outputs (--outputs FILE)" in result.stderr
    assert 0 <= header.teacher.val_top1 <= 1


def test_an_image_altered_since_it_was_indexed_is_refused(tmp_path: Path, prune: Run) -> None:
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (40, 8, 8), dtype=np.uint8), np.arange(40) % 2
    write_idx(tmp_path / "data", images, labels)
    prune("index", tmp_path / "data", "-o", tmp_path / "index")
    images[7, 3, 3] ^= 1
    write_idx(tmp_path / "data", images, labels)
    result = prune("score", tmp_path / "index", *TEACHER, "-o", tmp_path / "m", code=4)
    assert "train/00000007 was altered" in result.stderr


@pytest.mark.parametrize(
    ("teacher", "code", "says"),
    [
        ("teachers:broken", 3, "is nan"),
        ("teachers:huge", 3, "float16"),
        ("teachers:three", 3, "3 outputs"),
        ("teachers:absent", 2, "absent"),
        ("nowhere:at_all", 2, "nowhere"),
        ("resnet9000", 2, "resnet9000"),
        ("missing.safetensors", 3, "missing.safetensors"),
    ],
)
def test_a_teacher_that_cannot_be_used_is_named(tmp_path: Path, prune: Run, teacher: str, code: int, says: str) -> None:
    arguments = ("score", "demo:digits", "--teacher", teacher, "--image-size", 8, "-o", tmp_path / "m")
    result = prune(*arguments, code=code)
    assert says in result.stderr
    assert not (tmp_path / "m" / "manifest.json").exists()


def test_a_bare_score_without_data_or_teacher_says_what_to_type(tmp_path: Path, prune: Run) -> None:
    assert "--teacher" in prune("score", cwd=tmp_path, code=2).stderr
    assert "prune.toml" in prune("score", "--teacher", "resnet8", cwd=tmp_path, code=2).stderr
