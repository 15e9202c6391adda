"""Who does which parts."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests_support import tree_bytes

from manifests.errors import UsageError
from manifests.format.header import DataSet
from manifests.manifest import Manifest
from prune_toolkit.work.part_work import Outcome, PartWork, Totals, WorkShare, clear_times, note_time, totals


def test_ranks_take_every_part_exactly_once() -> None:
    parts = [list(WorkShare(rank=rank, world_size=3).parts(60_000)) for rank in range(3)]
    assert parts == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_flags_win_over_torchrun_and_torchrun_over_slurm() -> None:
    environment = {"RANK": "2", "WORLD_SIZE": "4", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "9"}
    assert WorkShare.resolve(1, 5, environment) == WorkShare(rank=1, world_size=5)
    assert WorkShare.resolve(None, None, environment) == WorkShare(rank=2, world_size=4)
    del environment["RANK"]
    assert WorkShare.resolve(None, None, environment) == WorkShare(rank=0, world_size=9)
    assert WorkShare.resolve(None, None, {}) == WorkShare(rank=0, world_size=1)


def test_a_slurm_array_may_start_at_any_number() -> None:
    environment = {"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "4"}
    assert WorkShare.resolve(None, None, environment) == WorkShare(rank=2, world_size=4)


@pytest.mark.parametrize(("rank", "world_size"), [(3, 3), (-1, 2), (0, 0)])
def test_impossible_ranks_are_refused(rank: int, world_size: int) -> None:
    with pytest.raises(UsageError, match="rank"):
        WorkShare.resolve(rank, world_size, {})


def test_a_rank_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="RANK='one'"):
        WorkShare.resolve(None, None, {"RANK": "one", "WORLD_SIZE": "2"})


def test_times_of_parts_add_up_until_they_are_cleared(tmp_path: Path) -> None:
    assert totals(tmp_path, 0) == (0, 0)
    note_time(tmp_path, 0, 1.25)
    note_time(tmp_path, 3, 2.5, hits=7)
    note_time(tmp_path, 0, 1.5)  # the part was made again
    (tmp_path / ".times" / "part-00009.json").write_text("half a fi")
    assert totals(tmp_path, 2) == (4.0, 7)
    assert totals(tmp_path, 3) == (4.0, None)
    clear_times(tmp_path)
    clear_times(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_time_of_a_part_may_come_after_they_were_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def cleared_first(self: Path, *arguments: Any, **options: Any) -> Any:
        clear_times(tmp_path)
        return opened(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", cleared_first)
        note_time(tmp_path, 0, 1.25)
    assert list(tmp_path.iterdir()) == []


def outcome_of(seconds: float) -> Outcome:
    data = DataSet(name="d", source="folder", count=0, readable=0, class_names=["a"], fingerprint="f")
    return Outcome(blocks={"kind": "index", "data": data, "run": {"seconds": seconds}})


@pytest.mark.parametrize("when", ["before it finishes", "while it finishes"])
def test_of_two_ranks_that_find_all_parts_there_the_first_header_stays_with_all_times(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def finish(parts: Totals, _start: float) -> Outcome:
        found.append(parts.seconds)
        if when == "while it finishes" and len(found) == 1:
            other()
        return outcome_of(parts.seconds)

    def other() -> None:
        assert work.run() is not None
        assert not (tmp_path / ".times").exists()

    def slow(out: Path, parts: int) -> Totals:
        total = totals(out, parts)
        if when == "before it finishes":
            monkeypatch.setattr("prune_toolkit.work.part_work.totals", totals)
            other()
        return total

    work = PartWork(out=tmp_path, config={}, count=0, finish=finish)
    note_time(tmp_path, 0, 2.0)
    note_time(tmp_path, 1, 3.0)
    monkeypatch.setattr("prune_toolkit.work.part_work.totals", slow)
    done = work.run()
    assert done is not None
    assert done.header.run["seconds"] == Manifest.open(tmp_path).header.run["seconds"] == 5.0
    assert set(found) == {5.0}


def test_what_a_late_rank_or_a_kill_left_beside_a_finished_manifest_goes_with_the_next_run(tmp_path: Path) -> None:
    work = PartWork(out=tmp_path, config={}, count=0, finish=lambda parts, _: outcome_of(parts.seconds))
    assert work.run() is not None
    there, host, ended = tree_bytes(tmp_path), os.uname().nodename.replace(".", "-"), subprocess.Popen(["true"])
    ended.wait()
    note_time(tmp_path, 0, 2.0)
    for name in ("local.json", "card/scores-teacher.svg"):
        left = tmp_path / name
        left.parent.mkdir(exist_ok=True)
        left.with_name(f".{left.name}.{host}.{ended.pid}.tmp").touch()
    living = tmp_path / f".README.md.{host}.{os.getppid()}.tmp"
    living.touch()
    assert work.run() is not None
    living.unlink()
    assert tree_bytes(tmp_path) == there
    assert not (tmp_path / ".times").exists()
