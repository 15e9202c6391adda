"""Wrong input of every kind, through the commands: the exit code, and a message that says what, where and what next."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests_support import write_idx

Run = Callable[..., subprocess.CompletedProcess[str]]
TEACHER = ("--teacher", "teachers:linear", "--image-size", 8, "--threads", 1)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    prune("index", "demo:digits", "--beton", "-o", folder / "index")
    prune("score", folder / "index", *TEACHER, "-o", folder / "manifest")
    prune("select", folder / "manifest", "--keep", "0.5", "-o", folder / "selection")
    return folder


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def train(*arguments: object, code: int) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


def test_a_missing_folder(tmp_path: Path, prune: Run) -> None:
    assert "no such file or folder" in prune("index", tmp_path / "none", "-o", tmp_path / "i", code=3).stderr


def test_an_empty_folder(tmp_path: Path, prune: Run) -> None:
    (tmp_path / "empty").mkdir()
    assert "accepted: DIR/train/CLASS" in prune("index", tmp_path / "empty", "-o", tmp_path / "i", code=3).stderr


def test_one_class(tmp_path: Path, prune: Run) -> None:
    (tmp_path / "data" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "cat" / "1.png")
    assert "class" in prune("index", tmp_path / "data", "-o", tmp_path / "i", code=3).stderr


def test_a_corrupt_jpeg_is_one_row_with_a_problem(tmp_path: Path, prune: Run) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(np.full((30, 30, 3), 90, np.uint8)).save(tmp_path / "data" / name / "good.jpg")
    whole = (tmp_path / "data" / "a" / "good.jpg").read_bytes()
    (tmp_path / "data" / "a" / "half.jpg").write_bytes(whole[:300])
    result = prune("score", tmp_path / "data", *TEACHER, "-o", tmp_path / "m")
    assert "1 of 3 images cannot be read" in result.stderr
    assert "a/half.jpg" in result.stderr
    assert "2 samples scored" in result.stdout


def test_a_label_out_of_range(tmp_path: Path, prune: Run) -> None:
    write_idx(tmp_path / "data", np.zeros((6, 8, 8), np.uint8), np.array([0, 1, 2, 0, 1, 9]))
    (tmp_path / "names.json").write_text(json.dumps(["a", "b", "c"]))
    arguments = ("index", tmp_path / "data", "--classes", tmp_path / "names.json", "-o", tmp_path / "i")
    assert "9" in prune(*arguments, code=3).stderr


def test_a_teacher_with_the_wrong_number_of_classes(tmp_path: Path, prune: Run) -> None:
    result = prune("score", "demo:digits", "--teacher", "teachers:three", "-o", tmp_path / "m", code=3)
    assert "3 outputs" in result.stderr
    assert "10 classes" in result.stderr


def test_a_checkpoint_that_does_not_fit(tmp_path: Path, prune: Run) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "odd.pt")
    arguments = (
        "score",
        "demo:digits",
        "--teacher",
        "resnet8",
        "--checkpoint",
        tmp_path / "odd.pt",
        "-o",
        tmp_path / "m",
    )
    assert "odd.pt" in prune(*arguments, code=3).stderr


def test_a_checkpoint_that_needs_pickle(tmp_path: Path, prune: Run) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    arguments = ("score", "demo:digits", "--teacher", "resnet8", "--checkpoint", tmp_path / "module.pt")
    assert "module.pt" in prune(*arguments, "-o", tmp_path / "m", code=3).stderr


def test_logits_that_are_nan(tmp_path: Path, prune: Run) -> None:
    result = prune("score", "demo:digits", "--teacher", "teachers:broken", "-o", tmp_path / "m", code=3)
    assert "nan" in result.stderr
    assert not (tmp_path / "m" / "manifest.json").exists()


@pytest.mark.parametrize("keep", ["0", "1.5"])
def test_a_keep_out_of_range(scored: Path, tmp_path: Path, prune: Run, keep: str) -> None:
    assert (
        "above 0 and at most 1"
        in prune("select", scored / "manifest", "--keep", keep, "-o", tmp_path / "s", code=2).stderr
    )


def test_a_truncated_beton(scored: Path, tmp_path: Path, prune: Run) -> None:
    shutil.copytree(scored / "selection", tmp_path / "s")
    beton = tmp_path / "s" / "train.beton"
    beton.write_bytes(beton.read_bytes()[:-100])
    result = train("--manifest", tmp_path / "s", "--recipe", "demo", "-o", tmp_path / "run", code=3)
    assert "truncated" in result.stderr
    assert "train.beton" in prune("verify", tmp_path / "s", code=3).stdout


def test_an_altered_part(scored: Path, tmp_path: Path, prune: Run) -> None:
    shutil.copytree(scored / "manifest", tmp_path / "m")
    part = tmp_path / "m" / "logits" / "view-000" / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.unlink()
    part.write_bytes(data)
    assert "was altered" in prune("select", tmp_path / "m", "--keep", "0.5", "-o", tmp_path / "s", code=3).stderr


def test_an_unknown_major_version(scored: Path, tmp_path: Path, prune: Run) -> None:
    shutil.copytree(scored / "manifest", tmp_path / "m")
    path = tmp_path / "m" / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": "1.4"', '"schema_version": "2.0"'))
    result = prune("show", tmp_path / "m", code=3)
    assert "schema version 2.0" in result.stderr
    assert "upgrade" in result.stderr


@pytest.mark.parametrize("command", ["index", "select"])
def test_a_full_disk_leaves_nothing_half_written(scored: Path, full_disk: Path, prune: Run, command: str) -> None:
    arguments = {
        "index": ("index", "demo:digits", "--beton"),
        "select": ("select", scored / "manifest", "--keep", "1"),
    }[command]
    result = prune(*arguments, "-o", full_disk / "out", code=5)
    assert "disk is full" in result.stderr
    assert not (full_disk / "out" / "manifest.json").exists()
    assert not list(full_disk.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 5)]
)
def test_a_stop_in_mid_pass_leaves_what_the_next_run_goes_on_from(
    many_digits: Path, tmp_path: Path, teachers: Path, prune: Run, number: signal.Signals, code: int
) -> None:
    (tmp_path / "slow.py").write_text(
        "import time, teachers\n"
        "class Slow(teachers.Linear):\n"
        "    def forward(self, images):\n"
        "        time.sleep(0.1)\n"
        "        return super().forward(images)\n"
        "def slow(num_classes):\n"
        "    return Slow(num_classes)\n"
    )
    program = [sys.executable, "-m", "prune_toolkit", "score", str(many_digits), "--teacher", "slow:slow"]
    environment = {**os.environ, "PYTHONPATH": f"{teachers}:{tmp_path}"}
    arguments = ["--image-size", "8", "-o", str(tmp_path / "m")]
    process = subprocess.Popen([*program, *arguments], env=environment, stderr=subprocess.PIPE, text=True)
    first = tmp_path / "m" / "scores" / "teacher" / "part-00000.parquet"
    deadline = time.monotonic() + 60
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "run the same command again to resume" in errors
    assert "Traceback" not in errors
    assert first.exists()
    assert not (tmp_path / "m" / "manifest.json").exists()
