"""Small real data and small teachers for the commands of `prune`."""

import io
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from tests_support import write_idx

TEACHERS = '''
import torch


class Linear(torch.nn.Module):
    """A fixed random linear teacher: fast, and its logits have no ties."""

    def __init__(self, num_classes, scale=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.nn.Parameter(torch.randn(8 * 8 * 3, num_classes, generator=generator) * scale)

    def forward(self, images):
        pooled = torch.nn.functional.adaptive_avg_pool2d(images, 8)
        return pooled.reshape(len(images), -1) @ self.weight


def linear(num_classes):
    return Linear(num_classes)


def broken(num_classes):
    return Linear(num_classes, scale=float("nan"))


def huge(num_classes):
    return Linear(num_classes, scale=1e7)


def three(num_classes):
    return Linear(3)


class Swapped(Linear):
    def forward(self, images):
        return super().forward(images)[:, [3, 1, 2, 0, 4, 5, 6, 7, 9, 8]]


def swapped(num_classes):
    return Swapped(num_classes)


class Pair(Linear):
    def forward(self, images):
        logits = super().forward(images)
        return logits.flip(1), logits.softmax(dim=1)


def pair(num_classes):
    return Pair(num_classes)
'''


@pytest.fixture(scope="session")
def many_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 noisy copies of scikit-learn's digits, 8x8: three parts of a manifest."""
    digits = load_digits()
    generator = np.random.default_rng(0)
    row = generator.integers(0, len(digits.target), 20_000)
    images = np.clip(digits.images[row] * 15 + generator.integers(0, 16, (20_000, 8, 8)), 0, 255).astype(np.uint8)
    folder = tmp_path_factory.mktemp("many") / "digits"
    write_idx(folder, images, digits.target[row])
    return folder


@pytest.fixture(scope="session")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the child's import path with `teachers:linear` and its broken relatives."""
    folder = tmp_path_factory.mktemp("teachers")
    (folder / "teachers.py").write_text(TEACHERS)
    return folder


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def prune(teachers: Path) -> Run:
    """Run `prune ARGS`; `code` is the exit code it must have.

    In this process, by the entry point's own path, because importing torch costs seconds; in a child with a `launcher`.
    """

    def run(
        *arguments: object, cwd: Path | None = None, code: int = 0, launcher: tuple[str, ...] = (), **environment: str
    ) -> subprocess.CompletedProcess[str]:
        words = list(map(str, arguments))
        if launcher:
            environment = {**os.environ, "PYTHONPATH": str(teachers), **environment}
            result = subprocess.run(
                [*launcher, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
            )
        else:
            result = _in_process(words, cwd, teachers, environment)
        assert result.returncode == code, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr
        return result

    return run


def _in_process(
    words: list[str], cwd: Path | None, teachers: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    from prune_toolkit.main import cli
    from trainer.cli.console import run_cli

    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.syspath_prepend(teachers)
        for name, value in environment.items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            run_cli(cli, words)
        except SystemExit as done:
            code = int(done.code or 0)
        finally:
            signal.signal(signal.SIGTERM, handler)
    return subprocess.CompletedProcess(words, code, output.getvalue(), errors.getvalue())
