"""No command imports a module or asks a hub because a header, a student's file, a run or local.json names one."""

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import prune_toolkit as pt
from manifests.errors import UsageError
from prune_toolkit.main import COMMANDS, cli
from trainer.cli.console import run_cli
from trainer.cli.train_student import train_student
from trainer.models.named_by_data import is_own, own_spec

Run = Callable[..., subprocess.CompletedProcess[str]]
TRIPWIRE = """
from pathlib import Path

Path(__file__).with_name("fired").touch()


def build(num_classes):
    raise SystemExit("the tripwire was called")
"""
CODE, HUB, FOLDER = "tripwire:build", "timm/hf-hub:somebody/network", "timm/local-dir:received"

# M: scores, S: a selection, R: a run, O: an output. A command that is missing here fails the test.
WALKS: dict[str, list[list[str]]] = {
    "index": [["index", "photos", "-o", "O"]],
    "score": [
        ["score", "I", "--teacher", "R/student.safetensors", "-o", "O"],
        ["score", "M", "--teacher", "R/student.safetensors", "--dry-run"],
        ["score", "M", "--dynamics", "R", "-o", "O"],
    ],
    "import": [["import", "S/scores.csv", "M", "-o", "O"]],
    "merge": [["merge", "M", "M", "--average", "-o", "O"], ["merge", "M", "M", "-o", "O"]],
    "split": [["split", "M", "--holdout", "0.2", "-o", "O"]],
    "select": [["select", "M", "--keep", "0.5", "-o", "O"]],
    "label": [
        ["label", "S", "-o", "O"],
        ["label", "S", "--dry-run"],
        ["label", "S", "--teacher", "R/student.safetensors", "-o", "O"],
    ],
    "cut": [["cut", "S", "-o", "O"]],
    "suspects": [["suspects", "M"], ["suspects", "M", "--val", "demo:digits", "--out", "O"]],
    "sweep": [["sweep", "M", "--keep", "0.5", "--student", "R/student.safetensors", "--dry-run", "-o", "O"]],
    "export": [["export", "S", "--indices", "O"]],
    "show": [["show", "M"], ["show", "S", "--json"]],
    "diff": [["diff", "M", "S"]],
    "list": [["list", "losses"]],
    "eval": [["eval", "R/student.safetensors", "--data", "demo:digits", "--limit", "20"], ["eval", "R", "--data", "M"]],
    "export-model": [["export-model", "R/student.safetensors", "--to", "torchscript", "-o", "O"]],
    "verify": [["verify", "S"]],
    "card": [["card", "M"]],
    "push": [["push", "M", "O"]],
    "pull": [["pull", "M", "O"]],
}
TRAIN = [
    ["--manifest", "S", "--recipe", "demo", "--epochs", "1", "--student", "R/student.safetensors", "--out", "O"],
    ["--manifest", "S", "--recipe", "demo", "--epochs", "1", "--teacher", "R/student.safetensors", "--out", "O"],
    ["--manifest", "S", "--recipe", "demo", "--epochs", "1", "--out", "R"],
    ["--manifest", "S", "--recipe", "demo", "--match-time", "R", "--out", "O"],
]


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    """Scores, a selection and a run, as a stranger might have sent them."""
    folder = tmp_path_factory.mktemp("received")
    prune("index", "demo:digits", "--beton", "-o", "I", cwd=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pt.train_student("I", student="resnet8", recipe="demo", loss="ce", epochs=1, out="R", record_dynamics=True)
    teacher = ("--teacher", "R/student.safetensors", "--image-size", "8")
    prune("score", "I", *teacher, "-o", "M", cwd=folder)
    prune("select", "M", "--keep", "0.1", "-o", "S", cwd=folder)
    (folder / "tripwire.py").write_text(TRIPWIRE)
    return folder


def forge(folder: Path, spec: str) -> None:
    """Write `spec` wherever a network is named."""
    for manifest in ("M", "S"):
        path = folder / manifest / "manifest.json"
        header = json.loads(path.read_bytes())
        header["teacher"]["spec"] = spec
        path.write_text(json.dumps(header))
        beside = path.with_name("local.json")
        local = json.loads(beside.read_bytes()) if beside.is_file() else {}
        place = {"weights_sha256": header["teacher"]["weights_sha256"], "network": spec}
        beside.write_text(json.dumps({**local, "teacher": place}))
    student = folder / "R" / "student.safetensors"
    data = student.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    content = json.loads(data[8 : 8 + length])
    content["__metadata__"]["model_spec"] = spec
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    student.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    for path in (folder / "R" / "run.json", folder / "R" / "dynamics" / "dynamics.json"):
        if path.is_file():
            content = json.loads(path.read_bytes())
            content["student"] = {**content["student"], "spec": spec} if path.name == "run.json" else spec
            path.write_text(json.dumps(content))


@pytest.mark.parametrize("spec", [CODE, HUB, FOLDER])
def test_no_command_runs_what_data_names(received: Path, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(WALKS) == set(COMMANDS)
    forge(received, spec)
    asked: list[str] = []
    monkeypatch.setattr("timm.create_model", lambda name, **_: asked.append(name))
    monkeypatch.chdir(received)
    # The other commands build no network: one walk through them is enough.
    names = WALKS if spec == CODE else ("score", "label", "eval", "export-model")
    walks = [(cli, words) for name in names for words in WALKS[name]]
    for number, (command, words) in enumerate([*walks, *((train_student, words) for words in TRAIN)]):
        with pytest.raises(SystemExit) as done:
            run_cli(command, [f"out-{number}-{len(spec)}" if word == "O" else word for word in words])
        assert int(done.value.code or 0) in {0, 2, 3, 4}, words
    assert not (received / "fired").exists()
    assert asked == []


@pytest.mark.parametrize("spec", [CODE, HUB])
def test_the_message_names_the_flag_to_repeat_the_spec_with(received: Path, prune: Run, spec: str) -> None:
    forge(received, spec)
    told = prune("label", "S", "-o", "labelled", cwd=received, code=2).stderr
    assert f"S names the network {spec}: data may not decide which code is run" in told
    assert f"if you trust it, name it yourself: --teacher {spec}" in told
    told = prune("score", "I", "--teacher", "R/student.safetensors", "-o", "scored", cwd=received, code=2).stderr
    assert f"--teacher {spec} --checkpoint R/student.safetensors" in told


def test_a_run_of_a_stranger_does_not_name_its_student(received: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(received, CODE)
    monkeypatch.chdir(received)
    run = pt.train_student("I", student="resnet8", recipe="demo", loss="ce", epochs=1, out="again")
    (received / "again" / "student.safetensors").write_bytes((received / "R" / "student.safetensors").read_bytes())
    with pytest.raises(UsageError, match="may not decide which code"):
        run.student()
    with pytest.raises(UsageError, match="may not decide which code"):
        pt.load_student("R/student.safetensors")
    with pytest.raises(UsageError, match="may not decide which code"):
        pt.label("S")
    assert not (received / "fired").exists()


@pytest.mark.parametrize(
    ("spec", "own"),
    [
        ("resnet8", True),
        ("torchvision/resnet18", True),
        ("torchvision/resnet50:IMAGENET1K_V2", True),
        ("timm/vit_base_patch16_224.augreg_in21k_ft_in1k", True),
        ("timm/hf-hub:owner/name", False),
        ("timm/hf_hub:owner/name", False),
        ("timm/local-dir:folder", False),
        ("torchvision/resnet18\n", False),
        ("module:callable", False),
        ("run/student.safetensors", False),
        ("hf/owner/name", False),
        ("", False),
    ],
)
def test_which_specs_need_nobody_to_name_them(spec: str, own: bool) -> None:
    assert is_own(spec) is own


def test_a_spec_in_a_hint_is_quoted_for_the_shell() -> None:
    with pytest.raises(UsageError) as refused:
        own_spec("x:y; rm -r z\n--teacher ok", "manifest", "--teacher SPEC")
    assert refused.value.hint == "if you trust it, name it yourself: --teacher 'x:y; rm -r z\\n--teacher ok'"


@pytest.mark.parametrize("spec", ["onnx/net.onnx", "pt2/net.pt2", "torchscript/net.pt", "transformers/photos"])
def test_a_network_that_was_a_file_is_named_by_its_path(spec: str) -> None:
    with pytest.raises(UsageError, match="where its file is on this machine is not known") as refused:
        own_spec(spec, "manifest", "--teacher SPEC")
    assert refused.value.hint == "if you trust it, name the file: --teacher PATH"
