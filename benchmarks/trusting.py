"""What it costs to compare the images of a beton with their manifest: `--trust-beton` against its default.

.venv/bin/python benchmarks/trusting.py [--images 2000] [--rounds 5] [--loader torch]

Images are 400x350, smooth noise, about 60 kB as JPEG, which are compared one by one, and as PNG, whose beton is
compared as a whole file. Both sides run in turn: `prune select --keep 0.5` in fresh processes, and the drawing of every
image at 224 px as `prune score` does it, without a network.
"""

import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from manifests.base.cores import core_count
from manifests.manifest import Manifest
from prune_toolkit.images.readers import ImagesAtHand
from trainer.models.info import default_preprocessing

TEACHER = """
import torch

def pooled(num_classes):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, num_classes))
"""


def write_images(folder: Path, count: int, suffix: str) -> None:
    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class-{number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (70, 80, 3), np.uint8))
        coarse.resize((400, 350), Image.Resampling.BICUBIC).save(place / f"{number:05d}{suffix}", quality=95)


def prune(folder: Path, words: str) -> float:
    """Run a command in a folder; return its seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "prune_toolkit", *shlex.split(words)]
    subprocess.run(command, check=True, cwd=folder, capture_output=True)
    return time.perf_counter() - start


def draw(index: Manifest, loader: str, *, trusted: bool) -> float:
    """Draw every image once, in parts; return the seconds after the first batch, which pays for compilation."""
    images = ImagesAtHand.of_index(index)
    reader = images.open(
        default_preprocessing(224), device=torch.device("cpu"), workers=core_count(), loader=loader, trust_beton=trusted
    )
    with closing(reader):
        for _ in reader.loader.batches(np.arange(64), batch_size=64):
            pass
        start = time.perf_counter()
        for _ in reader.batches(np.arange(images.count), 64):
            pass
        return time.perf_counter() - start


@click.command()
@click.option("--images", default=2000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--loader", default="torch", show_default=True)
def main(images: int, rounds: int, loader: str) -> None:
    print(f"{images} images, {rounds} rounds, loader {loader}, {core_count()} cores, torch {torch.__version__}\n")
    print("| images | step | compared, s | trusted, s | ratio, median (range) |\n|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        for suffix in (".jpg", ".png"):
            folder = Path(name) / suffix[1:]
            write_images(folder / "images", images, suffix)
            (folder / "benchmark_teacher.py").write_text(TEACHER)
            prune(folder, "index images --beton -o index")
            prune(
                folder, f"score index --teacher benchmark_teacher:pooled --image-size 224 --loader {loader} -o scores"
            )
            index = Manifest.open(folder / "index")
            seconds: dict[str, list[tuple[float, float]]] = {"select --keep 0.5": [], "drawing": []}
            for turn in range(rounds):
                select = f"select scores --keep 0.5 -o {turn}"
                pair = prune(folder, select), prune(folder, f"{select}-trusted --trust-beton")
                seconds["select --keep 0.5"].append(pair)
                seconds["drawing"].append((draw(index, loader, trusted=False), draw(index, loader, trusted=True)))
            for step, pairs in seconds.items():
                ratios = [compared / trusted for compared, trusted in pairs]
                compared, trusted = (statistics.median(side) for side in zip(*pairs, strict=True))
                spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
                print(f"| {suffix[1:].upper()} | {step} | {compared:.2f} | {trusted:.2f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
