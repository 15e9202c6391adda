import hashlib
import json
import pickle
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from manifests.errors import InputError, PruneError, UsageError
from trainer.models.build import build_model
from trainer.models.exported.network import Exported, suited
from trainer.models.exported.torch_programs import read_pt2
from trainer.models.images_said import ImagesSaid
from trainer.models.weights import save_student, weights_sha256
from trainer.teachers.teacher import Teacher, load_teacher
from trainer.teachers.teacher_spec import TeacherSpec

NAMES = ["a", "b", "c"]
IMAGES = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


def loaded(path: Path, **said: object) -> Teacher:
    return load_teacher(TeacherSpec(network=str(path), **said), NAMES, device="cpu")  # type: ignore[arg-type]


def refused(path: Path, **said: object) -> str:
    with pytest.raises(PruneError) as caught:
        loaded(path, **said)
    return str(caught.value)


def expected(model: nn.Module, teacher: Teacher) -> torch.Tensor:
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (teacher.preprocessing.mean, teacher.preprocessing.std)
    )
    with torch.no_grad():
        return model((IMAGES / 255 - mean) / std)


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("torchscript") / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network(), torch.zeros(2, 3, 8, 8)).save(path)
        torch.jit.freeze(torch.jit.trace(network(), torch.zeros(2, 3, 8, 8))).save(path.with_name("frozen.ts"))
    return path


@pytest.fixture(scope="module")
def pt2(tmp_path_factory) -> Path:
    """One that takes 2 images at once; beside it any.pt2, which takes any number."""
    path, example = tmp_path_factory.mktemp("pt2") / "net.pt2", torch.zeros(2, 3, 8, 8)
    torch.export.save(torch.export.export(network(), (example,)), path)
    any_number = ({0: torch.export.Dim("n")},)
    program = torch.export.export(network(), (example,), dynamic_shapes=any_number)
    torch.export.save(program, path.with_name("any.pt2"))
    return path


def write_onnx(path: Path, shape: list[int | str] = ["n", 3, 8, 8], *, nhwc: bool = False, dtype: int = 1) -> nn.Module:  # noqa: B006
    """A convolution and a linear layer as an ONNX graph; returns the same network."""
    model = nn.Sequential(nn.Conv2d(1 if shape[1] == 1 else 3, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    helper, numbers = onnx.helper, [onnx.numpy_helper.from_array(value, name) for name, value in state.items()]
    nodes = [
        *([helper.make_node("Transpose", ["images"], ["x"], perm=[0, 3, 1, 2])] if nhwc else []),
        helper.make_node("Conv", ["x" if nhwc else "images", "0.weight", "0.bias"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "2.weight", "2.bias"], ["logits"], transB=1),
    ]
    images = helper.make_tensor_value_info("images", dtype, shape)
    logits = helper.make_tensor_value_info("logits", 1, [shape[0], 3])
    graph = helper.make_graph(nodes, "net", [images], [logits], numbers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return model


def test_torchscript_computes_the_logits_of_its_network(torchscript: Path):
    teacher = loaded(torchscript, image_px=8)
    assert torch.allclose(teacher(IMAGES), expected(network(), teacher), atol=1e-5)
    assert teacher.info.spec == "torchscript/net.pt"
    assert teacher.weights_sha256 == weights_sha256(network())
    assert teacher.parameters == 3 * 4 * 9 + 4 + 4 + 4 + 144 * 3 + 3


def test_frozen_torchscript_is_known_by_its_file(torchscript: Path):
    frozen = torchscript.with_name("frozen.ts")
    teacher = loaded(frozen, image_px=8)
    assert torch.allclose(teacher(IMAGES), expected(network(), teacher), atol=1e-5)
    assert teacher.weights_sha256 == hashlib.sha256(frozen.read_bytes()).hexdigest()


def test_the_size_that_torchscript_does_not_say_is_told(torchscript: Path, capsys):
    with pytest.raises(InputError, match="cannot take 224x224"):
        loaded(torchscript)
    told = capsys.readouterr().err
    assert told.startswith(
        "teacher torchscript/net.pt does not say how it expects its images; it is assumed: 224x224 px"
    )
    assert "--image-size" in told


@pytest.mark.parametrize("name", ["net.pt2", "any.pt2"])
def test_torch_export_runs_any_number_of_images_at_its_size(pt2: Path, name: str):
    teacher = loaded(pt2.with_name(name))
    assert teacher.preprocessing.image_px == 8
    assert torch.allclose(teacher(IMAGES), expected(network(), teacher), atol=1e-5)
    assert teacher.weights_sha256 == weights_sha256(network())
    assert "exported for 8 px images, not for 16 px" in refused(pt2.with_name(name), image_px=16)


@pytest.mark.parametrize("shape", [["n", 3, 8, 8], [2, 3, 8, 8], ["n", 8, 8, 3]], ids=["any", "batches of 2", "NHWC"])
def test_onnx_runs_any_number_of_images_at_its_size(tmp_path: Path, shape: list[int | str]):
    model = write_onnx(tmp_path / "net.onnx", shape, nhwc=shape[-1] == 3)
    teacher = loaded(tmp_path / "net.onnx")
    assert teacher.preprocessing.image_px == 8
    assert torch.allclose(teacher(IMAGES), expected(model, teacher), atol=1e-5)
    assert teacher.info.spec == "onnx/net.onnx"
    assert teacher.weights_sha256 == hashlib.sha256((tmp_path / "net.onnx").read_bytes()).hexdigest()
    assert teacher.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert "onnxruntime" in teacher.compute(8).versions


def test_exported_networks_of_one_channel_are_shown_the_luma(tmp_path: Path, capsys):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    luma = torch.from_numpy(np.stack([np.array(Image.fromarray(x.numpy()).convert("L")) for x in IMAGES.movedim(1, 3)]))
    example = torch.zeros(2, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, example).save(tmp_path / "net.ts")
        torch.jit.freeze(torch.jit.trace(model, example)).save(tmp_path / "frozen.ts")
    torch.export.save(torch.export.export(model, (example,)), tmp_path / "net.pt2")
    weight, bias = (value.detach().numpy() for value in model[1].parameters())
    helper = onnx.helper
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1)]
    values = [helper.make_tensor_value_info("x", 1, ["n", 1, 8, 8]), helper.make_tensor_value_info("y", 1, ["n", 3])]
    numbers = [onnx.numpy_helper.from_array(value, name) for value, name in ((weight, "w"), (bias, "b"))]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], numbers)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "net.onnx")
    for name in ("net.ts", "frozen.ts", "net.pt2", "net.onnx"):
        teacher = loaded(tmp_path / name, image_px=8, images=ImagesSaid.of(mean=0.5, std=0.25))
        assert "it is shown their luma" in capsys.readouterr().err
        with torch.no_grad():
            wanted = model((luma[:, None] / 255 - 0.5) / 0.25)
        assert torch.allclose(teacher(IMAGES), wanted, atol=1e-5), name


def test_the_precision_of_an_onnx_graph_is_recorded_as_it_is(tmp_path: Path, capsys):
    write_onnx(tmp_path / "net.onnx")
    teacher = load_teacher(TeacherSpec(network=str(tmp_path / "net.onnx")), NAMES, device="cpu", dtype="bfloat16")
    assert teacher.compute(8).dtype == "float32"
    assert "computes in the precision of its file, not in bfloat16" in capsys.readouterr().err


def test_an_onnx_graph_without_a_provider_for_cuda_runs_on_the_cpu_or_not_at_all(capsys):
    graph = Exported(run=nn.Identity(), sha256="", parameters=0, by_torch=False, on_cuda=False)
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert suited(graph, "net", device="auto", where=cuda, dtype=None, exact=True) == (cpu, "float32")
    assert "it runs on the CPU" in capsys.readouterr().err
    with pytest.raises(UsageError, match="cannot run on cuda:0"):
        suited(graph, "net", device="cuda", where=cuda, dtype=None, exact=True)
    # The images of a live teacher stay where the student is.
    assert suited(graph, "net", device="cuda", where=cuda, dtype="float16", exact=False) == (cuda, "float32")
    program = Exported(run=nn.Identity(), sha256="", parameters=0)
    assert suited(program, "net", device="cuda", where=cuda, dtype=None, exact=True) == (cuda, None)


def test_onnx_weights_in_a_file_of_their_own_are_part_of_the_digest(tmp_path: Path):
    write_onnx(tmp_path / "net.onnx")
    for folder, add in (("a", 0), ("b", 1)):
        (tmp_path / folder).mkdir()
        graph = onnx.load(tmp_path / "net.onnx")
        value = onnx.numpy_helper.to_array(graph.graph.initializer[0]) + np.float32(add)
        graph.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(value, "0.weight"))
        onnx.save(graph, tmp_path / folder / "net.onnx", save_as_external_data=True, location="w", size_threshold=0)
    graphs = [(tmp_path / folder / "net.onnx").read_bytes() for folder in "ab"]
    assert graphs[0] == graphs[1]
    digests = [loaded(tmp_path / folder / "net.onnx").weights_sha256 for folder in "ab"]
    assert digests[0] != digests[1]
    (tmp_path / "a" / "w").unlink()
    assert "no such file" in refused(tmp_path / "a" / "net.onnx")


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        (["n", 2, 8, 8], 1, "takes 2x8x8 images"),
        (["n", 3, 8, 4], 1, "takes 3x8x4 images"),
        (["n", 3, 8, 8], 2, "float32 or float16"),
        (["n", 192], 1, "not one batch of images"),
    ],
)
def test_onnx_graphs_that_take_no_such_images_are_refused(tmp_path: Path, shape, dtype: int, message: str):
    write_onnx(tmp_path / "net.onnx", shape, dtype=dtype)
    assert message in refused(tmp_path / "net.onnx")


def test_without_its_library_onnx_names_the_extra(tmp_path: Path, monkeypatch):
    write_onnx(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "prune-toolkit[onnx]" in refused(tmp_path / "net.onnx")


def test_damaged_and_missing_files_are_refused(tmp_path: Path, torchscript: Path):
    for name, message in (
        ("a.onnx", "not an ONNX graph"),
        ("a.pt2", "not a file of torch.jit.save"),
        ("a.ts", "not a file"),
    ):
        (tmp_path / name).write_bytes(b"\x08\x07nonsense")
        assert message in refused(tmp_path / name)
        assert "no such file" in refused(tmp_path / f"missing-{name}")
    (tmp_path / "a.pt").write_bytes(torchscript.read_bytes()[:-200])
    assert "holds weights, but does not say for which network" in refused(tmp_path / "a.pt")


def test_an_exported_network_is_not_taken_for_weights_nor_for_a_student(torchscript: Path, pt2: Path):
    for path in (torchscript, pt2):
        with pytest.raises(InputError, match="network with its code") as caught:
            build_model("resnet8", class_count=3, checkpoint=path)
        assert f"--teacher {path}" in str(caught.value)
        with pytest.raises(UsageError, match="cannot be trained further"):
            build_model(str(path), class_count=3, pretrained=False)
        assert "contradicts it" in refused(path, checkpoint=path)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.parametrize("attack", ["sample_inputs/model.pt", "opaque", "expression"])
def test_nothing_in_a_pt2_is_unpickled_or_evaluated(tmp_path: Path, pt2: Path, attack: str):
    with zipfile.ZipFile(pt2.with_name("any.pt2")) as old, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(attack):
                torch.save(Bomb(), tmp_path / "bomb.pt")
                data = (tmp_path / "bomb.pt").read_bytes()
            if name.endswith("model.json") and attack == "expression":
                text = data.decode()
                data = text.replace("Symbol('", "exec('raise SystemExit') or Symbol('").encode()
                assert json.loads(data) != json.loads(text)
            new.writestr(name, data)
        if attack == "opaque":
            new.writestr(name.partition("/")[0] + "/data/constants/opaque_obj_0", pickle.dumps(Bomb()))
    with pytest.raises(InputError):
        read_pt2(tmp_path / "bad.pt2")


@pytest.mark.parametrize("name", ["net.h5", "net.keras", "net.msgpack", "saved/saved_model.pb"])
def test_networks_of_other_frameworks_are_refused_with_the_way_round(tmp_path: Path, name: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\x89HDF")
    path = tmp_path / name if name.startswith("net") else (tmp_path / name).parent
    assert "prune import logits.npy index --logits" in refused(path)
    assert "prune import" in refused("resnet8", checkpoint=tmp_path / name)


def test_the_folder_of_a_run_is_its_student(tmp_path: Path, capsys):
    model, info = build_model("resnet8", class_count=3, image_px=8)
    save_student(tmp_path / "student.safetensors", model, info, {})
    assert "not a teacher" in refused(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    teacher = loaded(tmp_path)
    assert teacher.weights_sha256 == weights_sha256(model)
    assert capsys.readouterr().err == f"the student of this run: {tmp_path / 'student.safetensors'}\n"
