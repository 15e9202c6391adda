"""`prune export-model`: what each library loads says what the module says; what differs is not written."""

import json
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import prune_toolkit as pt
from manifests.errors import InputError, UsageError
from manifests.format.header import Preprocessing
from prune_toolkit.cli.export_model_command import NAMES
from prune_toolkit.model_export import check, export_model, formats, onnx_file
from prune_toolkit.model_export.check import Difference, difference, noise_images
from prune_toolkit.model_export.export_model import FORMATS
from prune_toolkit.model_export.exportable import Exportable
from prune_toolkit.model_export.timm_folder import crop_pct
from trainer.models.build import build_model
from trainer.models.info import ModelInfo
from trainer.models.trained_student import TrainedStudent
from trainer.models.weights import save_student

Run = Callable[..., subprocess.CompletedProcess[str]]
CLASSES = ("ant", "bee", "čáp", "doe", "eel", "fox", "gnu")


def saved(path: Path, spec: str, image_px: int = 32) -> Path:
    """A student with fresh weights, and batch norms that have seen something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, info = build_model(spec, class_count=len(CLASSES), image_px=image_px, pretrained=False)
        network.train()(torch.randn(4, 3, image_px, image_px))
    save_student(path, network.eval(), replace(info, class_names=CLASSES), {})
    return path


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("students")
    specs = {"ours": "resnet8", "torchvision": "torchvision/resnet18", "timm": "timm/test_vit"}
    return {name: saved(folder / f"{name}.safetensors", spec) for name, spec in specs.items()}


@pytest.fixture(autouse=True)
def fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show 40 images in the check, and the commands where 256 are."""
    monkeypatch.setattr(check, "IMAGES", 40)


def loaded(path: Path, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a user of the other library does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        if name == "torchscript":
            return torch.jit.load(path)
        if name == "torch-export":
            return torch.export.load(path).module()
        if name == "timm":
            import timm

            return timm.create_model(f"local-dir:{path}", pretrained=True).eval()
        with formats.quiet():
            from transformers import AutoModelForImageClassification

            network = AutoModelForImageClassification.from_pretrained(path)
        return lambda images: network(images).logits


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("student", "to", "normalises"),
    [
        ("ours", "onnx", True),
        ("ours", "torchscript", False),
        ("ours", "torchscript", True),
        ("ours", "torch-export", False),
        ("torchvision", "torchscript", False),
        ("torchvision", "timm", False),
        ("timm", "torchscript", False),
        ("timm", "timm", False),
        ("timm", "hf", False),
        pytest.param("ours", "onnx", False, marks=SLOW),
        pytest.param("ours", "torch-export", True, marks=SLOW),
        pytest.param("torchvision", "onnx", True, marks=SLOW),
        pytest.param("torchvision", "torch-export", True, marks=SLOW),
        pytest.param("torchvision", "hf", False, marks=SLOW),
        pytest.param("timm", "onnx", True, marks=SLOW),
        pytest.param("timm", "torch-export", True, marks=SLOW),
    ],
)
def test_the_other_library_says_what_the_module_says(
    students: dict[str, Path], tmp_path: Path, student: str, to: str, normalises: bool
) -> None:
    module, out = pt.load_student(students[student]), tmp_path / "out"
    exported = pt.export_model(module, to, out=out, with_normalisation=normalises)
    assert exported.difference.images == 40
    assert exported.difference.largest <= 1e-4 * exported.difference.largest_logit
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(getattr(module.preprocessing, name)).view(1, 3, 1, 1) for name in ("mean", "std"))
    inputs = images if normalises else (images / 255 - mean) / std
    with torch.no_grad():
        network, expected = loaded(out, to), module(images)
        for count in (5, 1):
            torch.testing.assert_close(network(inputs[:count]), expected[:count], rtol=1e-4, atol=1e-5)
    found = facts_in(out, to)
    if found is not None:
        assert json.loads((tmp_path / "out.json").read_text()) == {"format": to, **found}
        assert found["class_names"] == list(CLASSES)
        assert found["preprocessing"] == module.preprocessing.model_dump()
        assert found["input"]["shape"] == ["batch", 3, 32, 32]
        assert found["input"]["dtype"] == ("uint8" if normalises else "float32")
    assert {path.name for path in tmp_path.iterdir()} == ({"out"} if found is None else {"out", "out.json"})


def facts_in(path: Path, to: str) -> dict[str, object] | None:
    """What a file says of its network."""
    if to == "onnx":
        import onnx

        whole = onnx.load(path)
        onnx.checker.check_model(whole)
        texts = {entry.key: entry.value for entry in whole.metadata_props}
        plain = ("made_by", "model_spec")
        return {key: text if key in plain else json.loads(text) for key, text in texts.items()}
    if to not in ("torchscript", "torch-export"):
        return None
    with zipfile.ZipFile(path) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("prune-toolkit.json")]
        return dict(json.loads(archive.read(name)))


@pytest.mark.parametrize(
    "to", ["torchscript", pytest.param("onnx", marks=SLOW), pytest.param("torch-export", marks=SLOW)]
)
def test_files_name_no_file_of_this_machine_and_are_the_same_each_time(
    students: dict[str, Path], tmp_path: Path, to: str
) -> None:
    for name in ("a", "b"):
        pt.export_model(students["ours"], to, out=tmp_path / name)
    data = (tmp_path / "a").read_bytes()
    if to == "onnx":
        texts = data
    else:
        with zipfile.ZipFile(tmp_path / "a") as archive:
            texts = b"".join(archive.read(name) for name in archive.namelist())
            # It is a digest of the places in the code too: another one for `python -m` and for Python itself.
            assert to != "torchscript" or not [name for name in archive.namelist() if "serialization_id" in name]
    for folder in (Path(torch.__file__).parent.parent, Path(pt.__file__).parent.parent):
        assert str(folder).encode() not in texts
    # TorchScript numbers classes that were traced in the same process before.
    assert to == "torchscript" or data == (tmp_path / "b").read_bytes()


def test_timm_and_transformers_know_how_images_are_prepared(students: dict[str, Path], tmp_path: Path) -> None:
    import timm

    student = pt.load_student(students["timm"])
    shown = Preprocessing(image_px=32, resize_px=37, interpolation="bicubic", mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    student.info = replace(student.info, preprocessing=shown)
    exported = pt.export_model(student, "hf", out=tmp_path / "hf")
    network = timm.create_model(f"local-dir:{exported.path}", pretrained=True)
    config = timm.data.resolve_data_config({}, model=network)
    assert config["input_size"] == (3, 32, 32)
    assert (config["interpolation"], config["crop_mode"]) == ("bicubic", "center")
    assert (list(config["mean"]), list(config["std"])) == (shown.mean, shown.std)
    assert timm.data.create_transform(**config).transforms[0].size == 37
    assert list(network.pretrained_cfg["label_names"]) == list(CLASSES)
    with formats.quiet():
        from transformers import AutoConfig

        assert AutoConfig.from_pretrained(exported.path).id2label == dict(enumerate(CLASSES))
    assert (exported.path / "README.md").read_text().startswith("---\nlibrary_name: timm\n")


@pytest.mark.parametrize(("image_px", "resize_px"), [(32, 32), (224, 256), (48, 55), (29, 33), (160, 182), (49, 57)])
def test_timm_computes_the_same_resize(image_px: int, resize_px: int) -> None:
    assert int(np.floor(image_px / crop_pct(image_px, resize_px))) == resize_px


def test_what_timm_does_not_know_is_refused_with_what_is_possible(
    students: dict[str, Path], tmp_path: Path, prune: Run
) -> None:
    for to in ("timm", "hf"):
        told = prune("export-model", students["ours"], "--to", to, cwd=tmp_path, code=2).stderr
        assert "resnet8 is not an architecture of timm" in told
        assert "onnx, torchscript and torch-export take every network" in told
    other = pt.load_student(students["torchvision"])
    network, info = build_model("torchvision/squeezenet1_1", class_count=7, image_px=32, pretrained=False)
    with pytest.raises(UsageError, match="torchvision/squeezenet1_1 is not an architecture of timm"):
        pt.export_model(TrainedStudent(network, info, other.transform), "timm", out=tmp_path / "x")
    with pytest.raises(UsageError, match="--with-normalisation cannot be used with --to timm"):
        pt.export_model(other, "timm", out=tmp_path / "x", with_normalisation=True)
    with pytest.raises(UsageError, match="unknown format 'tflite'"):
        pt.export_model(other, "tflite", out=tmp_path / "x")
    assert not list(tmp_path.iterdir())


class Wrong(nn.Module):
    """Notices whether it is traced, and then says something else."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = images.mean(dim=(2, 3))
        return pooled + 1 if torch.jit.is_tracing() else pooled


class Fixed(nn.Module):
    """Is traced for two images and takes no other number."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3)).reshape(int(images.shape[0]), 3) + torch.zeros(len(images), 3)


class Fails(nn.Module):
    """Cannot be traced."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("this network is not for sale")
        return images.mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Wrong(), "says something else: logits differ by 1 on 40 images"),
        (Fails(), "RuntimeError: this network is not"),
        (Fixed(), "mine:net cannot be exported to torchscript"),
    ],
)
def test_a_network_that_is_not_kept_leaves_no_file(network: nn.Module, message: str, tmp_path: Path) -> None:
    info = ModelInfo(spec="mine:net", class_names=None, preprocessing=PLAIN)
    with pytest.raises(InputError, match=message) as caught:
        pt.export_model(TrainedStudent(network, info, lambda image: image), "torchscript", out=tmp_path / "out")
    assert "--to onnx, torch-export, timm, hf" in str(caught.value)
    assert not list(tmp_path.iterdir())


PLAIN = Preprocessing(image_px=8, resize_px=8, mean=[0.5] * 3, std=[0.5] * 3)


def test_the_difference_by_hand() -> None:
    model = Exportable(nn.Flatten(), ModelInfo(spec="flat", class_names=None, preprocessing=PLAIN))
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    assert difference(model, nn.Flatten(), images) == Difference(images=2, largest=0, largest_logit=1)
    near = difference(model, lambda inputs: inputs.flatten(1) - 0.25, images)
    assert (near.largest, near.is_small) == (0.25, False)
    assert Difference(images=1, largest=0.0009, largest_logit=1).is_small
    for broken in (lambda inputs: inputs.flatten(1) * float("nan"), lambda inputs: inputs.flatten(1)[:, :2]):
        assert not difference(model, broken, images).is_small
    with pytest.raises(InputError, match="logits are not finite"):
        difference(replace(model, network=nn.Threshold(9.0, float("nan"))), nn.Flatten(), images)


def test_noise_is_always_the_same() -> None:
    assert torch.equal(noise_images(4), noise_images(4))
    assert noise_images(4).shape == (40, 3, 4, 4)


def test_the_command_takes_a_run_and_images_and_tells_what_it_wrote(
    students: dict[str, Path], tmp_path: Path, prune: Run
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "student.safetensors").write_bytes(students["ours"].read_bytes())
    told = prune("export-model", "run", "--to", "torchscript", "--data", "demo:digits", cwd=tmp_path)
    first, second = told.stdout.splitlines()
    assert first.startswith("student.torchscript.pt: resnet8, 7 classes, ")
    assert first.endswith("; takes float32 (n, 3, 32, 32), (x / 255 - mean) / std of RGB")
    assert second.startswith("checked on 40 images (demo:digits) against the module: logits differ by at most ")
    assert told.stderr == ""
    again = prune("export-model", "run", "--to", "torchscript", cwd=tmp_path, code=2).stderr
    assert "student.torchscript.pt already exists" in again
    found = json.loads(prune("export-model", "run", "--to", "torchscript", "-o", "b", "--json", cwd=tmp_path).stdout)
    assert (found["format"], found["checked_images"], found["path"]) == ("torchscript", 40, "b")
    assert "needs --data" in prune("export-model", "run", "--to", "onnx", "--split", "x", cwd=tmp_path, code=2).stderr
    assert "no such file" in prune("export-model", "gone.safetensors", "--to", "onnx", cwd=tmp_path, code=3).stderr


def test_a_library_that_is_missing_is_named_with_its_extra(
    students: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UsageError, match="onnx is needed for this and is not installed") as caught:
        pt.export_model(students["ours"], "onnx", out=tmp_path / "x")
    assert "pip install 'prune-toolkit[onnx]'" in str(caught.value)
    assert onnx_file.EXTRA == "onnx"


def test_the_command_offers_every_format() -> None:
    assert tuple(FORMATS) == NAMES
    assert export_model.facts_path(Path("a/b.onnx")) == Path("a/b.onnx.json")
