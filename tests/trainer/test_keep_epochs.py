"""Students that are kept after chosen epochs: what they are, resumed, removed, and as teachers."""

import json

import pytest
from safetensors import safe_open
from trainer_support import stopped_at, trained

from manifests.errors import UsageError
from trainer.cli.console import run_cli
from trainer.cli.train_student import train_student
from trainer.data.stored import StoredLabels
from trainer.loop.recipes import resolve
from trainer.teachers.teacher import load_teacher
from trainer.teachers.teacher_spec import TeacherSpec

pytestmark = pytest.mark.usefixtures("tiny_networks")
LEARNS = {"student": "resnet8", "lr": 0.05, "epochs": 4}


@pytest.fixture(scope="module")
def selection(make_manifest):
    """3 steps of 16 an epoch."""
    return make_manifest(count=48, views=1)


def files(run):
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*.safetensors")}


def weights(path):
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_the_student_of_an_epoch_is_that_of_a_run_that_ends_there(selection, tmp_path):
    kept = trained(selection, tmp_path / "kept", keep_epochs=(1, 4), **LEARNS)
    plain = trained(selection, tmp_path / "plain", **LEARNS)
    short = trained(selection, tmp_path / "short", **LEARNS | {"epochs": 1})
    assert {*files(tmp_path / "kept")} == {
        "student.safetensors",
        "epochs/epoch-0001.safetensors",
        "epochs/epoch-0004.safetensors",
    }
    first, facts = weights(tmp_path / "kept" / "epochs" / "epoch-0001.safetensors")
    assert first == weights(tmp_path / "short" / "student.safetensors")[0]
    assert (facts["epoch"], facts["run_digest"]) == ("1", kept["digest"])
    found = files(tmp_path / "kept")
    assert found["epochs/epoch-0004.safetensors"] == found["student.safetensors"]
    assert (
        weights(tmp_path / "kept" / "student.safetensors")[0] == weights(tmp_path / "plain" / "student.safetensors")[0]
    )
    assert kept["epoch_students"] == {"1": "epochs/epoch-0001.safetensors", "4": "epochs/epoch-0004.safetensors"}
    assert kept["config"]["keep_epochs"] == [1, 4]
    assert json.loads((tmp_path / "kept" / "run.json").read_text()) == kept
    for report in (plain, short):
        assert "epoch_students" not in report
        assert "keep_epochs" not in report["config"]


def test_it_is_a_teacher_as_it_is(selection, tmp_path):
    trained(selection, tmp_path, keep_epochs=(2,), **LEARNS)
    spec = TeacherSpec(network=str(tmp_path / "epochs" / "epoch-0002.safetensors"))
    teacher = load_teacher(spec, ["blue", "green", "red"], device="cpu")
    assert teacher.info.class_names == ("blue", "green", "red")
    assert teacher.info.preprocessing.image_px == 8


@pytest.mark.parametrize("step", [4, 8])
def test_a_stopped_run_goes_on_to_the_same_files(selection, step, tmp_path, monkeypatch):
    flags = {"keep_epochs": (1, 2, 3)} | LEARNS
    trained(selection, tmp_path / "whole", **flags)
    with stopped_at(monkeypatch, step):
        trained(selection, tmp_path / "stopped", **flags)
    assert (tmp_path / "stopped" / "epochs" / "epoch-0001.safetensors").is_file()
    trained(selection, tmp_path / "stopped", **flags)
    assert files(tmp_path / "whole") == files(tmp_path / "stopped")


def test_fresh_removes_them_and_leaves_what_is_not_of_the_run(selection, tmp_path):
    trained(selection, tmp_path, keep_epochs=(1, 2), **LEARNS)
    trained(selection, tmp_path, fresh=True, **LEARNS)
    assert {*files(tmp_path)} == {"student.safetensors"}
    assert not (tmp_path / "epochs").exists()
    trained(selection, tmp_path, fresh=True, keep_epochs=(1,), **LEARNS)
    (tmp_path / "epochs" / "notes.txt").write_text("mine")
    trained(selection, tmp_path, fresh=True, **LEARNS)
    assert [path.name for path in (tmp_path / "epochs").iterdir()] == ["notes.txt"]


def test_a_file_of_another_origin_is_not_overwritten(selection, tmp_path):
    (tmp_path / "epochs").mkdir()
    (tmp_path / "epochs" / "epoch-0001.safetensors").write_text("mine")
    with pytest.raises(UsageError, match="which is not of an unfinished run"):
        trained(selection, tmp_path, keep_epochs=(1,), **LEARNS)


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        ((0,), "--keep-epochs must be different epochs from 1, in order, not 0"),
        ((2, 2), "--keep-epochs must be different epochs from 1, in order, not 2,2"),
        ((3, 1), "--keep-epochs must be different epochs from 1, in order, not 3,1"),
        ((1, 9), "--keep-epochs must be at most the 8 epochs of the run, not 9"),
    ],
)
def test_epochs_that_the_run_does_not_have_are_refused(epochs, message):
    stored = StoredLabels(count=100, image_px=32, view_count=1)
    with pytest.raises(UsageError, match=message):
        resolve({"epochs": 8, "keep_epochs": epochs}, recipe="cifar", stored=stored)


@pytest.mark.parametrize("text", ["1.5", "nan", "a", "1,,2"])
def test_what_is_not_a_list_of_whole_epochs_is_refused(selection, text, capsys):
    with pytest.raises(SystemExit) as left:
        run_cli(train_student, ["--manifest", str(selection.path), "--keep-epochs", text])
    assert left.value.code == 2
    assert "is not a list of" in capsys.readouterr().err


def test_the_run_tells_where_they_are(selection, tmp_path, capsys):
    args = ["--manifest", selection.path, "--student", "resnet8", "--epochs", 2, "--batch-size", 16, "--device", "cpu"]
    args += ["--loader", "torch", "--workers", 1, "--keep-epochs", "1,2", "--out", tmp_path / "run"]
    with pytest.raises(SystemExit) as left:
        run_cli(train_student, [str(arg) for arg in args])
    out, err = capsys.readouterr()
    assert left.value.code == 0, err
    assert "the student is kept after epochs 1, 2" in err
    assert f"{tmp_path / 'run'}/epochs/: the student after epochs 1, 2" in out
