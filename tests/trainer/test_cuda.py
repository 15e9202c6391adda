"""What differs on a GPU: autocast in float16 and kernels of their own; skipped where there is none."""

import numpy as np
import pytest
import torch
from trainer_support import QUICK, trained

from manifests.format.dynamics import read_dynamics
from trainer.data.task import open_task
from trainer.loop.recipes import resolve
from trainer.loop.training import Machine, train
from trainer.teachers.teacher import load_teacher
from trainer.teachers.teacher_spec import TeacherSpec

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
LEARNS = {"student": "resnet8", "lr": 0.05, "schedule": "cosine", "epochs": 4}


def on_gpu(manifest, out, **flags):
    task = open_task(manifest.path)
    config = resolve(QUICK | LEARNS | flags, recipe="auto", stored=task.stored)
    return train(task, config, validation=None, out=out, machine=Machine(device="cuda", loader="torch", workers=1))


@pytest.fixture(scope="module")
def selection(make_manifest):
    return make_manifest(count=120, views=3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_students_learn_and_what_is_recorded_is_finite_and_whole(selection, tmp_path, precision):
    run = on_gpu(selection, tmp_path, record_grand=1, precision=precision)
    assert run["device"] == torch.cuda.get_device_name()
    assert run["last"]["train_top1"] > 0.5
    dynamics = read_dynamics(tmp_path)
    assert dynamics.info.stepped == (112,) * 4
    for epoch in range(4):
        columns = dynamics.epoch(epoch)
        assert ("grand" in columns) == (epoch == 0)
        assert all(np.isfinite(values).all() and len(values) == 120 for values in columns.values())


def test_what_is_recorded_before_anything_is_learned_is_that_of_the_cpu(selection, tmp_path):
    still = {"lr": 1e-12, "weight_decay": 0.0, "epochs": 1, "record_grand": 1, "tf32": False}
    on_gpu(selection, tmp_path / "gpu", **still)
    trained(selection, tmp_path / "cpu", **LEARNS | still)
    gpu, cpu = (read_dynamics(tmp_path / name).epoch(0) for name in ("gpu", "cpu"))
    for name in ("p_y", "margin", "el2n", "grand"):
        np.testing.assert_allclose(gpu[name], cpu[name], rtol=1e-2, atol=1e-3)


def test_infobatch_leaves_samples_out(selection, tmp_path):
    run = on_gpu(selection, tmp_path, dynamic="infobatch", epochs=6, precision="fp16")
    assert 0 < run["samples_shown"] < 6 * 112
    assert run["last"]["train_top1"] > 0.5


def test_dot_learns_in_float16(selection, tmp_path):
    assert on_gpu(selection, tmp_path, dot=0.075, precision="fp16")["last"]["train_top1"] > 0.5


def test_a_teacher_in_float16_is_right_as_often_as_on_the_cpu():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (256, 3, 32, 32), np.uint8))
    names = [f"class{number}" for number in range(10)]
    torch.manual_seed(0)
    spec = TeacherSpec(network="resnet8", image_px=32, random_weights=True)
    cpu = load_teacher(spec, names, device="cpu")
    torch.manual_seed(0)
    gpu = load_teacher(spec, names, device="cuda")
    gpu.module.load_state_dict(cpu.module.state_dict())
    assert (cpu.dtype, gpu.dtype) == ("float32", "float16")
    wanted, got = cpu.logits(images), gpu.logits(images.cuda())
    np.testing.assert_allclose(got, wanted, rtol=2e-2, atol=2e-2)
    second, first = np.sort(wanted, axis=1)[:, -2:].T
    is_clear = first - second > 0.05
    assert is_clear.mean() > 0.2
    assert (wanted.argmax(1) == got.argmax(1))[is_clear].all()
