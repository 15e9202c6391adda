"""Time and memory of the commands that pass a manifest on, on a synthetic one.

.venv/bin/python benchmarks/sharing.py                                      # small, a minute
.venv/bin/python benchmarks/sharing.py --samples 1281167 --classes 1000     # the size of ImageNet-1k: 14 GB of disk

Each command runs in a process of its own, whose time from start to end and peak of resident memory are told. `verify`
compares names and sizes with a folder of as many sparse files; `diff` compares with a second teacher's manifest of the
same samples; `merge` puts together the halves that `split` made; `push` sends to moto's S3 server, a process of its own
on this machine, and once more, when everything is there; `import` reads a CSV of as many rows.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from _study import markdown
from _synthetic import SIZE_BYTES, class_name, write_csv, write_manifest

from manifests.manifest import Manifest

BUCKET = "benchmark"
SERVER = f"""
import sys, time
import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url = f"http://{{host}}:{{port}}"
boto3.client("s3", endpoint_url=url).create_bucket(Bucket="{BUCKET}")
print(url, flush=True)
sys.stdin.read()
server.stop()
"""
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "AWS_DEFAULT_REGION": "us-east-1",
}
TO_DISK = {"MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(1 << 16)}
"""The server keeps larger objects on disk."""


def run(folder: Path, *arguments: object, code: int = 0, **environment: str) -> tuple[float, float]:
    """Seconds and peak MiB of `prune ARGUMENTS` in a fresh process; what it prints goes to `told.txt`."""
    peak = folder / "peak.txt"
    program = [sys.executable, str(Path(__file__).with_name("_memory.py")), str(peak), *map(str, arguments)]
    start = time.perf_counter()
    with (folder / "told.txt").open("wb") as told:
        done = subprocess.run(program, cwd=folder, env={**os.environ, **environment}, stdout=told, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != code:
        raise SystemExit(f"prune {' '.join(map(str, arguments))}: exit code {done.returncode}, not {code}")
    return seconds, float(peak.read_text())


def expect(what: str, found: object, expected: object) -> None:
    """End the benchmark where a command did not do what was asked: its time would say nothing."""
    if found != expected:
        raise SystemExit(f"{what}: {found}, not {expected}")


def write_images(folder: Path, manifest: Manifest) -> None:
    """A sparse file for every sample, of the size that the manifest says."""
    for label in range(len(manifest.class_names)):
        (folder / "train" / class_name(label)).mkdir(parents=True, exist_ok=True)
    for key in manifest.samples(["key"]).column("key").to_pylist():
        with (folder / key).open("wb") as stream:
            stream.truncate(SIZE_BYTES)


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server with an empty bucket."""
    program = [sys.executable, "-c", SERVER]
    environment = {**os.environ, **CREDENTIALS, **TO_DISK}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(program, text=True, env=environment, **pipes) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.stdin.close()


def measured(folder: Path, classes: int, without: tuple[str, ...]) -> Iterator[tuple[str, float, float]]:
    """Every command with its seconds and MiB; what one leaves behind and no other needs is removed."""
    manifest = Manifest.open(folder / "manifest")
    count = manifest.header.data.count

    def told() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / "told.txt").read_text())
        return found

    half = ",".join(class_name(label) for label in range(classes // 2))
    split = run(folder, "split", "manifest", "--classes", half, "-o", "one", "--rest", "two")
    yield "split into two halves", *split
    merge = run(folder, "merge", "one", "two", "-o", "merged")
    merged = Manifest.open(folder / "merged")
    expect("keys merged", merged.samples(["key"]).equals(manifest.samples(["key"])), expected=True)
    expect("tables merged", [entry.path for entry in merged.header.files], [e.path for e in manifest.header.files])
    yield "merge of the halves", *merge
    for name in ("one", "two", "merged"):
        shutil.rmtree(folder / name)
    diff = run(folder, "diff", "manifest", "other", "--json")
    expect("samples in common", told()["data"]["common"], count)
    yield "diff", *diff
    flags = ("--key", "file", "--score", "difficulty", "--harder", "high", "-o", "imported")
    import_ = run(folder, "import", "scores.csv", "manifest", *flags)
    value_n = Manifest.open(folder / "imported").scores("imported").column("difficulty").to_numpy()
    expect("values imported", int(np.isfinite(value_n).sum()), count)
    yield "import of a CSV", *import_
    if "verify" not in without:
        for level, title in (("names", "verify, names"), ("sizes", "verify, names and sizes")):
            verify = run(folder, "verify", "manifest", "--data", "images", "--check", level, "--json")
            expect("samples found", (told()["samples"], told()["missing"], told()["match_rate"]), (count, 0, 1))
            yield title, *verify
    if "push" not in without:
        with s3_server() as url:
            target = f"s3://{BUCKET}/manifest"
            for title, none in (("push to S3", "there"), ("push to S3, all is there", "copied")):
                push = run(folder, "push", "manifest", target, "--json", AWS_ENDPOINT_URL=url, **CREDENTIALS)
                expect(f"{title}, files {none}", told()[none], 0)
                yield title, *push


@click.command()
@click.option("--samples", default=20_000, show_default=True)
@click.option("--classes", default=100, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="For the files [default: a temporary folder].")
@click.option("--without", multiple=True, type=click.Choice(["verify", "push"]), help="Leave out a command.")
def main(samples: int, classes: int, folder: Path | None, without: tuple[str, ...]) -> None:
    rows = []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work, start = Path(name), time.perf_counter()
        write_manifest(work / "manifest", samples, classes, logits=True)
        write_manifest(work / "other", samples, classes, logits=True, seed=1)
        manifest = Manifest.open(work / "manifest")
        write_csv(work / "scores.csv", manifest)
        if "verify" not in without:
            write_images(work / "images", manifest)
        print(f"written in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        for title, seconds, peak in measured(work, classes, without):
            rows.append((title, f"{seconds:.1f}", f"{peak:,.0f}"))
            print(f"{title}: {seconds:.1f} s, {peak:,.0f} MiB", file=sys.stderr, flush=True)
    print(f"{samples:,} samples x {classes:,} classes\n")
    print(markdown(("command", "seconds", "peak MiB"), rows))


if __name__ == "__main__":
    main()
