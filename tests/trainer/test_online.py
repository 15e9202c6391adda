"""A live teacher beside the student: on what, with which settings, and what the run says of it."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from trainer_support import QUICK, stopped_at, trained

from manifests.errors import InputError, UsageError
from trainer.data.task import open_task
from trainer.loop.recipes import resolve
from trainer.loop.session import live_teacher
from trainer.models.build import build_model
from trainer.models.weights import weights_sha256
from trainer.teachers.output_names import named_outputs
from trainer.teachers.teacher_spec import TeacherSpec

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(scope="module")
def index(make_manifest):
    return make_manifest(count=48)


@pytest.fixture
def teacher(index, tmp_path):
    """A student file to teach with."""
    trained(index, tmp_path / "teacher", loss="ce", epochs=1, student="resnet8")
    return tmp_path / "teacher" / "student.safetensors"


def configured(task, **flags):
    return resolve(QUICK | flags, recipe="auto", stored=task.stored)


def test_an_index_without_targets_is_enough_and_run_json_says_who_taught(index, teacher, tmp_path):
    report = trained(index, tmp_path / "run", epochs=1, teacher=str(teacher))
    module, info = build_model(str(teacher), class_count=3)
    assert report["teacher"]["spec"] == report["config"]["teacher"] == info.spec == "resnet8"
    assert report["teacher"]["weights_sha256"] == report["config"]["teacher_weights"] == weights_sha256(module)
    assert report["teacher"]["dtype"] == "float32"
    assert report["teacher"]["preprocessing"] == info.preprocessing.model_dump()
    assert report["policy"] == "online"
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == report


def test_a_run_without_one_says_so(index, tmp_path):
    assert trained(index, tmp_path, epochs=1, loss="ce")["teacher"] is None


def test_stored_targets_are_not_looked_at(make_manifest, teacher, tmp_path):
    generator = np.random.default_rng(0)
    for name in ("one", "other"):
        manifest = make_manifest(count=48, views=1, targets_NVC=generator.normal(0, 9, (48, 1, 3)))
        trained(manifest, tmp_path / name, epochs=2, teacher=str(teacher), lr=0.1)
    one, other = (load_file(tmp_path / name / "student.safetensors") for name in ("one", "other"))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_another_checkpoint_is_another_configuration(index, teacher, tmp_path):
    def taught_by(checkpoint):
        spec = TeacherSpec(network="resnet8", checkpoint=checkpoint)
        trained(index, tmp_path / "run", teacher="resnet8", teacher_spec=spec, epochs=1)

    taught_by(teacher)
    trained(index, tmp_path / "again", loss="ce", epochs=1, student="resnet8", seed=1)
    other = tmp_path / "again" / "student.safetensors"
    with pytest.raises(UsageError, match=r"another configuration.*teacher_weights"):
        taught_by(other)
    moved = teacher.rename(tmp_path / "moved.safetensors")
    taught_by(moved)


def test_a_stopped_online_run_goes_on_to_equal_weights(index, teacher, tmp_path, monkeypatch):
    flags = {"epochs": 3, "teacher": str(teacher), "student": "tiny_networks:dropout", "lr": 0.05}
    trained(index, tmp_path / "whole", **flags)
    with stopped_at(monkeypatch, 8):
        trained(index, tmp_path / "stopped", **flags)
    trained(index, tmp_path / "stopped", **flags)
    files = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1]


def test_precision_and_memory_format_are_those_of_the_student(index, teacher):
    task = open_task(index.path)
    flags = {"teacher": str(teacher), "precision": "bf16", "channels_last": False}
    live = live_teacher(task, configured(task, **flags), None, CPU)
    assert live.dtype == "bfloat16"
    convolution = next(layer for layer in live.module.modules() if isinstance(layer, torch.nn.Conv2d))
    assert convolution.weight.is_contiguous()
    live = live_teacher(task, configured(task, teacher=str(teacher)), None, CPU)
    assert live.dtype == "float32"
    assert not any(parameter.requires_grad for parameter in live.module.parameters())
    assert not live.module.training
    assert live_teacher(task, configured(task, loss="ce"), None, CPU) is None


def test_what_cannot_teach_is_refused(index, tmp_path):
    with pytest.raises(UsageError, match="--precision fp16 needs CUDA"):
        trained(index, tmp_path, teacher="tiny_networks:linear", precision="fp16")
    with pytest.raises(InputError, match="7 outputs"):
        trained(index, tmp_path, teacher="tiny_networks:ignores_num_classes")
    assert list(tmp_path.iterdir()) == []


def test_what_a_live_teacher_returns_can_be_said(index, teacher, tmp_path):
    """Of swapped outputs that are named, or of probabilities in a tuple, the same student learns the same."""
    model, _ = build_model(str(teacher), class_count=3)
    state = model.state_dict()
    order = [2, 0, 1]
    swapped = {name: value[order] if name.startswith("fc.") else value for name, value in state.items()}
    torch.save(swapped, tmp_path / "swapped.pth")
    names = open_task(index.path).class_names
    outputs = named_outputs([names[output] for output in order], "o")
    flags = {"epochs": 1, "lr": 0.1}
    trained(index, tmp_path / "plain", teacher=str(teacher), **flags)
    spec = TeacherSpec(network="resnet8", checkpoint=tmp_path / "swapped.pth", outputs=outputs)
    report = trained(index, tmp_path / "named", teacher="resnet8", teacher_spec=spec, **flags)
    assert report["config"]["teacher_outputs"] == {"output_map": [1, 2, 0]}
    one, other = (load_file(tmp_path / name / "student.safetensors") for name in ("plain", "named"))
    assert all(np.allclose(one[name], other[name], atol=1e-6) for name in one)
    unnamed = TeacherSpec(network="resnet8", checkpoint=tmp_path / "swapped.pth")
    with pytest.raises(UsageError, match=r"another configuration.*teacher_outputs"):
        trained(index, tmp_path / "named", teacher="resnet8", teacher_spec=unnamed, **flags)


def test_a_live_teacher_that_returns_probabilities_is_refused_unless_it_is_said(index, tmp_path):
    with pytest.raises(InputError, match="returns probabilities, not logits"):
        trained(index, tmp_path / "run", teacher="tiny_networks:softmax_in_a_pair", epochs=1)
    spec = TeacherSpec(network="tiny_networks:softmax_in_a_pair", probabilities=True, output_key="0")
    report = trained(index, tmp_path / "said", teacher="tiny_networks:softmax_in_a_pair", teacher_spec=spec, epochs=1)
    said = report["config"]["teacher_outputs"]
    assert said == {"output_map": None, "output_key": "0", "probabilities": "softmax"}
