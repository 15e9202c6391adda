"""Processes that do jobs: what fails or dies costs itself alone, and nothing outlives who started it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Pipe
from pathlib import Path

import pytest
from sweep_support import linger, load, work

from manifests.errors import InputError, UsageError
from prune_toolkit.sweep.study import TimeLeft
from prune_toolkit.sweep.sweep_folder import SweepFolder, slug
from prune_toolkit.sweep.workers import _serve, run_each, thread_variables


def test_jobs_that_fail_or_die_are_told_and_the_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    jobs = [(str(tmp_path), what) for what in ("a", "fail", "b", "die", "c", "leave", "d")]
    ended = {job[1]: problem for job, problem in run_each(work, jobs, 2)}
    assert ended == {
        **dict.fromkeys("abcd"),
        "fail": "ValueError: fail on purpose",
        "die": "its process was killed by SIGKILL",
        "leave": "exited with code 7",
    }
    told = [json.loads((tmp_path / name).read_text()) for name in "abcd"]
    assert {one["threads"] for one in told} == {thread_variables(2, {})["OMP_NUM_THREADS"]}
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_worker_does_many_jobs_in_their_order_but_none_after_one_that_failed(tmp_path: Path) -> None:
    jobs = [(str(tmp_path), what) for what in ("a", "b", "fail", "c", "die", "d", "e")]
    assert [job for job, _ in run_each(work, jobs, 1)] == jobs
    pids = [json.loads((tmp_path / name).read_text())["pid"] for name in "abcde"]
    assert [pids.index(pid) for pid in pids] == [0, 0, 2, 3, 3]
    assert all(is_gone(pid) for pid in pids)


def test_threads_are_a_share_of_the_cores_unless_somebody_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prune_toolkit.sweep.workers.cores", lambda: 8)
    assert set(thread_variables(3, {}).values()) == {"2"}
    assert set(thread_variables(16, {}).values()) == {"1"}
    assert thread_variables(2, {"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"


def test_a_parent_that_dies_with_an_answer_unread_leaves_its_worker_without_an_error(tmp_path: Path) -> None:
    parents, workers = Pipe()

    def die() -> None:
        with parents:
            parents.send((work, (str(tmp_path), "a")))
            parents.poll(60)

    threading.Thread(target=die, daemon=True).start()
    _serve(workers)
    assert (tmp_path / "a").exists()


def test_a_worker_may_start_processes_of_its_own(tmp_path: Path) -> None:
    assert [problem for _, problem in run_each(load, [str(tmp_path / "read")], 1)] == [None]
    assert json.loads((tmp_path / "read").read_text()) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def wait_for(path: Path) -> list[int]:
    """Process ids in a file, once it is there."""
    for _ in range(600):
        if path.is_file():
            return [int(pid) for pid in path.read_text().split()]
        time.sleep(0.05)
    raise AssertionError(f"{path} did not come")


def is_gone(pid: int) -> bool:
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_workers_are_stopped_by_ctrl_c(tmp_path: Path) -> None:
    path = tmp_path / "slow"

    def interrupt() -> None:
        wait_for(path)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        next(run_each(linger, [str(path)], 1))
    assert [is_gone(pid) for pid in wait_for(path)] == [True, True]


def test_what_a_worker_started_does_not_outlive_it_and_its_death_is_heard_of(tmp_path: Path) -> None:
    # The other process holds the worker's end of the link, and sleeps longer than a test may take.
    ended = [problem for _, problem in run_each(linger, [str(tmp_path / "die"), "quick"], 1)]
    assert [is_gone(pid) for pid in wait_for(tmp_path / "die")] == [True, True]
    assert ended == ["its process was killed by SIGKILL", None]


def script(folder: Path, *jobs: str) -> "subprocess.Popen[bytes]":
    """A process that closes nothing, and ends when a job has ended and the first one has begun."""
    (folder / "script.py").write_text(f"""
import pathlib, time
from sweep_support import linger
from prune_toolkit.sweep.workers import run_each
if __name__ == "__main__":
    outcomes = run_each(linger, {list(jobs)!r}, 2)
    next(outcomes)
    while not pathlib.Path({jobs[0]!r}).exists():
        time.sleep(0.05)
""")
    support = str(Path(__file__).parents[1] / "support")
    return subprocess.Popen([sys.executable, folder / "script.py"], env={**os.environ, "PYTHONPATH": support})


def test_a_process_that_ends_does_not_wait_for_its_workers(tmp_path: Path) -> None:
    parent = script(tmp_path, str(tmp_path / "pid"), "quick")
    try:
        assert parent.wait(60) == 0
    finally:
        parent.kill()
        parent.wait()
    assert [is_gone(pid) for pid in wait_for(tmp_path / "pid")] == [True, True]


def test_a_worker_leaves_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    parent = script(tmp_path, str(tmp_path / "pid"))
    try:
        started = wait_for(tmp_path / "pid")
    finally:
        parent.kill()
        parent.wait()
    assert [is_gone(pid) for pid in started] == [True, True]


def test_the_time_left_is_images_over_the_rate_of_runs_after_the_first_of_each_worker() -> None:
    left = TimeLeft(workers=2, images=1000, now=0)
    assert left.after(100, 10) == pytest.approx(900 / (100 / 10))
    assert left.after(100, 12) == pytest.approx(800 / (200 / 12))
    # From second 12 on 100 images took 2 s.
    assert left.after(100, 14) == pytest.approx(700 / 50)
    assert left.after(700, 28) == 0


FIXED = {"student": "resnet8", "epochs": 3}
ASKED = {"keep": ["0.3"], "select": ["random"], "seeds": 3}


def begun(folder: Path) -> SweepFolder:
    sweep = SweepFolder(folder)
    with sweep.locked():
        sweep.begin(FIXED, ASKED)
    return sweep


@pytest.mark.parametrize(
    "asked",
    [ASKED, {**ASKED, "keep": ["0.1", "0.3"]}, {**ASKED, "seeds": 5}, {**ASKED, "select": ["medium", "random"]}],
)
def test_a_sweep_can_be_extended(tmp_path: Path, asked: dict[str, object]) -> None:
    sweep = begun(tmp_path)
    with sweep.locked():
        sweep.begin(FIXED, asked)
    with pytest.raises(UsageError) if asked != ASKED else sweep.locked():
        sweep.check(FIXED, ASKED)


@pytest.mark.parametrize(
    ("fixed", "asked", "said"),
    [
        ({**FIXED, "epochs": 4}, ASKED, "epochs: 3 there, 4 now"),
        ({**FIXED, "student": None}, ASKED, "student: resnet8 there, none now"),
        (FIXED, {**ASKED, "keep": ["0.1"]}, "keep: without 0.3 now"),
        (FIXED, {**ASKED, "seeds": 2}, "seeds: 3 there, 2 now"),
    ],
)
def test_another_sweep_is_refused_with_what_differs(
    tmp_path: Path, fixed: dict[str, object], asked: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        begun(tmp_path).check(fixed, asked)
    assert said in str(caught.value)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("[1")
    with pytest.raises(InputError, match="not the description of a sweep"):
        SweepFolder(tmp_path).check(FIXED, ASKED)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="is a manifest"), SweepFolder(tmp_path).locked():
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"), SweepFolder(tmp_path / "file").locked():
        pass


def test_a_sweep_overwrites_no_files_of_others(tmp_path: Path) -> None:
    (tmp_path / "table.md").write_text("mine")
    with pytest.raises(UsageError, match=r"holds table.md, which is not of an unfinished sweep"):
        SweepFolder(tmp_path).locked().__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]
    (tmp_path / "sweep.json").write_text("{}")
    with SweepFolder(tmp_path).locked():
        (tmp_path / "runs").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="runs is a symbolic link"):
        SweepFolder(tmp_path).locked().__enter__()
    (tmp_path / "runs").unlink()
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "keep.png").symlink_to(tmp_path / "mine.png")
    with pytest.raises(UsageError, match=r"plots/keep\.png is a symbolic link"):
        SweepFolder(tmp_path).locked().__enter__()


def test_a_sweep_that_was_refused_leaves_no_folder(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.mkdir()
    for folder in (new, old):
        with pytest.raises(InputError), SweepFolder(folder).locked():
            raise InputError("no data")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    with SweepFolder(new).locked():
        (new / "sweep.json").write_text("{}")
    assert (new / "sweep.json").exists()


def test_two_processes_do_not_work_on_one_sweep(tmp_path: Path) -> None:
    with (
        SweepFolder(tmp_path).locked(),
        pytest.raises(UsageError, match="another process"),
        SweepFolder(tmp_path).locked(),
    ):
        pass
    with SweepFolder(tmp_path).locked():
        pass


def test_a_run_keeps_its_folder_whatever_it_is_called_later(tmp_path: Path) -> None:
    sweep = SweepFolder(tmp_path)
    assert sweep.run("abc", "medium, keep 0.3").name == "medium-keep-0.3-abc"
    (tmp_path / "runs" / "old-name-abc").mkdir(parents=True)
    assert sweep.run("abc", "medium, keep 0.3").name == "old-name-abc"
    assert slug("window --position 1/2, ../x") == "window-position-1-2-..-x"
    assert slug("čšž") == "run"
