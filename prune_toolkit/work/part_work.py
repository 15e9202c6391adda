"""Make a manifest part by part: share parts among processes, skip finished ones, commit the header.

Processes do not communicate: rank r takes parts r, r + W, ...; any process that finds every part valid commits. Several
may: their headers differ in `run` only, and the first one stays.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from manifests.base.files import remove_temporaries, write_atomic
from manifests.base.layout import HEADER_NAME
from manifests.base.progress import note, one_line
from manifests.card.readme import write_card
from manifests.errors import InputError, UsageError
from manifests.format.child_header import Blocks, Making, child_header
from manifests.format.header import FileEntry, Header, Tool
from manifests.format.parts import config_digest, part_count, part_is_valid, part_path
from manifests.manifest import Manifest, commit, part_entries, write_local
from prune_toolkit.work.unfinished import TIMES, check_unfinished
from trainer.teachers.teacher_place import TEACHER


@dataclass(frozen=True, kw_only=True)
class WorkShare:
    """The rank of this process among those that share the work."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise UsageError(
                f"rank {self.rank} of {self.world_size} processes",
                hint="ranks count from 0: set RANK and WORLD_SIZE, or --rank and --world-size",
            )

    @classmethod
    def resolve(
        cls, rank: int | None, world_size: int | None, environment: Mapping[str, str] = os.environ
    ) -> "WorkShare":
        """Take ranks from flags, torchrun's RANK and WORLD_SIZE, or a Slurm array's task numbers; default: alone."""
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
        """Return the parts this process makes."""
        return range(self.rank, part_count(rows), self.world_size)


ALONE = WorkShare()


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise UsageError(f"environment variable {name}={environment[name]!r} is not a number") from None


@dataclass(frozen=True)
class Outcome:
    """The rest of a manifest, known once all its parts are there."""

    blocks: Blocks
    """New blocks of the header: all except parents, tool, config and files."""
    local: Mapping[str, Any] | None = None
    """Its images on this machine, as local.json names them; None if that is unknown."""
    tables: Sequence[str] = ()
    """Tables that were written in addition to those made part by part."""
    files: Sequence[FileEntry] = ()
    """Files that do not belong to a table, such as a beton."""
    rewritten: Collection[str] = ()
    """Parts of linked tables that were written anew."""


@dataclass(frozen=True, kw_only=True)
class PartWork:
    """A manifest to be made: linked tables, tables made part by part, the function that finishes it, its header."""

    out: Path
    config: Mapping[str, Any]
    """Everything the result depends on, without paths."""
    count: int
    """Number of samples of the data set."""
    finish: Callable[["Totals", float], Outcome]
    """Write the rest and return the outcome, given the totals of the parts and this process's start (monotonic)."""
    making: Making = Making.DERIVED
    parents: Sequence[Manifest] = ()
    linked: Mapping[str, Manifest] = field(default_factory=dict)
    """Tables that are linked unchanged, and the manifest of each."""
    tables: Sequence[str] = ()
    """The tables of a part, which is done when it has them all; empty if `finish` writes everything."""
    make: Callable[[list[int], str], None] | None = None
    """Write some parts with the digest of the configuration; may call `note_time` before a part's last table."""
    before: Callable[[], object] | None = None
    """May refuse the input, before anything is written."""
    ranks: WorkShare = ALONE
    finish_only: bool = False

    def run(self) -> Manifest | None:
        """Do this process's share and commit if all parts are there; None if other ranks have not finished theirs."""
        if done := finished(self.out, self.config):
            note(f"{self.out} is finished already")
            self._tidy()
            return done
        check_unfinished(self.out)
        start, digest, everything = time.monotonic(), config_digest(self.config), ALONE.parts(self.count)
        if self.before is not None:
            self.before()
        self.out.mkdir(parents=True, exist_ok=True)
        for table, parent in self.linked.items():
            parent.link_table(table, self.out)
        mine = [] if self.finish_only else list(self._missing(self.ranks.parts(self.count), digest))
        if mine and self.make is not None:
            self.make(mine, digest)
        if left := list(self._missing(everything, digest)):
            note(f"{len(left)} of {len(everything)} parts are not there yet")
            return None
        # Another rank may find all parts there too. The one that commits clears the times, so they are read before
        # checking for its header: either the times are complete, or the header is there.
        parts = totals(self.out, len(everything))
        if done := finished(self.out, self.config):
            self._tidy()
            return done
        outcome = self.finish(parts, start)
        if outcome.local is not None:
            # The images may be others than the parents', the teacher is not.
            teachers = [parent.local[TEACHER] for parent in self.parents if TEACHER in parent.local]
            write_local(self.out, {**({TEACHER: teachers[0]} if teachers else {}), **outcome.local})
        header = self._header(outcome)
        write_card(self.out, header)
        done = finished(self.out, self.config) or commit(self.out, header)
        self._tidy()
        return done

    def _tidy(self) -> None:
        """Remove what this process, and killed ones, left beside a finished manifest."""
        remove_temporaries(self.out)
        clear_times(self.out)

    def run_alone(self) -> Manifest:
        """Run work that is not shared."""
        done = self.run()
        assert done is not None, "one process makes all parts"
        return done

    def _header(self, outcome: Outcome) -> Header:
        tables = [*self.linked, *self.tables, *outcome.tables]
        made: Blocks = {
            "parents": [parent.id for parent in self.parents],
            "tool": tool(),
            "config": dict(self.config),
            "files": [*self._parts(tables, outcome.rewritten), *outcome.files],
            **outcome.blocks,
        }
        return child_header(self.making, *(parent.header for parent in self.parents), **made)

    def _parts(self, tables: list[str], rewritten: Collection[str]) -> list[FileEntry]:
        """Describe all parts. Raises InputError if a linked one was written to since: it is the parent's file."""
        entries = part_entries(self.out, tables, self.count)
        named = {entry.path: entry.sha256 for table, parent in self.linked.items() for entry in parent.require(table)}
        for entry in entries:
            if entry.path not in rewritten and named.get(entry.path, entry.sha256) != entry.sha256:
                raise InputError(
                    f"{self.out / entry.path} was altered while this command ran: it is a file of the manifest it read",
                    hint="`prune verify` lists every altered file; fetch or make that manifest again",
                )
        return entries

    def _missing(self, parts: range, digest: str) -> Iterator[int]:
        """Yield the parts of which a table is missing or invalid."""
        for part in parts:
            if not all(part_is_valid(self.out / part_path(table, part), digest) for table in self.tables):
                yield part


def finished(out: Path, config: Mapping[str, Any]) -> Manifest | None:
    """Return the manifest at `out` if it was made with this configuration, None if there is none.

    Raises UsageError if another manifest is there, because manifests are never changed.
    """
    if not (out / HEADER_NAME).is_file():
        return None
    manifest = Manifest.open(out)
    there = manifest.header.config
    if there != dict(config):
        changed = sorted(key for key in there.keys() | config.keys() if there.get(key) != config.get(key))
        raise UsageError(
            f"{out} is a finished manifest made with other options ({one_line(', '.join(changed))} differ)",
            hint="manifests are never changed: name another folder with --out, or delete this one",
        )
    return manifest


class Totals(NamedTuple):
    """Totals over all parts, whichever process made them."""

    seconds: float
    hits: int | None
    """Training views whose largest teacher logit is that of the label; None if some parts do not record it."""


def note_time(out: Path, part: int, seconds: float, hits: int = 0) -> None:
    """Store a part's time and the teacher's hits beside the parts, until the header has their sums."""
    content = {"seconds": round(seconds, 3), "hits": hits}
    # Another process that made the same parts may have finished meanwhile, and cleared the times.
    with suppress(FileNotFoundError):
        write_atomic(out / TIMES / f"part-{part:05d}.json", json.dumps(content).encode())


def totals(out: Path, parts: int) -> Totals:
    """Sum up what `note_time` stored for `parts` parts; unreadable files count as no time."""
    seconds, hits = 0.0, []
    for path in (out / TIMES).glob("part-*.json"):
        try:
            content = json.loads(path.read_bytes())
            seconds += float(content["seconds"])
            hits.append(int(content["hits"]))
        except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError):
            continue
    return Totals(round(seconds, 3), sum(hits) if len(hits) == parts else None)


def clear_times(out: Path) -> None:
    """Remove what `note_time` stored: it does not belong to a manifest."""
    shutil.rmtree(out / TIMES, ignore_errors=True)


def local_with_beton(parent: Manifest) -> dict[str, Any]:
    """Return the place of a parent's images for local.json, including its beton."""
    beton = {} if parent.beton_path is None else {"beton": os.path.realpath(parent.beton_path)}
    return {**parent.local, **beton}


def tool() -> Tool:
    """Return the name and version of this toolkit, for the header."""
    from importlib.metadata import version

    return Tool(name="prune-toolkit", version=version("prune-toolkit"))
