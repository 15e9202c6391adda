"""What several tests of training need: runs that are watched, and an oracle for a network that is one matrix."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifests.base.layout import HEADER_NAME
from manifests.manifest import Manifest, commit
from trainer.config import TrainConfig
from trainer.data.loaders import open_loader
from trainer.data.task import Task, open_task
from trainer.data.views import ViewRecipe
from trainer.loop import epoch as epoch_module
from trainer.loop.recipes import resolve
from trainer.loop.student import Student
from trainer.loop.training import Machine, train

QUICK = {"student": "tiny_networks:plain", "batch_size": 16, "lr": 1e-6, "schedule": "constant"}


@dataclass
class Step:
    """What one optimiser step was taught."""

    images: np.ndarray
    """(n, 3, S, S) uint8 as the student got them."""
    target: np.ndarray | None
    """(n, C) as they reached the loss."""
    kd_weight: np.ndarray
    temperature: float


@dataclass
class Watch:
    """Every step of every run while it is watched."""

    steps: list[Step] = field(default_factory=list)


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Note the images a student is shown and the targets that reach its loss."""
    watch, shown = Watch(), []
    normalise, sample_losses = epoch_module.normalise, epoch_module.sample_losses

    def seen(images: torch.Tensor, *args: Any) -> torch.Tensor:
        shown.append(images.cpu().numpy().copy())
        return normalise(images, *args)

    def taught(config: TrainConfig, logits: Any, target: Any, **batch: Any) -> torch.Tensor:
        got = None if target is None else target.cpu().numpy().copy()
        watch.steps.append(Step(shown.pop(), got, batch["kd_weight"].cpu().numpy().copy(), config.temperature))
        return sample_losses(config, logits, target, **batch)

    with monkeypatch.context() as patch:
        patch.setattr(epoch_module, "normalise", seen)
        patch.setattr(epoch_module, "sample_losses", taught)
        yield watch


def trained(
    manifest: Manifest, out: Path, *, loader: str = "torch", workers: int = 1, **options: Any
) -> dict[str, Any]:
    """Train quickly on the CPU; options of `train`, and flags."""
    task = open_task(manifest.path)
    of_train = {name: options.pop(name) for name in ("fresh", "teacher_spec", "match") if name in options}
    config = resolve(QUICK | options, recipe="auto", stored=task.stored)
    machine = Machine(device="cpu", loader=loader, workers=workers)
    return train(task, config, validation=None, out=out, machine=machine, **of_train)


def renamed(manifest: Manifest, class_names: list[str]) -> Manifest:
    """The manifest with other names of its classes."""
    header = manifest.header
    (manifest.path / HEADER_NAME).unlink()
    data = header.data.model_copy(update={"class_names": class_names})
    return commit(manifest.path, header.model_copy(update={"data": data}))


@contextmanager
def stopped_at(monkeypatch: pytest.MonkeyPatch, count: int) -> Iterator[None]:
    """Let training be interrupted at that optimiser step, counted from 1."""
    left, step = iter(range(count, 0, -1)), Student.step

    def stepped(self: Student, loss: torch.Tensor, learning_rate: float) -> None:
        if next(left) == 1:
            raise KeyboardInterrupt
        step(self, loss, learning_rate)

    with monkeypatch.context() as patch:
        patch.setattr(Student, "step", stepped)
        with pytest.raises(KeyboardInterrupt):
            yield


def drawn(task: Task, recipe: ViewRecipe, view: int) -> np.ndarray:
    """One view of every image, (N, 3, S, S) uint8."""
    loader = open_loader(task.beton, kind="torch", recipe=recipe, preprocessing=task.preprocessing(task.image_px))
    rows = np.arange(task.beton.count)
    [batch] = loader.batches(rows, view_n=view, target_view_n=0, batch_size=len(rows))
    return batch.images.numpy()


def linear_logits(images: np.ndarray, module: torch.nn.Module, mean: Any, std: Any) -> np.ndarray:
    """What tiny_networks:linear says of uint8 images, in float64; (n, C)."""
    layer = module[1]
    mean, std = (np.asarray(values, np.float64)[:, None, None] for values in (mean, std))
    pixels = ((images.astype(np.float64) / 255 - mean) / std).reshape(len(images), -1)
    return pixels @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def two_ranks(folder: Path, *words: object) -> list[subprocess.Popen[str]]:
    """`python WORDS` in a folder, as both of two ranks; torchrun does no more, and imports torch to do it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    program = [sys.executable, *map(str, words)]
    return [
        subprocess.Popen(program, cwd=folder, env={**shared, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]


def ended(ranks: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """The exit code of each, and what it said."""
    messages = [rank.communicate(timeout=120)[1] for rank in ranks]
    return [(rank.returncode, message) for rank, message in zip(ranks, messages, strict=True)]
