"""`prune sweep` as a user meets it: trained for real on the digits, killed, gone on with, extended, and refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from manifests.manifest import Manifest

SECONDS = {"training_s", "total_s", "pays_from"}
QUICK = ("--student", "teachers:linear", "--train", "--loader torch --device cpu --lr 0.01")


@pytest.fixture(scope="module")
def scored(prune, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    prune("index", "demo:digits", "--beton", "--out", folder / "index")
    prune("score", folder / "index", "--teacher", "teachers:linear", "--image-size", 8, "--device", "cpu",
          "--out", folder / "manifest")  # fmt: skip
    return folder / "manifest"


@pytest.fixture(scope="module")
def tuned(prune, scored, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A sweep with two KD weights and its JSON."""
    folder = tmp_path_factory.mktemp("tuned")
    return folder, sweep(prune, scored, folder)


def arguments(scored: Path) -> list[object]:
    return [scored, "--val", "demo:digits", "--keep", "0.3", "--select", "easy=window --position 0", "--loss", "kd,ce",
            "--kd-weight", "0.5,.9", "--seeds", 2, "--tune-seeds", 1, "--epochs", 2, *QUICK]  # fmt: skip


def sweep(prune, scored: Path, folder: Path, *further: object, code: int = 0) -> dict[str, Any]:
    done = prune("sweep", *arguments(scored), "--jobs", 2, "--json", *further, cwd=folder, code=code)
    return {"stderr": done.stderr, **(json.loads(done.stdout) if done.stdout else {})}


def finished(folder: Path) -> dict[str, float]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("sweep/runs/*/run.json")}


def without_seconds(folder: Path, name: str = "table") -> list[dict[str, Any]]:
    rows = pq.read_table(folder / "sweep" / f"{name}.parquet").to_pylist()
    return [{key: value for key, value in row.items() if key not in SECONDS} for row in rows]


def test_a_tuned_sweep_holds_every_arm_and_looks_at_the_test_set_once(tuned: tuple[Path, dict[str, Any]]) -> None:
    folder, told = tuned
    rows = without_seconds(folder)
    assert [(row["arm"], row["keep"], row["loss"], row["n"]) for row in rows] == [
        ("random", 0.3, "kd", 2),
        ("all data", 1.0, "kd", 2),
        ("all data, fewer epochs", 0.3, "kd", 2),
        ("RS2", 0.3, "kd", 2),
        ("easy", 0.3, "kd", 2),
        ("easy", 0.3, "ce", 2),
    ]
    assert {row["kd_weight"] for row in rows if row["loss"] == "kd"} <= {0.5, 0.9}
    assert [row["kd_weight"] for row in without_seconds(folder, "tuning")] == [0.5, 0.9] * 5
    assert told["failed"] == []
    assert all((folder / "sweep" / name).is_file() for name in told["files"])
    for run in (folder / "sweep" / "runs").iterdir():
        history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["val_top1"] is None for row in history] == [True] * (len(history) - 1) + [False]
        assert not (run / "checkpoint.pt").exists()


def test_what_is_chosen_is_what_was_best_on_the_hold_out(tuned: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = tuned
    best: dict[str, tuple[float, float]] = {}
    for row in without_seconds(folder, "tuning"):
        if row["arm"] not in best or row["mean"] > best[row["arm"]][0]:
            best[row["arm"]] = row["mean"], row["kd_weight"]
    for row in without_seconds(folder):
        if row["loss"] == "kd":
            assert row["kd_weight"] == best[row["arm"]][1]


def test_tuning_neither_learns_from_nor_is_judged_on_other_samples_than_it_says(tuned) -> None:
    folder, _ = tuned
    held = Manifest.open(folder / "sweep" / "holdout")
    held_N = held.selection().column("keep").to_numpy()
    runs = pq.read_table(folder / "sweep" / "runs.parquet").to_pylist()
    for phase, is_tuning in (("tuning", True), ("final", False)):
        for run in [run for run in runs if run["phase"] == phase]:
            report = json.loads((folder / "sweep" / "runs" / run["run"] / "run.json").read_bytes())
            assert (report["validation"]["data"] == held.id) is is_tuning
            selected = Manifest.open(folder / run["select"].split()[-1])
            assert selected.id == report["manifest"]["id"]
            kept_N = selected.selection().column("keep").to_numpy()
            assert bool((kept_N & held_N).any()) is not is_tuning


def test_the_table_has_the_commands_of_its_rows(tuned, prune) -> None:
    folder, _ = tuned
    [row] = [row for row in without_seconds(folder, "runs") if (row["arm"], row["seed"]) == ("RS2", 1)]
    select, train = row["select"].split(), row["train"].split()
    assert select[:2] == ["prune", "select"]
    again = prune("select", *select[2:-1], folder / "again", cwd=folder)
    assert "1,298 samples kept" in again.stdout
    assert Manifest.open(folder / "again").id == Manifest.open(folder / select[-1]).id
    assert train[0] == "train-student"
    assert train[train.index("--dynamic") + 1 : train.index("--dynamic") + 4] == ["rs2", "--keep", "0.3"]


def test_selections_lose_their_images_when_their_runs_are_done(tuned) -> None:
    folder, _ = tuned
    assert list(folder.glob("sweep/selections/*/manifest.json"))
    assert not list(folder.glob("sweep/selections/*/train.beton"))


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_and_more_of_the_grid_only_that(tuned, prune, scored) -> None:
    folder, _ = tuned
    before, table = finished(folder), without_seconds(folder)
    # The same numbers, spelled in another way.
    again = sweep(prune, scored, folder, "--keep", "30%", "--kd-weight", "5e-1,0.90", "--holdout", ".1")
    assert "0 images to be shown" in again["stderr"]
    assert finished(folder) == before
    assert without_seconds(folder) == table
    more = sweep(prune, scored, folder, "--select", "hard=window --position 1 -- --loss ce")
    new = finished(folder).keys() - before.keys()
    assert len(new) == 2
    assert all(name.startswith("hard") for name in new)
    assert {name: time for name, time in finished(folder).items() if name in before} == before
    assert [row["arm"] for row in more["rows"]] == [*(row["arm"] for row in table), "hard"]


def test_a_dry_run_says_what_there_would_be_and_writes_nothing(prune, scored, tmp_path) -> None:
    said = prune("sweep", *arguments(scored), "--dry-run", "--json", cwd=tmp_path)
    plan = json.loads(said.stdout)
    assert [phase["judged_on"] for phase in plan["phases"]] == ["hold-out", "demo:digits"]
    # Five arms with two weights each, one seed; then six arms, two seeds.
    assert [phase["runs"] for phase in plan["phases"]] == [10, 12]
    text = prune("sweep", *arguments(scored), "--dry-run", cwd=tmp_path).stdout
    assert "all data, fewer epochs" in text
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_is_left_out_and_why(prune, scored, tmp_path) -> None:
    flags = ("--loss", "kd,lskd", "--dynamic", "infobatch", "--keep", "0.30,0.5")
    told = prune("sweep", *arguments(scored), *flags, "--dry-run", "--json", cwd=tmp_path)
    # Of both phases, all weights and seeds: one note.
    assert told.stderr.count("InfoBatch is left out at keep 0.3, 0.5, 1: fewer than 2 of its epochs") == 1
    assert told.stderr.count("--kd-weight is left out for lskd, which keeps its published 9") == 1
    rows = json.loads(told.stdout)["rows"]
    assert {(row["arm"], row["keep"], row["kd_weight"]) for row in rows if row["loss"] == "lskd"} == {
        ("easy", "0.3", "-"),
        ("easy", "0.5", "-"),
    }
    assert "InfoBatch" not in {row["arm"] for row in rows}


def test_a_hold_out_of_a_sweep_that_never_began_is_replaced(prune, scored, tmp_path) -> None:
    for share, count in (("0.1", 130), ("0.4", 519), ("40%", 519)):
        prune("sweep", scored, "--select", "window --score nothing", "--holdout", share, cwd=tmp_path, code=2)
        held = Manifest.open(tmp_path / "sweep" / "holdout").header.selection
        assert held is not None
        assert held.count == count
    assert not (tmp_path / "sweep" / "sweep.json").exists()


def test_a_selection_that_somebody_made_is_not_taken_for_a_hold_out(prune, scored, tmp_path) -> None:
    prune("select", scored, "--keep", "0.1", "--selector", "random", "--labels", "raw", "--no-beton",
          "--out", tmp_path / "sweep" / "holdout")  # fmt: skip
    told = prune("sweep", scored, "--epochs", 1, cwd=tmp_path, code=2)
    assert "sweep holds holdout/README.md and 5 more, which is not of an unfinished sweep" in told.stderr
    assert (tmp_path / "sweep" / "holdout" / "manifest.json").is_file()


def test_planning_needs_no_torch(scored, teachers, tmp_path) -> None:
    words = ["sweep", *map(str, arguments(scored)), "--dry-run"]
    code = f"""
import sys
from trainer.cli.console import run_cli
from prune_toolkit.main import cli
try:
    run_cli(cli, {words!r})
except SystemExit as left:
    sys.exit(left.code or 7 * bool({{"torch", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "RS2" in done.stdout


@pytest.mark.slow
def test_without_test_images_everything_is_judged_on_the_hold_out(prune, scored, tmp_path) -> None:
    done = prune(
        "sweep", scored, "--keep", "1", "--kd-weight", "0,1", "--epochs", 1, "--seeds", 1, *QUICK, cwd=tmp_path
    )
    assert "percent" in done.stdout
    rows = without_seconds(tmp_path)
    assert [(row["arm"], row["kd_weight"]) for row in rows] == [
        ("random", 0),
        ("random", 1),
        ("all data", 0),
        ("all data", 1),
    ]
    assert not (tmp_path / "sweep" / "tuning.parquet").exists()
    assert (tmp_path / "sweep" / "plots" / "kd-weight.png").is_file()
    held = Manifest.open(tmp_path / "sweep" / "holdout")
    assert held.header.selection is not None
    assert held.header.selection.count == 130


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_the_others_go_on(prune, scored, tmp_path) -> None:
    bad = "bad=random -- --student nothing:there"
    common = (scored, "--val", "demo:digits", "--keep", "0.3", "--seeds", 1, "--epochs", 1, *QUICK)
    told = prune("sweep", *common, "--select", "random", "--select", bad, "--json", cwd=tmp_path, code=5)
    assert "FAILED" in told.stderr
    assert "1 of the runs failed" in told.stderr
    result = json.loads(told.stdout)
    assert [row["arm"] for row in result["rows"]] == ["random", "all data", "all data, fewer epochs", "RS2"]
    [failed] = result["failed"]
    log = Path(failed.rpartition("(")[2].rstrip(")"))
    assert "Traceback" in (tmp_path / log).read_text()
    # When nothing can succeed, that is said at once.
    common = (*common[:-4], "--student", "nothing:there", "--train", "--loader torch", "--out", "hopeless")
    hopeless = prune("sweep", *common, "--select", "easy=window --position 0", cwd=tmp_path, code=5)
    assert "the first 4 runs failed in the same way" in hopeless.stderr


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--select", "meduim"), 2, "unknown selector"),
        (("--select", "window --score nothing"), 2, "no score"),
        (("--keep", "0"), 2, "must be a fraction"),
        (("--keep", ","), 2, "names nothing"),
        (("--kd-weight", "half"), 2, "not a list of numbers"),
        (("--kd-weight", "0,0.9:0.5"), 2, "a sweep tries constant weights"),
        (("--val", "no-such-folder"), 3, "no-such-folder"),
        (("--train", "--recipe none"), 2, "unknown recipe"),
        (("--loss", "kld"), 2, "unknown loss"),
    ],
)
def test_wrong_input_ends_before_anything_is_trained(prune, scored, tmp_path, flags, code, said) -> None:
    told = prune("sweep", scored, "--val", "demo:digits", *flags, cwd=tmp_path, code=code)
    assert said in told.stderr
    assert not (tmp_path / "sweep" / "runs").exists()


def test_another_sweep_in_the_folder_is_refused_by_what_differs(tuned, prune, scored) -> None:
    folder, _ = tuned
    told = sweep(prune, scored, folder, "--epochs", "3", code=2)
    assert "epochs: 2 there, 3 now" in told["stderr"]
    told = sweep(prune, scored, folder, "--keep", "0.4", code=2)
    assert "keep: without 0.3 now" in told["stderr"]


def test_a_manifest_that_is_not_scored_or_not_there_is_refused(prune, scored, tmp_path) -> None:
    assert "prune score" in prune("sweep", scored.parent / "index", "--val", "demo:digits", cwd=tmp_path, code=2).stderr
    assert "no manifest" in prune("sweep", "nowhere", cwd=tmp_path, code=3).stderr


def killed(scored: Path, teachers: Path, folder: Path, runs: int, how: signal.Signals) -> int:
    """Start the sweep, stop it by a signal once so many runs are finished; its exit code."""
    words = list(map(str, arguments(scored)))
    command = [sys.executable, "-m", "prune_toolkit", "sweep", *words, "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(teachers)}
    with (folder / "killed.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            for _ in range(1200):
                if len(finished(folder)) >= runs or process.poll() is not None:
                    break
                time.sleep(0.05)
            process.send_signal(how)
        finally:
            code = process.wait(30)
    assert "Traceback" not in (folder / "killed.log").read_text()
    return code


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_ends_as_if_undisturbed(tuned, prune, teachers, tmp_path, scored) -> None:
    code = killed(scored, teachers, tmp_path, 4, signal.SIGKILL)
    before = finished(tmp_path)
    assert code == -signal.SIGKILL
    assert 4 <= len(before) < 22
    again = sweep(prune, scored, tmp_path)
    assert again["failed"] == []
    assert f"{len(before)} of them finished already" in again["stderr"]
    assert {name: time for name, time in finished(tmp_path).items() if name in before} == before
    undisturbed = [row for row in without_seconds(tuned[0]) if row["arm"] != "hard"]
    assert without_seconds(tmp_path) == undisturbed
    assert without_seconds(tmp_path, "tuning") == without_seconds(tuned[0], "tuning")
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 5), (signal.SIGINT, 130)])
def test_stopped_by_a_signal_it_goes_on(tuned, prune, teachers, tmp_path, scored, how, code) -> None:
    assert killed(scored, teachers, tmp_path, 12, how) == code
    assert "run the same command again to resume" in (tmp_path / "killed.log").read_text()
    before = finished(tmp_path)
    sweep(prune, scored, tmp_path)
    assert {name: time for name, time in finished(tmp_path).items() if name in before} == before
    assert without_seconds(tmp_path) == [row for row in without_seconds(tuned[0]) if row["arm"] != "hard"]
