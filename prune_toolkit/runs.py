"""Work on a manifest part by part: who does which parts, what is done already, who writes the header.

Processes need no contact: rank r takes parts r, r + W, ...; whoever finds every part valid commits.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.errors import UsageError
from manifests.files import write_atomic
from manifests.header import HEADER_NAME, Tool
from manifests.manifest import Manifest
from manifests.parts import part_count, part_is_valid, part_path

TIMES = ".times"


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that share the work."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise UsageError(
                f"rank {self.rank} of {self.world_size} processes",
                hint="ranks count from 0: set RANK and WORLD_SIZE, or --rank and --world-size",
            )

    @classmethod
    def resolve(cls, rank: int | None, world_size: int | None, environment: Mapping[str, str] = os.environ) -> "Ranks":
        """From flags, torchrun's RANK and WORLD_SIZE, or a Slurm array's task numbers; else alone."""
        if rank is not None or world_size is not None:
            return cls(rank=rank or 0, world_size=1 if world_size is None else world_size)
        if "RANK" in environment and "WORLD_SIZE" in environment:
            return cls(rank=_number(environment, "RANK"), world_size=_number(environment, "WORLD_SIZE"))
        if "SLURM_ARRAY_TASK_ID" in environment and "SLURM_ARRAY_TASK_COUNT" in environment:
            first = int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
            task = _number(environment, "SLURM_ARRAY_TASK_ID") - first
            return cls(rank=task, world_size=_number(environment, "SLURM_ARRAY_TASK_COUNT"))
        return cls()

    def parts(self, rows: int) -> range:
        """The parts this process makes."""
        return range(self.rank, part_count(rows), self.world_size)


ALONE = Ranks()


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise UsageError(f"the environment says {name}={environment[name]!r}: not a number") from None


def missing_parts(folder: Path, tables: list[str], parts: range, digest: str) -> Iterator[int]:
    """Parts of which some table is not there or does not hold."""
    for part in parts:
        if not all(part_is_valid(folder / part_path(table, part), digest) for table in tables):
            yield part


def finished(out: Path, config: Mapping[str, Any]) -> Manifest | None:
    """The manifest at `out` when this very configuration made it, None when there is none.

    UsageError when `out` holds another manifest: manifests are never changed.
    """
    if not (out / HEADER_NAME).is_file():
        if out.exists() and not out.is_dir():
            raise UsageError(f"{out} is a file; the manifest needs a folder", hint="name another with --out")
        return None
    manifest = Manifest.open(out)
    if manifest.header.config != dict(config):
        changed = sorted(
            key
            for key in manifest.header.config.keys() | config.keys()
            if manifest.header.config.get(key) != config.get(key)
        )
        raise UsageError(
            f"{out} holds a finished manifest made otherwise ({', '.join(changed)} differ)",
            hint="manifests are never changed: name another folder with --out, or delete this one",
        )
    return manifest


def note_time(out: Path, part: int, seconds: float) -> None:
    """Keep how long a part took beside the parts, until the header sums them up."""
    write_atomic(out / TIMES / f"part-{part:05d}.json", json.dumps({"seconds": round(seconds, 3)}).encode())


def total_seconds(out: Path) -> float:
    """Seconds that all processes together have spent on the parts; a time that cannot be read counts nothing."""
    total = 0.0
    for path in (out / TIMES).glob("part-*.json"):
        try:
            total += float(json.loads(path.read_bytes())["seconds"])
        except (OSError, ValueError, TypeError, LookupError):
            continue
    return round(total, 3)


def clear_times(out: Path) -> None:
    """Remove what `note_time` kept: it is no part of a manifest."""
    shutil.rmtree(out / TIMES, ignore_errors=True)


def tool() -> Tool:
    """What writes these manifests."""
    from importlib.metadata import version

    return Tool(name="prune-toolkit", version=version("prune-toolkit"))
