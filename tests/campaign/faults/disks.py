"""Disks that are full, out of inodes, read-only, or cannot link."""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from campaign.checks import not_whole, problem_of, resumes
from campaign.lab import Command, Lab
from campaign.nursery import FILE_BYTES, LINK_ERROR
from campaign.outcomes import Outcome, fault
from campaign.trials import tried

ROOMY = "size=256m,nr_inodes=100000"
BLOCK_BYTES = 4096
AFTERWARDS = "with room, the same command ends with code 0 and the same bytes"


@dataclass(frozen=True)
class Room:
    """What there is at least, and what an undisturbed command needs."""

    least_blocks: int
    blocks: int
    least_files: int
    files: int
    largest_bytes: int


def _room(lab: Lab, command: Command) -> Room:
    before = _sizes(lab.inputs / command.changes) if command.changes else [0]
    after = _sizes(lab.undisturbed(command))
    return Room(max(1, _blocks(before)), _blocks(after), len(before), len(after), max(after))


def _sizes(folder: Path) -> list[int]:
    return [path.stat().st_size if path.is_file() else 0 for path in [folder, *folder.rglob("*")]]


def _blocks(sizes: list[int]) -> int:
    return sum(-(-size // BLOCK_BYTES) for size in sizes)


def _trials(
    lab: Lab, moments: int, options_of: Callable[[Room], str], codes: set[int], words: tuple[str, ...] = ()
) -> Iterator[Outcome]:
    """Try commands on a disk of their own with options drawn from what they need, then with room."""
    if problem := no_mounts(lab):
        yield Outcome("all", "", skipped=problem)
        return
    trials = []
    for command in lab.commands:
        for _ in range(max(1, moments // 5)):
            options = options_of(_room(lab, command))
            trials.append((command.name, options, partial(_on_a_disk, lab, command, options, codes, words)))
    yield from tried(lab, trials)


def _on_a_disk(lab: Lab, command: Command, options: str, codes: set[int], words: tuple[str, ...], folder: str) -> str:
    out = lab.out(folder)
    _mount(out.parent, ROOMY)
    try:
        lab.prepare(command, out)
        _mount(out.parent, f"remount,{options}")
        done = lab.run(command, out)
        if problem := problem_of(done, {0, *codes}):
            return problem
        if done.code and words and not any(each in done.said for each in words):
            return f"it does not say {words[0]!r}: {done.said.strip()[-200:]}"
        _mount(out.parent, f"remount,rw,{ROOMY}")
        return not_whole(lab, command, out) or resumes(lab, command, out)
    finally:
        subprocess.run(["umount", "--lazy", out.parent], check=True)


@fault(
    "room",
    tried="a disk with less room than the result takes",
    promise=f"code 5 and a sentence, nothing half-written under a final name; {AFTERWARDS}",
)
def room(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Give each command some of the bytes that it needs."""

    def options(needed: Room) -> str:
        return f"size={generator.randint(needed.least_blocks, needed.blocks) * BLOCK_BYTES}"

    return _trials(lab, moments, options, {5}, ("the disk is full", "No space left on device"))


@fault(
    "inodes",
    tried="a disk with fewer inodes than the result takes",
    promise=f"code 5 and a sentence, nothing half-written under a final name; {AFTERWARDS}",
)
def inodes(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Give each command some of the files that it needs, with the root folder."""

    def options(needed: Room) -> str:
        return f"nr_inodes={generator.randint(needed.least_files + 1, needed.files + 1)}"

    return _trials(lab, moments, options, {5}, ("the disk is full", "No space left on device"))


@fault(
    "read-only",
    tried="a read-only disk",
    promise="code 2 or 3 and a sentence; made writable, the same command ends with code 0 and the same bytes",
)
def read_only(lab: Lab, _generator: Random, _moments: int) -> Iterator[Outcome]:
    """Mount the output read-only."""
    return _trials(lab, 1, lambda _needed: "ro", {2, 3})


@fault(
    "file size",
    tried="a limit on the size of files (`ulimit -f`) below that of the largest file",
    promise=f"code 5 and a sentence, nothing half-written under a final name; {AFTERWARDS}",
)
def file_size(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Let each command write no file that is larger than a part of its largest one."""

    def limited(command: Command, size: int, folder: str) -> str:
        out = lab.out(folder)
        lab.prepare(command, out)
        done = lab.run(command, out, **{FILE_BYTES: str(size)})
        return problem_of(done, {0, 5}) or not_whole(lab, command, out) or resumes(lab, command, out)

    trials = []
    for command in lab.commands:
        for _ in range(max(1, moments // 5)):
            # What it prints goes to a file here, and is to fit.
            size = generator.randint(2048, max(2048, _room(lab, command).largest_bytes))
            trials.append((command.name, f"{size} bytes", partial(limited, command, size)))
    return tried(lab, trials)


@fault(
    "links",
    tried="a disk without hard links (EPERM), or with the inputs on another one (EXDEV)",
    promise="code 0 and the same bytes",
)
def links(lab: Lab, _generator: Random, _moments: int) -> Iterator[Outcome]:
    """Refuse os.link."""

    def unlinked(command: Command, error: str, folder: str) -> str:
        out = lab.out(folder)
        lab.prepare(command, out)
        return problem_of(lab.run(command, out, **{LINK_ERROR: error}), {0}) or resumes(lab, command, out)

    return tried(
        lab,
        [
            (command.name, error, partial(unlinked, command, error))
            for command in lab.commands
            for error in ("EPERM", "EXDEV")
        ],
    )


def no_mounts(lab: Lab) -> str:
    """Return why no file system can be mounted here, empty if one can."""
    if os.geteuid():
        return "needs root to mount small disks"
    with TemporaryDirectory(dir=lab.scratch) as place:
        try:
            _mount(Path(place), ROOMY)
        except (OSError, subprocess.CalledProcessError):
            return "no disk can be mounted here"
        subprocess.run(["umount", place], check=True)
    return ""


def _mount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "campaign", place], check=True, capture_output=True)
