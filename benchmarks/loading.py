"""Images a second of both loaders, against batches in memory, and of a training step fed by them.

    python benchmarks/loading.py                  all parts, about two minutes on 2 cores
    python benchmarks/loading.py --part raw       raw | jpeg | step | plan

Both sides run turn by turn in one process; a line states n rounds, the median, the range, and the ratio to the first.
JPEGs are ../shared/data/imagefolder_clothing (400x533) where that is present, else noise of that size.
"""

import argparse
import importlib.metadata
import io
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from manifests.betons.reader import Beton, BetonColumns, write_beton
from manifests.format.header import Preprocessing
from manifests.images.decode import BetonImage, Encoded, beton_form
from trainer.data.batches import Batch, ViewLoader
from trainer.data.loaders import open_loader
from trainer.data.views import ViewRecipe, plan_views
from trainer.models.build import build_model
from trainer.models.normalise import normalise

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagefolder_clothing"
MEAN, STD = [0.5] * 3, [0.25] * 3
Run = Callable[[], int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["raw", "jpeg", "step", "plan"], help="one part only")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    names = ("numpy", "torch", "ffcv", "numba", "pillow")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print(f"{cpu_name()}, {arguments.workers} workers; Python {platform.python_version()}, {versions}")
    parts = {"raw": raw, "jpeg": jpeg, "step": step, "plan": plan}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in parts.items():
            if arguments.part in (None, name):
                part(Path(folder), arguments.rounds, arguments.workers)


def raw(folder: Path, rounds: int, workers: int) -> None:
    """32x32 raw, padded crop and flip, batches of 512."""
    beton = raw_beton(folder / "raw.beton", 20_000)
    sizes = Preprocessing(image_px=32, resize_px=32, mean=MEAN, std=STD)
    recipe = ViewRecipe(name="pad_crop_flip")
    rows = np.random.default_rng(0).permutation(beton.count)
    loaders = {
        kind: open_loader(beton, kind=kind, recipe=recipe, preprocessing=sizes, workers=workers) for kind in KINDS
    }
    kept = list(loaders["ffcv"].batches(rows, view_n=1, batch_size=512))
    runs: dict[str, Run] = {
        "batches in memory, copied": lambda: count(batch.images.numpy().copy() for batch in kept),
        **{f"{kind} loader": passes(loader, rows, 512) for kind, loader in loaders.items()},
    }
    compare("32x32 raw, padded crop + flip", runs, rounds, "images/s")


def jpeg(folder: Path, rounds: int, workers: int) -> None:
    """Full-size JPEG, random resized crop to 160, batches of 64."""
    beton = jpeg_beton(folder / "jpeg.beton", 480)
    sizes = Preprocessing(image_px=160, resize_px=182, mean=MEAN, std=STD)
    recipe = ViewRecipe(name="resized_crop_flip")
    rows = np.random.default_rng(0).permutation(beton.count)
    runs: dict[str, Run] = {"ffcv, stock decoder": stock(beton, 64, workers)}
    for kind in KINDS:
        loader = open_loader(beton, kind=kind, recipe=recipe, preprocessing=sizes, workers=workers)
        runs[f"{kind} loader"] = passes(loader, rows, 64)
    compare("400x533 JPEG, random resized crop 160", runs, rounds, "images/s")


def step(folder: Path, rounds: int, workers: int) -> None:
    """A training step of resnet8 on 32x32, batches of 128: fed by loaders and from memory."""
    beton = raw_beton(folder / "step.beton", 1_920)
    sizes = Preprocessing(image_px=32, resize_px=32, mean=MEAN, std=STD)
    rows = np.arange(beton.count)
    torch.manual_seed(0)
    model, _ = build_model("resnet8", class_count=10, image_px=32, pretrained=False)
    model = model.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def train(batches: Iterable[Batch]) -> int:
        done = 0
        for batch in batches:
            loss = torch.nn.functional.cross_entropy(model(normalise(batch.images, sizes)), batch.label)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += len(batch.rows)
        return done

    runs: dict[str, Run] = {}
    for kind in KINDS:
        recipe = ViewRecipe(name="pad_crop_flip")
        loader = open_loader(beton, kind=kind, recipe=recipe, preprocessing=sizes, workers=workers)
        kept = list(loader.batches(rows, view_n=1, batch_size=128))
        runs.setdefault("batches in memory", lambda kept=kept: train(kept))
        runs[f"{kind} loader"] = lambda loader=loader: train(loader.batches(rows, view_n=1, batch_size=128))
    compare(f"resnet8 step on 32x32, {torch.get_num_threads()} torch threads", runs, rounds, "images/s")


def plan(_folder: Path, rounds: int, _workers: int) -> None:
    """Planning an epoch of ImageNet."""
    total = 1_281_167
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 2**64, total, dtype=np.uint64)
    width_n, height_n = generator.integers(200, 800, (2, total)).astype(np.int32)
    sizes = Preprocessing(image_px=224, resize_px=256, mean=MEAN, std=STD)
    runs: dict[str, Run] = {
        name: lambda name=name: len(plan_views(ViewRecipe(name=name), sizes, ids, 1, width_n, height_n))
        for name in ("none", "pad_crop_flip", "resized_crop_flip")
    }
    compare("views planned", runs, min(rounds, 3), "views/s")


def compare(title: str, runs: dict[str, Run], rounds: int, unit: str) -> None:
    """Run turn by turn after a warm-up and print medians and ratios to the first."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            done = run()
            rates[name].append(done / (time.perf_counter() - started))
    print(f"\n{title}, n = {rounds}")
    first = statistics.median(next(iter(rates.values())))
    for name, values in rates.items():
        middle = statistics.median(values)
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        print(f"  {name:28s} {middle:12,.0f} {unit}   {spread:>24s}   ratio {middle / first:5.2f}", flush=True)


KINDS = ("ffcv", "torch")


def passes(loader: ViewLoader, rows: np.ndarray, batch_size: int) -> Run:
    return lambda: count(batch.images for batch in loader.batches(rows, view_n=1, batch_size=batch_size))


def count(images: Iterable[torch.Tensor | np.ndarray]) -> int:
    return sum(len(batch) for batch in images)


def stock(beton: Beton, batch_size: int, workers: int) -> Run:
    """FFCV's own loader and decoder: fast DCT, no view that could be repeated."""
    from trainer.data.ffcv_boundary import torch_untouched

    with torch_untouched():
        from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import ToTensor

        pipelines = dict.fromkeys(beton.fields)
        pipelines["image"] = [RandomResizedCropRGBImageDecoder((160, 160)), ToTensor()]
        loader = Loader(
            str(beton.path),
            batch_size=batch_size,
            num_workers=workers,
            order=OrderOption.RANDOM,
            os_cache=True,
            pipelines=pipelines,
            drop_last=False,
        )

    def run() -> int:
        with torch_untouched():
            return count(batch[0] for batch in loader)

    return run


def raw_beton(path: Path, total: int) -> Beton:
    pixels = np.random.default_rng(0).integers(0, 256, (total, 32 * 32 * 3), np.uint8)
    return beton_of(path, [BetonImage(mode=1, data=image, width=32, height=32) for image in pixels])


def jpeg_beton(path: Path, total: int) -> Beton:
    files = sorted(PHOTOS.glob("train/*/*.jpg"))[:total]
    if files:
        return beton_of(path, [beton_form(Encoded(file.read_bytes())) for file in files])
    generator, images = np.random.default_rng(0), []
    for _ in range(total):
        small = Image.fromarray(generator.integers(0, 256, (67, 50, 3), np.uint8))
        stream = io.BytesIO()
        small.resize((400, 533), Image.Resampling.BICUBIC).save(stream, "jpeg", quality=85)
        images.append(beton_form(Encoded(stream.getvalue())))
    return beton_of(path, images)


def beton_of(path: Path, images: list[BetonImage]) -> Beton:
    total, generator = len(images), np.random.default_rng(1)
    columns = BetonColumns(
        label_N=generator.integers(0, 10, total),
        sample_id_N=np.arange(total),
        view_id_N=generator.integers(0, 2**64, total, dtype=np.uint64),
        weight_N=np.ones(total),
        kd_weight_N=np.ones(total),
    )
    write_beton(path, images, columns)
    return Beton.open(path)


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
