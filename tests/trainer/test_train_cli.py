"""train-student as a user meets it: help, prune.toml, exit codes, signals, torchrun."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from trainer_support import ended, renamed, two_ranks

from trainer.cli.console import run_cli
from trainer.cli.train_student import train_student
from trainer.loop import training
from trainer.loop.student import Student

COMMAND = [sys.executable, "-c", "from trainer.cli.train_student import main; main()"]
QUICK = ["--device", "cpu", "--loader", "torch", "--workers", "1", "--batch-size", "16", "--lr", "0.05"]


@pytest.fixture
def folder(networks, tmp_path, monkeypatch):
    """An empty current folder; tiny_networks can be imported and there is one thread, here and in children."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(networks))
    monkeypatch.setenv("PYTHONPATH", str(networks))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def selection(make_manifest):
    return make_manifest(count=96, views=1, weighted=True)


@pytest.fixture(scope="module")
def val(make_manifest):
    return make_manifest(count=51, seed=9)


def call(*args, capsys):
    """Exit code, stdout, stderr of the command in this process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as left:
            run_cli(train_student, [str(arg) for arg in args])
    finally:
        signal.signal(signal.SIGTERM, before)
    return left.value.code, *capsys.readouterr()


def test_help_and_dry_run_need_no_torch(selection, folder):
    for args in (["--help"], ["--manifest", str(selection.path), "--dry-run"]):
        code = f"""
import sys
from trainer.cli.console import run_cli
from trainer.cli.train_student import train_student
try:
    run_cli(train_student, {args!r})
except SystemExit as left:
    sys.exit(left.code or 7 * ("torch" in sys.modules))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert list(folder.iterdir()) == []


def test_help_shows_an_example_and_every_option_under_a_heading(folder, capsys):
    code, out, _ = call("--help", capsys=capsys)
    assert code == 0
    assert "train-student --manifest selection --val photos" in out
    for heading in ("Data:", "Student:", "Recipe", "Loss:", "Machine:", "Run:"):
        assert heading in out


def test_dry_run_prints_the_resolved_configuration_and_the_steps(selection, folder, capsys):
    args = ("--manifest", selection.path, "--epochs", 24, "--dry-run")
    code, out, err = call(*args, capsys=capsys)
    plan = json.loads(out)
    assert code == 0
    assert (plan["recipe"], plan["epochs"], plan["milestones"]) == ("cifar", 24, [15, 18, 21])
    assert (plan["steps_per_epoch"], plan["manifest"]) == (1, selection.id)
    assert "single: fresh views of pad_crop_flip that the teacher did not score, with the label of view 0" in err


def test_flags_win_over_prune_toml_and_the_table_over_the_top(selection, folder, capsys):
    (folder / "prune.toml").write_text(
        f"student = 'resnet20'\nseed = 4\ncheckpoint = 'of-the-teacher.pt'\n"
        f"[train-student]\nmanifest = '{selection.path}'\nepochs = 7\nmilestones = [2, 4.5]\nseed = 5\n"
    )
    code, out, err = call("--dry-run", "--epochs", 9, capsys=capsys)
    assert code == 0, err
    plan = json.loads(out)
    assert (plan["student"], plan["seed"], plan["epochs"], plan["milestones"]) == ("resnet20", 5, 9, [2, 4.5])
    assert plan["weights"] is None


def test_flags_of_the_loss_and_of_revision_are_read(selection, folder, capsys):
    base = ("--manifest", selection.path, "--epochs", 24, "--dry-run")
    code, out, err = call(*base, "--loss", "dkd", "--loss-options", "beta=2", "--revise", 0.5, capsys=capsys)
    assert code == 0, err
    plan = json.loads(out)
    assert (plan["kd_weight"], plan["ce_weight"], plan["kd_warmup_epochs"]) == (1, 1, 2)
    assert plan["loss_options"] == {"alpha": 1, "beta": 2}
    assert (plan["revise_eta"], plan["revise_scope"]) == (0.5, "all")
    assert "loss dkd (kd 1, ce 1, T 4, alpha 1, beta 2, warm-up 2 epochs)" in err
    assert "labels are revised at T 4, eta 0.5: all of them" in err

    (folder / "prune.toml").write_text(
        "[train-student]\nloss = 'dist'\nce_weight = 0.5\nloss_options = {gamma = 3}\n"
        "revise = 0.7\nrevise_scope = 'wrong'\n"
    )
    code, out, err = call(*base, "--kd-warmup-epochs", 1.5, capsys=capsys)
    assert code == 0, err
    plan = json.loads(out)
    assert (plan["loss"], plan["ce_weight"], plan["kd_warmup_epochs"]) == ("dist", 0.5, 1.5)
    assert plan["loss_options"] == {"beta": 2, "gamma": 3}
    assert (plan["revise_eta"], plan["revise_scope"]) == (0.7, "wrong")
    assert "eta 0.7: wrong ones" in err

    code, out, err = call(*base, "--loss-options", "beta", capsys=capsys)
    assert code == 2
    assert "is not a list of options such as alpha=1,beta=8" in err


def test_a_teacher_at_the_top_of_prune_toml_scores_and_one_in_the_table_trains_live(selection, folder, capsys):
    toml = "teacher = 'resnet8'\ncheckpoint = 'teacher.pt'\n"
    args = ("--manifest", selection.path, "--dry-run")
    (folder / "prune.toml").write_text(toml)
    code, out, err = call(*args, capsys=capsys)
    assert code == 0, err
    assert (json.loads(out)["policy"], json.loads(out)["teacher"]) == ("single", None)
    (folder / "prune.toml").write_text(toml + "[train-student]\nteacher = 'resnet20'\n")
    code, out, err = call(*args, capsys=capsys)
    assert (json.loads(out)["policy"], json.loads(out)["teacher"]) == ("online", "resnet20")
    assert "online: fresh views of pad_crop_flip, labelled by resnet20 as they are shown" in err
    (folder / "prune.toml").write_text(toml)
    _, out, _ = call(*args, "--teacher", "resnet32", capsys=capsys)
    assert json.loads(out)["teacher"] == "resnet32"


def test_a_typed_budget_wins_over_the_one_of_prune_toml_and_two_typed_ones_contradict(selection, folder, capsys):
    args = ("--manifest", selection.path, "--batch-size", 16, "--dry-run")
    (folder / "prune.toml").write_text("[train-student]\nepochs = 7\n")
    code, out, err = call(*args, "--steps", 9, capsys=capsys)
    assert code == 0, err
    assert (json.loads(out)["steps"], json.loads(out)["epochs"]) == (9, 2)
    assert "9 steps, 1.5 epochs of 6 steps of 16 (fixed steps)" in err
    assert "7 epochs x 6 steps of 16 (fixed epochs)" in call(*args, capsys=capsys)[2]
    code, _, err = call(*args, "--steps", 9, "--epochs", 2, capsys=capsys)
    assert (code, "--epochs and --steps contradict each other" in err) == (2, True)
    (folder / "prune.toml").write_text("[train-student]\nepochs = 7\nsteps = 3\n")
    assert call(*args, capsys=capsys)[0] == 2


def other_run(folder, seconds=0.5):
    (folder / "other").mkdir()
    times = {"waiting_for_data_s": 0, "compute_s": seconds}
    (folder / "other" / "run.json").write_text(json.dumps({"time": times}))


def test_another_budget_wins_over_the_match_time_of_prune_toml(selection, folder, capsys):
    args = ("--manifest", selection.path, "--batch-size", 16, "--dry-run")
    other_run(folder)
    (folder / "prune.toml").write_text("[train-student]\nmatch-time = 'other'\n")
    assert "take 0.5 s, found by a trial (time of other)" in call(*args, capsys=capsys)[2]
    for flag, said in (("--steps", "12 steps, 2 epochs of"), ("--epochs", "12 epochs x 6 steps")):
        code, out, err = call(*args, flag, 12, capsys=capsys)
        assert (code, said in err) == (0, True), err
        assert json.loads(out)["match_s"] is None


def test_what_a_trial_finds_is_null_in_a_dry_run(selection, folder, capsys):
    other_run(folder)
    args = ("--manifest", selection.path, "--match-time", "other", "--dry-run")
    plan = json.loads(call(*args, capsys=capsys)[1])
    assert [plan[name] for name in ("steps", "epochs", "milestones", "warmup_epochs")] == [None, None, None, 0]
    assert (plan["match_s"], plan["steps_per_epoch"]) == (0.5, 1)
    plan = json.loads(call(*args, "--milestones", "2,3", "--warmup-epochs", 1, capsys=capsys)[1])
    assert (plan["steps"], plan["epochs"], plan["milestones"], plan["warmup_epochs"]) == (None, None, [2, 3], 1)


def test_a_stopped_run_goes_on_when_the_one_whose_time_it_takes_is_gone(selection, folder, capsys, monkeypatch):
    other_run(folder, seconds=0.3)
    args = ["--manifest", selection.path, "--student", "tiny_networks:plain", *QUICK, "--match-time", "other"]
    with monkeypatch.context() as patch:
        patch.setattr(training, "timed_trial", lambda session, ranks, seconds: 0.02)
        signal_at_step(patch, 9, signal.SIGTERM)
        assert call(*args, capsys=capsys)[0] == 5
    (folder / "other" / "run.json").unlink()
    code, out, err = call(*args, "--json", capsys=capsys)
    assert code == 0, err
    assert (json.loads(out)["steps"], json.loads(out)["matched"]["asked_s"]) == (15, 0.3)
    assert "finished" in call(*args, capsys=capsys)[2]
    assert call(*args, "--fresh", capsys=capsys)[0] == 3


def test_the_loss_of_the_selections_preset_is_taken_unless_a_flag_says_otherwise(make_manifest, folder, capsys):
    preset = make_manifest(count=40, views=1)
    path = preset.path / "manifest.json"
    content = json.loads(path.read_text())
    content["labels"]["parameters"] = {"loss": {"kd_weight": 0.6, "temperature": 2.5, "milk": 1}}
    path.write_text(json.dumps(content))
    _, out, _ = call("--manifest", preset.path, "--temperature", 3, "--dry-run", capsys=capsys)
    resolved = json.loads(out)
    assert (resolved["kd_weight"], resolved["temperature"]) == (0.6, 3)


def test_a_run_from_a_bare_folder_ends_with_a_summary_and_again_says_it_is_finished(selection, val, folder, capsys):
    (folder / "selection").symlink_to(selection.path)
    args = ["--student", "tiny_networks:plain", "--val", val.path, "--epochs", 1, *QUICK]
    code, out, err = call(*args, capsys=capsys)
    assert code == 0
    assert "top-1" in out
    assert "run/student.safetensors" in out
    assert "epoch 1/1" in err
    code, out, err = call(*args, "--json", capsys=capsys)
    assert code == 0
    assert json.loads(out) == json.loads((folder / "run" / "run.json").read_text())
    assert "finished" in err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--manifest", "nowhere"], 3, "no manifest at nowhere"),
        (["--epochs", "0"], 2, "--epochs must be at least 1"),
        (["--epochs", "many"], 2, "not a valid integer"),
        (["--milestones", "3;4"], 2, "not a list of epochs"),
        (["--student", "resnet9000"], 2, "resnet9000"),
        (["--recipe", "mystery"], 2, "known: demo, cifar, imagenet"),
        (["--loss", "hinge"], 2, "--loss hinge is not known"),
        (["--device", "cuda:99"], 2, "--device"),
        (["--val", "nowhere"], 3, "no data at nowhere"),
        (["--policy", "replay"], 2, "needs stored labels of several views; this manifest has 1"),
        (["--policy", "mean"], 2, "prune label SELECTION --policy mean"),
        (["--teacher", "resnet8", "--loss", "ce"], 2, "--teacher resnet8 and --loss ce contradict each other"),
        (["--teacher", "resnet8", "--policy", "single"], 2, "--teacher and --policy single contradict each other"),
        (["--teacher", "resnet9000"], 2, "resnet9000"),
        (["--checkpoint", "teacher.pt"], 2, "name it too: --teacher SPEC"),
        (["--augment", "replay"], 2, "for the scored views give --policy replay"),
        (["--match-time", "nowhere"], 3, "nowhere holds no run.json"),
        (["--match-time", "nowhere", "--steps", "3"], 2, "--steps and --match-time contradict each other"),
    ],
)
def test_wrong_input_has_an_exit_code_and_one_message(args, code, message, selection, folder, capsys):
    base = ["--manifest", selection.path, "--student", "tiny_networks:plain", *QUICK]
    got, _, err = call(*base, *args, capsys=capsys)
    assert got == code
    assert message in err
    assert "Traceback" not in err


def test_validation_with_other_classes_does_not_match(selection, make_manifest, folder, capsys):
    other = make_manifest(count=9, class_names=["blue", "green", "red", "pink"])
    code, _, err = call("--manifest", selection.path, "--val", other.path, *QUICK, capsys=capsys)
    assert (code, "'pink'" in err) == (4, True)


def test_classes_of_validation_images_may_be_called_otherwise(selection, make_manifest, folder, capsys):
    other = renamed(make_manifest(count=50, seed=9), ["blau", "green", "rot"])
    Path("map.csv").write_text("red,rot\nblue,blau\nof neither,side\n")
    base = ["--manifest", selection.path, "--val", other.path, *QUICK]
    code, _, err = call(*base, capsys=capsys)
    assert (code, "'blau'" in err, "--class-map" in err) == (4, True, True)
    assert call(*base, "--class-map", "map.csv", "--dry-run", capsys=capsys)[0] == 0
    Path("map.csv").write_text("red,rot\n")
    code, _, err = call(*base, "--class-map", "map.csv", "--dry-run", capsys=capsys)
    assert (code, "'blau'" in err) == (4, True)
    Path("map.csv").write_text("red,rot\nblue,rot\n")
    code, _, err = call(*base, "--class-map", "map.csv", "--dry-run", capsys=capsys)
    assert (code, "one name, two classes" in err) == (3, True)
    without = base[: base.index("--val")]
    code, _, err = call(*without, "--class-map", "map.csv", "--dry-run", capsys=capsys)
    assert (code, "--class-map: ignored without --val" in err) == (0, True)
    flags = ("--val-split", "test", "--config", "one", "--list", "all.csv", "--file-column", "id")
    _, _, err = call(*without, *flags, "--dry-run", capsys=capsys)
    assert "--val-split, --config, --list, --file-column: ignored without --val\n" in err


def start(args, folder):
    return subprocess.Popen([*COMMAND, *(str(arg) for arg in args)], cwd=folder, stderr=subprocess.PIPE, text=True)


def epochs_of(out: Path) -> int:
    path = out / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_killed_terminated_and_interrupted_it_goes_on_to_equal_weights(selection, val, folder, capsys, monkeypatch):
    args = ["--manifest", selection.path, "--student", "tiny_networks:dropout", "--val", val.path]
    args += ["--epochs", 8, *QUICK]
    monkeypatch.setenv("TINY_SECONDS_A_STEP", "0.04")
    process = start(args, folder)
    deadline = time.monotonic() + 60
    while epochs_of(folder / "run") < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.1)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -9
    done = epochs_of(folder / "run")
    assert 2 <= done < 6
    monkeypatch.delenv("TINY_SECONDS_A_STEP")

    for number, code in ((signal.SIGTERM, 5), (signal.SIGINT, 130)):
        with monkeypatch.context() as patch:
            signal_at_step(patch, 9, number)
            got, _, err = call(*args, capsys=capsys)
        assert (got, "run the same command again to resume" in err) == (code, True)
        assert epochs_of(folder / "run") == done + 1
        done += 1
    assert call(*args, capsys=capsys)[0] == 0
    assert call(*args, "--out", "whole", capsys=capsys)[0] == 0
    for name in ("student.safetensors", "best.safetensors"):
        assert (folder / "run" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def signal_at_step(patch, steps, number):
    """Let the process send itself a signal in that many optimiser steps."""
    left, step = iter(range(steps, 0, -1)), Student.step

    def stepped(self, loss, learning_rate):
        if next(left) == 1:
            signal.raise_signal(number)
        step(self, loss, learning_rate)

    patch.setattr(Student, "step", stepped)


def test_two_ranks_train_the_student_of_one_process(selection, val, folder, capsys):
    args = ["--manifest", selection.path, "--student", "tiny_networks:plain", "--val", val.path]
    args += ["--epochs", 3, *QUICK]
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ranks += ["-m", "trainer.cli.train_student", *(str(arg) for arg in args), "--out", "ranks"]
    done = subprocess.run(ranks, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert call(*args, "--out", "one", capsys=capsys)[0] == 0
    two, one = (load_file(folder / name / "student.safetensors") for name in ("ranks", "one"))
    assert two.keys() == one.keys()
    assert max(float(np.abs(two[name] - one[name]).max()) for name in one) < 1e-5
    reports = [json.loads((folder / name / "run.json").read_text()) for name in ("ranks", "one")]
    assert [report["world_size"] for report in reports] == [2, 1]
    assert reports[0]["last"] == pytest.approx(reports[1]["last"], rel=1e-4)
    assert reports[0]["last"]["top1"] == reports[1]["last"]["top1"]


@pytest.mark.slow
def test_a_run_takes_the_time_of_another_also_on_two_ranks(selection, folder, capsys):
    args = ["--manifest", selection.path, "--student", "tiny_networks:plain", *QUICK]
    assert call(*args, "--epochs", 5, "--out", "first", capsys=capsys)[0] == 0
    report = json.loads((folder / "first" / "run.json").read_text())
    report["time"] |= {"waiting_for_data_s": 0.1, "compute_s": 0.4}
    (folder / "first" / "run.json").write_text(json.dumps(report))
    second = ["--match-time", "first", "--out", "second"]
    ranks = ended(two_ranks(folder, "-m", "trainer.cli.train_student", *args, *second))
    assert [code for code, _ in ranks] == [0, 0], ranks
    assert "as many epochs of 6 steps of 16 as take 0.5 s, found by a trial (time of first)" in ranks[0][1]
    got = json.loads((folder / "second" / "run.json").read_text())
    assert got["budget"] == "time of first"
    assert got["matched"]["asked_s"] == 0.5
    assert got["steps"] == json.loads((folder / "second" / "budget.json").read_text())["steps"] > 0


@pytest.mark.slow
def test_two_ranks_learn_from_a_live_teacher_what_one_process_does(selection, folder, capsys):
    args = ["--manifest", selection.path, "--student", "tiny_networks:plain", "--teacher", "tiny_networks:linear"]
    args += ["--epochs", 2, *QUICK]
    ranks = ended(two_ranks(folder, "-m", "trainer.cli.train_student", *args, "--out", "ranks"))
    assert [code for code, _ in ranks] == [0, 0], ranks
    assert call(*args, "--out", "one", capsys=capsys)[0] == 0
    two, one = (load_file(folder / name / "student.safetensors") for name in ("ranks", "one"))
    assert max(float(np.abs(two[name] - one[name]).max()) for name in one) < 1e-5


@pytest.mark.slow
def test_a_rank_that_fails_does_not_leave_the_other_waiting(selection, folder):
    args = ["--manifest", selection.path, "--student", "tiny_networks:fails_on_rank_one", *QUICK]
    (code, waiting), (_, failing) = ended(two_ranks(folder, "-m", "trainer.cli.train_student", *args))
    assert "rank 1 is out of luck" in failing
    assert code == 5, waiting
    assert "another rank stopped" in waiting
    assert "Traceback" not in waiting
