"""Small manifests with betons, written by the package's own writers, and networks to learn from them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from beton_support import jpeg_bytes, jpeg_image, raw_image

from manifests.base.layout import BETON_NAME
from manifests.betons.reader import BetonColumns, write_beton
from manifests.format.codes import encode
from manifests.format.header import DataSet, Header, Labels, Preprocessing, Selection, TeacherCard, Tool, Views
from manifests.format.top_k import top_k as largest
from manifests.manifest import Manifest, commit, file_entry

CLASS_NAMES = ["blue", "green", "red"]
NETWORKS = '''
"""Networks without BatchNorm, small enough for tests."""

import os
import time

import torch
from torch import nn


def plain(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(32, num_classes))


class TakesTime(nn.Sequential):
    def forward(self, images):
        time.sleep(float(os.environ.get("TINY_SECONDS_A_STEP", "0")))
        return super().forward(images)


def dropout(num_classes):
    return TakesTime(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(16, 16, 3),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))


class FailsOnRankOne(nn.Sequential):
    def forward(self, images):
        if os.environ.get("RANK") == "1" and self.training:
            raise MemoryError("rank 1 is out of luck")
        return super().forward(images)


def fails_on_rank_one(num_classes):
    return FailsOnRankOne(*plain(num_classes))


def ignores_num_classes(num_classes):
    return plain(7)


def linear(num_classes):
    """Always the same function of every pixel of an 8x8 image."""
    layer = nn.Linear(192, num_classes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


class Pair(nn.Sequential):
    def forward(self, images):
        return super().forward(images), {"images": images}


def softmax_in_a_pair(num_classes):
    return Pair(*plain(num_classes), nn.Softmax(dim=1))
'''


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module `tiny_networks`."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "tiny_networks.py").write_text(NETWORKS)
    return folder


@pytest.fixture
def tiny_networks(networks: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """That module can be imported, and torch has one thread: its sums depend on how many there are."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(networks))
    yield networks
    torch.set_num_threads(threads)


def coloured(count: int, side_px: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise whose channel of the class is brighter: (N, H, W, 3) uint8 and (N,) labels."""
    generator = np.random.default_rng(seed)
    label_N = np.arange(count) % len(CLASS_NAMES)
    pixels = generator.normal(100, 40, (count, side_px, side_px, 3))
    pixels[np.arange(count), :, :, 2 - label_N] += 60
    return pixels.clip(0, 255).astype(np.uint8), label_N.astype(np.int64)


@pytest.fixture(scope="session")
def make_manifest(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Manifest]:
    """Write a selection (views > 0: with that many stored targets a sample) or an index with a beton.

    targets_NVC are noise around the label unless given; scored_views is the number the header tells of.
    """

    def make(
        *,
        count: int = 120,
        side_px: int = 8,
        views: int = 0,
        seed: int = 0,
        class_names: list[str] = CLASS_NAMES,
        weighted: bool = False,
        beton: bool = True,
        jpeg: bool = False,
        augment: str = "pad_crop_flip",
        targets_NVC: np.ndarray | None = None,
        policy: str | None = None,
        top_k: int | None = None,
        codec: str | None = None,
        scored_views: int | None = None,
        run: dict[str, object] | None = None,
    ) -> Manifest:
        folder = tmp_path_factory.mktemp("manifest")
        pixels, label_N = coloured(count, side_px, seed)
        label_N = np.array([class_names.index(CLASS_NAMES[label]) for label in label_N])
        generator = np.random.default_rng(seed + 1)
        columns = BetonColumns(
            label_N=label_N,
            sample_id_N=np.arange(count),
            view_id_N=generator.integers(0, 2**64, count, dtype=np.uint64),
            weight_N=generator.uniform(0.5, 2, count) if weighted else np.ones(count),
            kd_weight_N=generator.uniform(0, 1, count) if weighted else np.ones(count),
        )
        images = (jpeg_image(jpeg_bytes(image)) if jpeg else raw_image(image) for image in pixels)
        if targets_NVC is None:
            targets_NVC = generator.normal(0, 1, (count, max(views, 1), len(class_names)))
            targets_NVC[np.arange(count), :, label_N] += 4
        stored = targets_NVC.astype(np.float16)
        if top_k is not None:
            stored = np.stack([largest(targets_NVC[:, view], label_N, top_k).words() for view in range(views)], axis=1)
        if codec is not None:
            stored = np.stack([encode(targets_NVC[:, view], codec).words() for view in range(views)], axis=1)
        files = []
        if beton:
            write_beton(
                folder / BETON_NAME,
                images,
                columns,
                targets=stored if views else None,
                target_shape=stored.shape[1:] if views else None,
            )
            files = [file_entry(folder, BETON_NAME, count)]
        header = Header(
            kind="selection" if views else "index",
            data=DataSet(
                name="colours",
                source="folder",
                count=2 * count,
                readable=2 * count,
                class_names=class_names,
                fingerprint="f" * 64,
            ),
            tool=Tool(name="prune-toolkit", version="0.0.0"),
            files=files,
            run=run or {},
            **(_selection_blocks(count, side_px, views, policy, top_k, codec, scored_views, augment) if views else {}),
        )
        return commit(folder, header)

    return make


def _selection_blocks(
    count: int,
    side_px: int,
    views: int,
    policy: str | None,
    top_k: int | None,
    codec: str | None,
    scored_views: int | None,
    augment: str,
) -> dict[str, object]:
    scored_views = scored_views or views
    return {
        "teacher": TeacherCard(
            spec="resnet8",
            weights_sha256="0" * 64,
            parameters=1,
            preprocessing=Preprocessing(
                image_px=side_px, resize_px=side_px, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25]
            ),
            train_top1=1.0,
            train_ece=0.0,
        ),
        "views": Views(
            recipe=augment if scored_views > 1 else "eval",
            version=1,
            seed=5,
            count=scored_views,
            image_px=side_px,
            **({"pad_px": 2, "scale_min": 0.3, "flip": True} if scored_views > 1 else {}),
        ),
        "selection": Selection(
            method="medium",
            parameters={},
            score="loss",
            quota="proportional",
            keep_asked="0.5",
            keep_got=0.5,
            count=count,
            seed=0,
        ),
        "labels": Labels(transform="raw", parameters={}, views=views, policy=policy, top_k=top_k, codec=codec),
    }
