"""Time and memory of every selector on a synthetic manifest, apart from what reading samples and scores takes.

.venv/bin/python benchmarks/selection.py                                      # small, seconds
.venv/bin/python benchmarks/selection.py --samples 1281167 --classes 1000     # the size of ImageNet-1k

Every registered selector decides which samples to keep (`plan_selection`, nothing is written), each in a fresh process
that tells its time, that part of it which went into reading samples and scores, and its peak of resident memory. The
peak is compared with that of another process, which reads the same samples and scores and no more. Selectors that need
features run on a smaller manifest that has them, and reading these counts as theirs; with --logits (2.6 GB at the size
of ImageNet-1k) `window --position auto` runs on the large one too.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
from _memory import peak_mib
from _study import markdown
from _synthetic import write_manifest

from manifests.format.header import Header
from manifests.manifest import Manifest
from prune_toolkit.quotas.keep import Keep
from prune_toolkit.selection.choose_samples import plan_selection
from prune_toolkit.selection.find_score import score_column
from prune_toolkit.selection.select_config import SelectConfig
from prune_toolkit.selection.selectors import SELECTORS


@dataclass(frozen=True)
class Case:
    """A selector with its options, and which manifest it runs on."""

    title: str
    options: dict[str, Any]
    small: bool = False
    scores: list[str] = field(default_factory=list)


def cases(logits: bool) -> Iterator[Case]:
    """Every registered selector by its defaults, and the options that make other code run."""
    given = {"mix": {"mix": "0.7 medium, 0.2 random, 0.1 window position=1 score=el2n"}}
    for name, entry in SELECTORS.items():
        parameters = given.get(name, {})
        further = entry.further_scores(entry.resolve(parameters)) if entry.further_scores else []
        scores = [*([] if entry.score is None else [entry.score]), *further]
        yield Case(name, {"selector": name, "parameters": parameters}, "features" in entry.needs, scores)
    yield Case("medium, quota none", {"quota": "none"}, scores=["loss"])
    yield Case("medium, quota none, --per-class-min 50", {"quota": "none", "per_class_min": 50}, scores=["loss"])
    yield Case("ccs, quota none", {"selector": "ccs", "quota": "none"}, scores=["margin"])
    auto = {"selector": "window", "parameters": {"position": "auto"}}
    yield Case("window, --position auto (features)", auto, small=True, scores=["loss"])
    if logits:
        yield Case("window, --position auto (logits)", auto, scores=["loss"])


class TimedManifest(Manifest):
    """Knows how long reading samples and scores took."""

    def __init__(self, path: Path, header: Header) -> None:
        super().__init__(path, header)
        self.wall_s = self.cpu_s = 0.0

    def samples(self, columns: list[str] | None = None, *, check_all: bool = False) -> pa.Table:
        with self._timed():
            return super().samples(columns, check_all=check_all)

    def scores(self, name: str = "teacher", columns: list[str] | None = None) -> pa.Table:
        with self._timed():
            return super().scores(name, columns)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall_s += time.perf_counter() - wall
        self.cpu_s += time.process_time() - cpu


def measured(folder: Path, case: Case, keep: str, *, read_only: bool) -> dict[str, float]:
    """Seconds and peak MiB of deciding, or of reading what the decision reads; in this process."""
    manifest = TimedManifest.open(folder)
    assert isinstance(manifest, TimedManifest)
    config = SelectConfig(keep=Keep.parse(keep), out=Path("nowhere"), beton=False, **case.options)
    wall, cpu = time.perf_counter(), time.process_time()
    if read_only:
        samples = manifest.samples()
        ids = samples.column("sample_id").to_numpy()
        held: Any = [samples, *(score_column(manifest, name, ids) for name in case.scores)]
    else:
        held = plan_selection(config, manifest)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    del held
    return {
        "read_s": manifest.wall_s,
        "beyond_s": wall - manifest.wall_s,
        "beyond_cpu_s": cpu - manifest.cpu_s,
        "peak_mib": peak_mib(),
    }


def in_fresh_process(folder: Path, number: int, keep: str, *, logits: bool, read_only: bool) -> dict[str, float]:
    request = {"folder": str(folder), "number": number, "keep": keep, "logits": logits, "read_only": read_only}
    program = [sys.executable, __file__, "--measure", json.dumps(request)]
    done = subprocess.run(program, check=True, capture_output=True, text=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def row(case: Case, size: str, read_mib: float, rounds: list[dict[str, float]]) -> tuple[str, ...]:
    """Medians over the rounds, and the range of the time beyond reading."""
    median = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    beyond = [each["beyond_s"] for each in rounds]
    spread = "" if len(rounds) == 1 else f" ({min(beyond):.2f} to {max(beyond):.2f})"
    return (
        case.title,
        size,
        f"{median['read_s']:.2f}",
        f"{median['beyond_s']:.2f}{spread}",
        f"{median['beyond_cpu_s']:.2f}",
        f"{read_mib:,.0f}",
        f"{median['peak_mib'] - read_mib:,.0f}",
    )


@click.command()
@click.option("--samples", default=50_000, show_default=True)
@click.option("--classes", default=100, show_default=True)
@click.option("--small-samples", default=5_000, show_default=True, help="For selectors that need features; 10 classes.")
@click.option("--width", default=64, show_default=True, help="Features a sample, on the small manifest.")
@click.option("--keep", default="0.3", show_default=True)
@click.option("--runs", default=1, show_default=True, help="Rounds a selector.")
@click.option("--logits", is_flag=True, help="Store logits of view 0, and let selectors use them.")
@click.option("--only", default="", metavar="TEXT", help="Selectors whose title has this in it.")
@click.option("--measure", hidden=True)
def main(
    samples: int,
    classes: int,
    small_samples: int,
    width: int,
    keep: str,
    runs: int,
    logits: bool,
    only: str,
    measure: str | None,
) -> None:
    if measure is not None:
        request = json.loads(measure)
        case = list(cases(request["logits"]))[request["number"]]
        folder, read_only = Path(request["folder"]), request["read_only"]
        print(json.dumps(measured(folder, case, request["keep"], read_only=read_only)))
        return
    with tempfile.TemporaryDirectory() as name:
        large, small = Path(name) / "large", Path(name) / "small"
        start = time.perf_counter()
        write_manifest(large, samples, classes, logits=logits)
        write_manifest(small, small_samples, 10, width=width)
        print(f"synthetic manifests written in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        rows: list[tuple[str, ...]] = []
        reading_mib: dict[tuple[Any, ...], float] = {}
        for number, case in enumerate(cases(logits)):
            if only not in case.title:
                continue
            folder, size = (
                (small, f"{small_samples:,} x {width}") if case.small else (large, f"{samples:,} x {classes}")
            )
            read = (folder, *case.scores)
            if read not in reading_mib:
                reading = in_fresh_process(folder, number, keep, logits=logits, read_only=True)
                reading_mib[read] = reading["peak_mib"]
            rounds = [in_fresh_process(folder, number, keep, logits=logits, read_only=False) for _ in range(runs)]
            rows.append(row(case, size, reading_mib[read], rounds))
            print(f"{case.title}: {rows[-1][3]} s", file=sys.stderr, flush=True)
    header = (
        "selector",
        "samples x classes, or features",
        "reading s",
        "beyond reading s",
        "of it CPU s",
        "reading MiB",
        "beyond reading MiB",
    )
    print(markdown(header, rows))


if __name__ == "__main__":
    main()
