"""Damaged and forged manifests: every one is read, or refused by an error of ours; see tests/support/mutating.py."""

import json
import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import mutating
import pytest
import small_beton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.base.files import atomic_file
from manifests.errors import InputError
from manifests.format.header_file import parse_header
from manifests.format.parts import parse_part
from manifests.untrusted.pages import pages, read_footer

MOST_MIB = 1024
ROOT = Path(__file__).resolve().parents[2]
HEADER = (mutating.GOLDEN / "1.2" / "scores" / "manifest.json").read_bytes()
PART = (mutating.GOLDEN / "1.2" / "scores" / "samples" / "part-00000.parquet").read_bytes()


def listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def in_a_process(folder: Path, seed: int, count: int) -> dict[str, int]:
    """Run some mutations by themselves: a crash is its exit code, and memory is that of nobody else."""
    arena = folder / "arena"
    arena.mkdir()
    (folder / "bystander").write_text("untouched")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    child = subprocess.run(
        [sys.executable, mutating.__file__, str(seed), str(count), str(arena)],
        cwd=arena,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, f"exit {child.returncode} {child.stderr[-3000:]}"
    assert listing(folder) == {"arena", "arena/outside", "arena/outside/file", "bystander"}
    assert (folder / "bystander").read_text() == "untouched"
    told: dict[str, int] = json.loads(child.stdout)
    return told


def test_mutations_end_in_an_answer_or_an_error_of_ours_within_bounds(tmp_path: Path) -> None:
    told = in_a_process(tmp_path, 0, 250)
    assert told["peak_mib"] < MOST_MIB
    # Where nothing or all could be read the mutations would test nothing.
    assert 25 < told["read"] < 225


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_of_them(tmp_path: Path) -> None:
    told = in_a_process(tmp_path, 1_000_000, 10_000)
    assert told["peak_mib"] < MOST_MIB


def test_a_fault_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise KeyError("loss")

    monkeypatch.setattr("mutating.verify", broken)
    with pytest.raises(KeyError):
        mutating.use_manifest(tmp_path, random.Random(0))


def until_it_is_seen(folder: Path) -> None:
    for seed in range(1000):
        mutating.one(seed, folder, b"")


def test_a_stranger_that_is_pulled_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manifests.format.header_checks.is_file_of_a_manifest", lambda _path: True)
    with pytest.raises(AssertionError, match=r"was pulled|is what somebody else wrote"):
        until_it_is_seen(tmp_path)


def test_what_is_written_through_a_link_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "manifests.stores.destinations.FolderDestination.writer", lambda self, path: atomic_file(self.folder / path)
    )
    with pytest.raises(AssertionError, match=r"written through a link: .*teacher\.svg"):
        until_it_is_seen(tmp_path)


@pytest.mark.parametrize("number", [0, 1])
def test_a_bomb_is_small_and_refused(number: int) -> None:
    bomb = mutating.bombs()[number]
    assert len(bomb) < 100_000
    with pytest.raises(InputError, match="more than 384 MiB"):
        parse_part(bomb, "part")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.integers(0, len(HEADER)), st.integers(0, 200))
def test_any_bytes_put_into_a_header_are_read_or_refused(inserted: bytes, at: int, removed: int) -> None:
    content = HEADER[:at] + inserted + HEADER[at + removed :]
    mutating._attempt(lambda: parse_header(content, "manifest.json"))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.integers(0, len(PART)), st.integers(0, 200))
def test_any_bytes_put_into_a_part_have_a_footer_and_pages_or_none(inserted: bytes, at: int, removed: int) -> None:
    content = PART[:at] + inserted + PART[at + removed :]
    with suppress(ValueError):
        for chunk in read_footer(content).chunks:
            assert sum(1 for _ in pages(content, chunk)) <= len(content)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_a_damaged_beton_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    whole = tmp_path / "whole"
    if not whole.exists():
        small_beton.write(whole)
    path = tmp_path / "damaged"
    path.write_bytes(mutating.damaged(whole.read_bytes(), random.Random(seed)))
    assert mutating.use_beton(path) in (0, 1)
