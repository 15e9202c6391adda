import argparse
import hashlib
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from manifests.errors import InputError
from manifests.format.header import Preprocessing
from trainer.models.build import MODELS, ModelInfo
from trainer.models.weights import (
    find_student_info,
    load_state,
    other_head,
    read_state,
    read_student_info,
    save_student,
    weights_sha256,
)

NAMES = ("cat", "größe", "x" * 40)
INFO = ModelInfo(
    spec="resnet8",
    class_names=NAMES,
    preprocessing=Preprocessing(
        image_px=28, resize_px=30, interpolation="bicubic", mean=[0.1, 0.2, 1 / 3], std=[0.4, 0.5, 0.6]
    ),
)


def load_weights(model: nn.Module, path: Path) -> None:
    load_state(model, read_state(path), origin=str(path))


def network(classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = MODELS["resnet8"].build(classes)
    with torch.no_grad():
        model(torch.randn(2, 3, 8, 8))
    return model


def equal(ours: nn.Module, theirs: nn.Module) -> bool:
    a, b = ours.state_dict(), theirs.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refused(read, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        read(*arguments)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_a_student_file_gives_back_its_weights_and_what_it_says_of_itself(tmp_path):
    path, model = tmp_path / "run" / "student.safetensors", network()
    save_student(path, model, INFO, {"epochs": "3"})
    assert read_student_info(path) == INFO
    other = network(seed=1)
    assert not equal(other, model)
    load_weights(other, path)
    assert equal(other, model)


def test_other_tools_read_a_student_file(tmp_path):
    path, model = tmp_path / "student.safetensors", network()
    save_student(path, model, INFO, {"epochs": "3"})
    tensors = load_file(path)
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["format_version"] == "1.0"
    assert metadata["model_spec"] == "resnet8"
    assert json.loads(metadata["class_names"]) == list(NAMES)
    assert json.loads(metadata["preprocessing"])["mean"] == [0.1, 0.2, 1 / 3]
    assert metadata["epochs"] == "3"


def test_the_same_weights_give_the_same_bytes_in_any_memory_layout(tmp_path):
    extra = {f"key {i}": str(i) for i in range(12)}
    for i in range(4):
        save_student(tmp_path / f"{i}.safetensors", network(), INFO, dict(list(extra.items())[:: (-1) ** i]))
    save_student(tmp_path / "4.safetensors", network().to(memory_format=torch.channels_last), INFO, extra)
    assert len({path.read_bytes() for path in tmp_path.glob("*.safetensors")}) == 1
    assert (tmp_path / "0.safetensors").stat().st_size % 4 == 0


def test_a_student_without_class_names_says_so(tmp_path):
    info = ModelInfo(spec="resnet8", class_names=None, preprocessing=INFO.preprocessing)
    save_student(tmp_path / "s.safetensors", network(), info, {})
    assert read_student_info(tmp_path / "s.safetensors").class_names is None


def test_extra_metadata_may_not_replace_ours(tmp_path):
    with pytest.raises(ValueError, match="model_spec"):
        save_student(tmp_path / "s.safetensors", network(), INFO, {"model_spec": "other"})
    assert not list(tmp_path.iterdir())


def test_tied_weights_are_saved_and_loaded(tmp_path):
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    model, other = tied(), tied()
    save_student(tmp_path / "s.safetensors", model, INFO, {})
    load_weights(other, tmp_path / "s.safetensors")
    assert equal(other, model)


def test_weights_of_other_origin_have_no_description(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(network().state_dict(), path)
    assert find_student_info(path) is None
    assert "--checkpoint" in refused(read_student_info, path)
    load_weights(network(seed=1), path)


@pytest.mark.parametrize(
    "damage",
    [
        ("format_version", "2.0", "format version 2.0"),
        ("class_names", '["a", 3]', "not a list of names"),
        ("class_names", "[[[", "malformed"),
        ("preprocessing", '{"image_px": 28}', "malformed"),
    ],
    ids=lambda damage: damage[0],
)
def test_descriptions_that_cannot_be_right_are_refused(tmp_path, damage):
    key, value, message = damage
    path = tmp_path / "s.safetensors"
    save_student(path, network(), INFO, {})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | {key: value}
    save_file(load_file(path), path, metadata)
    assert message in refused(read_student_info, path)


@pytest.mark.parametrize("keep", [0, 4, 100, 5_000])
def test_truncated_student_files_are_refused(tmp_path, keep):
    path = tmp_path / "s.safetensors"
    save_student(path, network(), INFO, {})
    path.write_bytes(path.read_bytes()[:keep])
    assert "damaged" in refused(read_student_info, path)
    assert "damaged" in refused(load_weights, network(), path)


def test_missing_files_are_named(tmp_path):
    for name in ("s.safetensors", "s.pth"):
        assert f"no weights at {tmp_path / name}" in refused(load_weights, network(), tmp_path / name)
    assert "cannot be read" in refused(read_state, tmp_path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 240, "model": state, "accuracy": torch.tensor(70.1), "optimizer": {"lr": 0.1}},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "best": np.float64(0.7)},
        lambda state: {"model_state": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
        lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}, "n": np.int64(3)},
        lambda state: {"opt": argparse.Namespace(lr=0.1, name="x"), "model": state},
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        lambda state: {"checkpoint": 1, **{k: v.double() for k, v in state.items()}},
    ],
    ids=["bare", "repdistiller", "parallel", "compiled", "lightning", "namespace", "no-counters", "double"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_checkpoints_of_common_training_scripts_load(tmp_path, wrap, zipped):
    model, other = network(), network(seed=1)
    torch.save(wrap(model.state_dict()), tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    load_weights(other, tmp_path / "c.pth")
    assert equal(other, model)


class Compiled(nn.Module):
    """torch.compile's wrapper as far as names go; the real one costs seconds of imports."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


@pytest.mark.parametrize("wrap", [nn.DataParallel, Compiled, pytest.param(torch.compile, marks=pytest.mark.slow)])
def test_compiled_and_parallel_networks_load_save_and_hash_like_bare_ones(tmp_path, wrap):
    model, other = network(), network(seed=1)
    assert weights_sha256(wrap(model)) == weights_sha256(nn.DataParallel(wrap(model))) == weights_sha256(model)
    save_student(tmp_path / "s.safetensors", wrap(model), INFO, {})
    load_weights(wrap(other), tmp_path / "s.safetensors")
    assert equal(other, model)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (lambda: {"model": nn.Linear(2, 2)}, "torch.nn.modules.linear.Linear"),
        (lambda: {"hook": print}, "print"),
        (lambda: torch.zeros(2), "holds a Tensor"),
        (lambda: {"epoch": 3, "loss": 0.1}, "no weights, only: epoch, loss"),
    ],
    ids=["module", "nested module", "function", "tensor", "numbers"],
)
def test_files_that_hold_no_plain_weights_are_refused_with_the_way_out(tmp_path, content, message):
    torch.save(content(), tmp_path / "c.pth")
    text = refused(read_state, tmp_path / "c.pth")
    assert message in text
    assert "model.state_dict()" in text


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))):
        write({"model": Bomb()}, tmp_path / "c.pth")
        assert "exec" in refused(read_state, tmp_path / "c.pth")


@pytest.mark.parametrize("data", [b"", b"not a checkpoint", b"PK\x03\x04abc", b"\x80\x02.", b"\x89PNG\r\n"])
def test_files_of_another_kind_are_refused(tmp_path, data):
    (tmp_path / "c.pth").write_bytes(data)
    assert "not a torch checkpoint, or it is damaged" in refused(load_weights, network(), tmp_path / "c.pth")


def test_an_ill_fitting_checkpoint_names_what_does_not_fit(tmp_path):
    state = network().state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(16, 16, 1, 1)
    state["extra.weight"] = state.pop("conv1.weight")
    torch.save(state, tmp_path / "c.pth")
    model = network(seed=1)
    before = weights_sha256(model)
    text = refused(load_weights, model, tmp_path / "c.pth")
    assert "1 missing: conv1.weight" in text
    assert "1 unexpected: extra.weight" in text
    assert "layer1.0.conv1.weight (16, 16, 1, 1) for (16, 16, 3, 3)" in text
    assert weights_sha256(model) == before


def test_another_architecture_is_refused_with_the_first_names_only(tmp_path):
    torch.save(MODELS["wrn_16_1"].build(3).state_dict(), tmp_path / "c.pth")
    text = refused(load_weights, network(), tmp_path / "c.pth")
    assert "42 missing: layer1.0.conv1.weight, layer1.0.bn1.weight, layer1.0.bn1.bias, ...; " in text
    assert len(text) < 700


def test_a_head_of_another_size_is_told_from_another_network(tmp_path):
    model = network(3)
    assert other_head(model, network(5).state_dict(), 3) == 5
    assert other_head(model, network(3).state_dict(), 3) is None
    assert other_head(model, MODELS["resnet8x4"].build(3).state_dict(), 3) is None
    torch.save(network(5).state_dict(), tmp_path / "c.pth")
    assert "fc.weight (5, 64) for (3, 64)" in refused(load_weights, model, tmp_path / "c.pth")


def test_the_hash_of_weights_is_over_names_types_shapes_and_bytes():
    model = nn.Linear(2, 1)
    weight = np.array([[1.0, -2.0]], np.float32)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(weight))
        model.bias.zero_()
    text = b"bias\0float32\0[1]\n" + bytes(4) + b"weight\0float32\0[1, 2]\n" + struct.pack("<2f", 1.0, -2.0)
    assert weights_sha256(model) == hashlib.sha256(text).hexdigest()


def test_the_hash_sees_every_bit_and_no_memory_layout():
    model = network()
    reference = weights_sha256(model)
    assert weights_sha256(model.to(memory_format=torch.channels_last)) == reference
    assert weights_sha256(network(seed=1)) != reference
    assert weights_sha256(network().bfloat16()) != reference
    with torch.no_grad():
        model.get_buffer("bn1.num_batches_tracked").add_(1)
    assert weights_sha256(model) != reference
