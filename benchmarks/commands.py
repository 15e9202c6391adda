"""Wall time of the commands that need no model: `prune --help`, and `prune select` on 60,000 samples of 10 classes.

.venv/bin/python benchmarks/commands.py [--runs 5]

Each run is a fresh process, so the time includes Python's start; the last column is the ratio to a bare
`python -c pass`, taken in turn with the command it is compared with. Images are 28x28, written by `prune select` as a
beton of 30,000; `--no-beton` leaves that out.
"""

import gzip
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

TEACHER = """
import torch

def linear(num_classes):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28 * 3, num_classes))
"""
SAMPLES = 60_000


def seconds(command: list[str], folder: Path) -> float:
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def write_data(folder: Path) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (SAMPLES, 28, 28), dtype=np.uint8)
    labels = generator.integers(0, 10, SAMPLES).astype(np.uint8)
    head = struct.pack(">IIII", 2051, SAMPLES, 28, 28)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes(), 1))
    head = struct.pack(">II", 2049, SAMPLES)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + labels.tobytes(), 1))
    (folder / "benchmark_teacher.py").write_text(TEACHER)


@click.command()
@click.option("--runs", default=5, show_default=True)
def main(runs: int) -> None:
    prune, bare = [sys.executable, "-m", "prune_toolkit"], [sys.executable, "-c", "pass"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        seconds([*prune, "index", name, "--beton", "-o", f"{name}/index"], folder)
        score = ["score", f"{name}/index", "--teacher", "benchmark_teacher:linear", "--image-size", "28"]
        seconds([*prune, *score, "-o", f"{name}/manifest"], folder)
        print(f"{'command':<34} {'median s':>9} {'min':>7} {'max':>7} {'n':>3} {'/ bare python':>14}")
        for title, arguments in (
            ("prune --help", ["--help"]),
            ("prune select --keep 0.5", ["select", f"{name}/manifest", "--keep", "0.5"]),
            ("prune select --keep 0.5 --no-beton", ["select", f"{name}/manifest", "--keep", "0.5", "--no-beton"]),
        ):
            times, bare_times = [], []
            for number in range(runs):
                out = [] if arguments == ["--help"] else ["-o", f"{name}/{title.replace(' ', '')}-{number}"]
                bare_times.append(seconds(bare, folder))
                times.append(seconds([*prune, *arguments, *out], folder))
            median = statistics.median(times)
            print(f"{title:<34} {median:>9.2f} {min(times):>7.2f} {max(times):>7.2f} {runs:>3} "
                  f"{median / statistics.median(bare_times):>14.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
