"""`prune label` finds the files of the teacher that scored on this machine."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import prune_toolkit as pt
from manifests.manifest import Manifest
from trainer.models.build import build_model

Run = Callable[..., object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    """A selection of a tenth of the digits, scored by one of the two networks in teacher.pth."""
    folder = tmp_path_factory.mktemp("labelled")
    torch.manual_seed(0)
    networks = {name: build_model("resnet8", class_count=10)[0].state_dict() for name in ("student", "teacher")}
    torch.save(networks, folder / "teacher.pth")
    teacher = ("--teacher", "resnet8", "--checkpoint", "teacher.pth", "--checkpoint-key", "teacher", "--image-size", 8)
    prune("score", "demo:digits", *teacher, "-o", "manifest", cwd=folder)
    prune("select", "manifest", "--keep", "0.1", cwd=folder)
    return folder


def test_the_teacher_that_scored_needs_no_flags_here(folder: Path, tmp_path: Path, prune: Run):
    told = prune("label", folder / "selection", "--views", 2, "-o", "labelled", cwd=tmp_path).stderr  # type: ignore[attr-defined]
    assert f"the teacher that scored: resnet8 --checkpoint {folder / 'teacher.pth'} --checkpoint-key teacher\n" in told
    scored, labelled = Manifest.open(folder / "manifest"), Manifest.open(tmp_path / "labelled")
    assert labelled.header.teacher == scored.header.teacher
    assert labelled.local["teacher"] == scored.local["teacher"]
    again = pt.label(folder / "selection", views=2, out=tmp_path / "python")
    assert again.id == labelled.id


def test_the_place_is_neither_in_the_header_nor_pushed(folder: Path, tmp_path: Path, prune: Run):
    prune("push", folder / "selection", tmp_path / "pushed")
    assert not (tmp_path / "pushed" / "local.json").exists()
    for path in ("manifest.json", "README.md"):
        assert "teacher.pth" not in (folder / "selection" / path).read_text()


def test_a_file_that_is_gone_or_altered_is_told(folder: Path, tmp_path: Path, prune: Run):
    selection = tmp_path / "selection"
    prune("select", folder / "manifest", "--keep", "0.1", "-o", selection)
    local = json.loads((selection / "local.json").read_text())
    local["teacher"]["checkpoint"] = str(tmp_path / "gone.pth")
    (selection / "local.json").write_text(json.dumps(local))
    assert "no such file" in prune("label", selection, "-o", tmp_path / "x", code=3).stderr  # type: ignore[attr-defined]
    torch.save(build_model("resnet8", class_count=10)[0].state_dict(), tmp_path / "gone.pth")
    local["teacher"].pop("checkpoint_key")
    (selection / "local.json").write_text(json.dumps(local))
    assert "with weights" in prune("label", selection, "-o", tmp_path / "x", code=4).stderr  # type: ignore[attr-defined]
    local["teacher"]["weights_sha256"] = "0" * 64
    (selection / "local.json").write_text(json.dumps(local))
    assert "is untrained" in prune("label", selection, "-o", tmp_path / "x", code=2).stderr  # type: ignore[attr-defined]
