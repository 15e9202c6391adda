"""From images to batches by the real commands: the label a student is taught is the teacher's of the pixels it sees."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from tests_support import write_idx

from trainer.data.loaders import ffcv_available, open_loader
from trainer.data.order import epoch_order, rank_rows
from trainer.data.policies import TrainingViews
from trainer.data.task import open_task
from trainer.teachers.teacher import load_teacher
from trainer.teachers.teacher_spec import TeacherSpec

Run = Callable[..., Any]
VIEWS, COUNT, BATCH = 4, 48, 8
WEAK = ("--augment", "pad_crop_flip")
STRONG = ("--augment", "resized_crop_flip", "--scale-min", "0.3")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 digits as idx files: pixels, stored raw in a beton."""
    digits = load_digits()
    folder = tmp_path_factory.mktemp("raw") / "digits"
    write_idx(folder, (digits.images[:COUNT] * 15).astype(np.uint8), digits.target[:COUNT])
    return folder


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 JPEGs of differing sizes in ten class folders."""
    generator = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("jpegs")
    for number in range(COUNT):
        width, height = generator.integers(20, 60, 2).tolist()
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), np.uint8))
        stream = io.BytesIO()
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(stream, "jpeg", quality=90)
        path = folder / f"class {number % 10}" / f"{number:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(stream.getvalue())
    return folder


def check_batches(selection: Path, loader: str, workers: int) -> None:
    """The stored label is what the teacher says of the batch's pixels: for 1 and 2 ranks, from epoch 0 and later on."""
    task = open_task(selection)
    teacher = load_teacher(TeacherSpec(network="teachers:linear", image_px=task.image_px), list(task.class_names))
    views = TrainingViews.of(task, policy="replay")
    opened = open_loader(
        task.beton, kind=loader, recipe=views.recipe, preprocessing=task.preprocessing(task.image_px), workers=workers
    )
    seen = different = 0
    for epoch, world_size in ((0, 1), (1, 2), (2, 1), (7, 2)):
        order_N = epoch_order(0, epoch, task.beton.count)
        for rank in range(world_size):
            rows_n = rank_rows(order_N, batch_size=BATCH, rank=rank, world_size=world_size)
            view_n, target_view_n = views.of_epoch(epoch, rows_n)
            size = BATCH // world_size
            for batch in opened.batches(rows_n, view_n=view_n, target_view_n=target_view_n, batch_size=size):
                said = teacher(batch.images)
                assert batch.target is not None
                torch.testing.assert_close(batch.target.float(), said, rtol=2e-3, atol=2e-2)
                view_0 = torch.from_numpy(task.beton.targets(batch.rows)[:, 0]).float()
                different += int(((view_0 - said).abs() > 1).any(dim=1).sum())
                seen += len(said)
    opened.close()
    assert different > seen / 2  # so that the label of another view would have been noticed


@pytest.mark.parametrize("scored_from", ["source", "beton", "two ranks", "labelled"])
@pytest.mark.parametrize(("kind", "augment"), [("raw", WEAK), ("jpeg", STRONG)])
def test_students_see_what_the_teacher_labelled(
    prune: Run,
    raw: Path,
    jpegs: Path,
    teachers: Path,
    kind: str,
    augment: tuple[str, ...],
    scored_from: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = raw if kind == "raw" else jpegs
    score = ["--teacher", "teachers:linear", "--image-size", 8 if kind == "raw" else 16, "--batch-size", 12]
    views = ["--views", VIEWS, *augment, "--seed", 3]
    if scored_from == "source":
        prune("score", "--data", data, *score, *views, cwd=tmp_path)
    else:
        prune("index", data, "--beton", cwd=tmp_path)
    if scored_from == "beton":
        prune("score", "index", *score, *views, cwd=tmp_path)
    if scored_from == "two ranks":
        for rank in (1, 0):
            prune("score", "index", *score, *views, "--rank", rank, "--world-size", 2, cwd=tmp_path)
    if scored_from == "labelled":
        prune("score", "index", *score, cwd=tmp_path)
    prune("select", "--keep", "0.75", "--selector", "random", "--labels", "raw", cwd=tmp_path)
    if scored_from == "labelled":
        prune("label", "selection", *score, *views, cwd=tmp_path)
    selection = tmp_path / ("labelled" if scored_from == "labelled" else "selection")
    monkeypatch.syspath_prepend(teachers)
    for loader in ["torch", *(["ffcv"] if ffcv_available()[0] else [])]:
        for workers in (1, 2):
            check_batches(selection, loader, workers)
