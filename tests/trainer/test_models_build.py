import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from manifests.errors import InputError, UsageError
from trainer.models.build import MODELS, ModelInfo, build_model, output_count, parameter_count
from trainer.models.info import default_preprocessing, rescaled, usual_batch_size
from trainer.models.weights import load_state, read_state, save_student, weights_sha256

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width=3):
        super().__init__()
        self.trunk = nn.Conv2d(3, width, 1)
        self.fc = nn.Linear(width, num_classes)
        self.drop = nn.Dropout()

    def forward(self, images):
        return self.fc(self.drop(self.trunk(images)).mean((2, 3)))

class Factory:
    @staticmethod
    def make(num_classes):
        from late_{name} import WIDTH
        return Net(num_classes, WIDTH)

def always_five(num_classes):
    return Net(5)

def pair(num_classes):
    class Pair(Net):
        def forward(self, images):
            return super().forward(images), images
    return Pair(num_classes)

def maps(num_classes):
    return nn.Conv2d(3, num_classes, 1)

def text(num_classes):
    return "a network"

def fails(num_classes):
    raise RuntimeError(f"no weights for {{num_classes}} classes here\\nmore")

def leaves(num_classes):
    raise SystemExit(2)
"""


@pytest.fixture
def own(tmp_path, monkeypatch, request):
    """A module of the user's in the current folder; its name is new for every test."""
    name = "own_" + "".join(c for c in request.node.name if c.isalnum())
    (tmp_path / f"{name}.py").write_text(CODE.format(name=name))
    (tmp_path / f"late_{name}.py").write_text("WIDTH = 4\n")
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture
def student(tmp_path):
    """A file as train-student writes it: resnet8 with 3 classes at 28 px."""
    torch.manual_seed(5)
    model, info = build_model("resnet8", class_count=3, image_px=28)
    info = ModelInfo(spec=info.spec, class_names=("a", "b", "c"), preprocessing=info.preprocessing)
    path = tmp_path / "student.safetensors"
    save_student(path, model, info, {})
    return path, model, info


def fails(kind, spec, **options) -> str:
    with pytest.raises(kind) as caught:
        build_model(spec, **{"class_count": 3, **options})
    return str(caught.value)


def test_built_in_names_give_fresh_networks_for_small_images():
    model, info = build_model("wrn_16_1", class_count=7)
    assert model.training
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert (info.spec, info.class_names, info.weights) == ("wrn_16_1", None, "random")
    assert (info.preprocessing.image_px, info.preprocessing.resize_px) == (32, 32)
    assert info.preprocessing.mean == [0.5071, 0.4867, 0.4408]
    assert info.preprocessing.std == [0.2675, 0.2565, 0.2761]


def test_the_image_size_can_be_said_and_brings_its_statistics():
    assert build_model("resnet8", class_count=3, image_px=64)[1].preprocessing.resize_px == 64
    large = build_model("resnet8", class_count=3, image_px=96)[1].preprocessing
    assert (large.image_px, large.resize_px, large.mean[0]) == (96, 110, 0.485)


def test_default_preprocessing_cuts_a_margin_from_large_images_only():
    sizes = {28: 28, 32: 32, 64: 64, 65: 74, 160: 183, 224: 256, 288: 329}
    assert {px: default_preprocessing(px).resize_px for px in sizes} == sizes


@pytest.mark.parametrize(("image_px", "count"), [(8, 256), (224, 256), (512, 256), (518, 128), (1024, 64), (4096, 4)])
def test_large_images_are_shown_in_smaller_batches(image_px, count):
    assert usual_batch_size(image_px) == count
    assert usual_batch_size(100_000) == 1


def test_rescaling_keeps_margin_and_statistics():
    native = default_preprocessing(224).model_copy(update={"resize_px": 232, "interpolation": "bicubic"})
    larger = rescaled(native, 448)
    assert (larger.image_px, larger.resize_px, larger.interpolation) == (448, 464, "bicubic")
    assert larger.mean == native.mean
    assert rescaled(native, 32).resize_px == 32
    assert rescaled(native, 224) is native


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("resnet8x5", "resnet8x4"),
        ("WRN-40-2", "wrn_40_2"),
        ("resnet-56", "resnet56"),
        ("ResNet18", "torchvision/resnet18"),
        ("torchvision:resnet50", "torchvision/resnet50"),
        ("torchvision/resnet19", "torchvision/resnet18"),
        ("teacher.pth", "--checkpoint teacher.pth"),
        ("something", "module:callable"),
        (":", "module:callable"),
        ("", "module:callable"),
    ],
)
def test_unknown_names_get_a_suggestion(spec, near):
    assert near in fails(UsageError, spec)


@pytest.mark.parametrize("options", [{"class_count": 0}, {"image_px": 0}])
def test_impossible_sizes_are_refused(options):
    assert "at least 1 class and 1 pixel" in fails(UsageError, "resnet8", **options)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_checkpoint_of_the_right_head_is_loaded_whole(tmp_path, pretrained):
    reference = MODELS["resnet8"].build(3)
    torch.save({"model": reference.state_dict()}, tmp_path / "c.pth")
    model, info = build_model("resnet8", class_count=3, checkpoint=tmp_path / "c.pth", pretrained=pretrained)
    assert weights_sha256(model) == weights_sha256(reference)
    assert (info.weights, info.preprocessing.image_px) == ("loaded", 32)


def test_a_teacher_keeps_the_head_of_its_checkpoint(tmp_path):
    reference = MODELS["resnet8"].build(100)
    torch.save(reference.state_dict(), tmp_path / "c.pth")
    model, info = build_model("resnet8", class_count=3, checkpoint=tmp_path / "c.pth")
    assert weights_sha256(model) == weights_sha256(reference)
    assert (output_count(model, 32), info.weights) == (100, "loaded")


def test_a_student_takes_all_but_the_head_of_a_checkpoint_with_other_classes(tmp_path):
    reference = MODELS["resnet8"].build(100)
    torch.save(reference.state_dict(), tmp_path / "c.pth")
    model, info = build_model("resnet8", class_count=3, checkpoint=tmp_path / "c.pth", pretrained=False)
    assert (output_count(model, 32), info.weights) == (3, "fresh head")
    theirs = reference.state_dict()
    same = {name for name, value in model.state_dict().items() if torch.equal(value, theirs[name])}
    assert theirs.keys() - same == {"fc.weight", "fc.bias"}


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    torch.save(MODELS["resnet14"].build(3).state_dict(), tmp_path / "c.pth")
    assert "36 unexpected: layer1.1.conv1.weight, " in fails(InputError, "resnet8", checkpoint=tmp_path / "c.pth")


def test_a_student_file_is_a_spec_of_its_own(student):
    path, model, info = student
    again, described = build_model(str(path), class_count=99)
    assert described == info
    assert weights_sha256(again) == weights_sha256(model)


def test_a_student_file_tells_its_facts_as_a_checkpoint_too(student):
    path, model, info = student
    again, described = build_model("resnet8", class_count=3, checkpoint=path)
    assert described == info
    assert weights_sha256(again) == weights_sha256(model)


def test_a_student_from_a_student_file_of_other_classes_gets_a_fresh_head(student):
    model, info = build_model(str(student[0]), class_count=10, pretrained=False)
    assert output_count(model, 28) == 10
    assert (info.weights, info.class_names, info.preprocessing.image_px) == ("fresh head", None, 28)


def test_a_student_file_at_another_image_size_keeps_its_statistics(student):
    info = build_model(str(student[0]), class_count=3, image_px=128)[1]
    assert (info.preprocessing.image_px, info.preprocessing.resize_px) == (128, 128)
    assert info.preprocessing.mean == [0.5071, 0.4867, 0.4408]


def test_a_student_file_contradicts_a_checkpoint(student):
    assert "has its own weights" in fails(UsageError, str(student[0]), checkpoint=student[0])


def test_weights_that_do_not_describe_themselves_need_a_name(tmp_path):
    save_file(MODELS["resnet8"].build(3).state_dict(), tmp_path / "w.safetensors")
    assert "--checkpoint" in fails(InputError, str(tmp_path / "w.safetensors"))
    build_model("resnet8", class_count=3, checkpoint=tmp_path / "w.safetensors")


def test_missing_files_are_named(tmp_path):
    assert "no such file" in fails(InputError, str(tmp_path / "none.safetensors"))
    assert "no such file" in fails(InputError, "resnet8", checkpoint=tmp_path / "none.pth")


def test_a_callable_of_the_current_folder_makes_the_network(own):
    before = list(sys.path)
    model, info = build_model(f"{own}:Net", class_count=7)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 7)
    assert (info.spec, info.class_names, info.weights) == (f"{own}:Net", None, "loaded")
    assert (info.preprocessing.image_px, info.preprocessing.resize_px) == (224, 256)
    assert all(module.training for module in model.modules())
    assert sys.path == before


def test_a_callable_inside_a_class_may_import_its_neighbours_late(own):
    assert build_model(f"{own}:Factory.make", class_count=3, image_px=8)[0].trunk.out_channels == 4


def test_a_callable_with_a_checkpoint_takes_the_head_size_of_the_checkpoint(own, tmp_path):
    reference, _ = build_model(f"{own}:Net", class_count=9)
    torch.save(reference.state_dict(), tmp_path / "c.pth")
    model, _ = build_model(f"{own}:Net", class_count=3, checkpoint=tmp_path / "c.pth")
    assert weights_sha256(model) == weights_sha256(reference)


def test_a_callable_with_a_fixed_head_is_a_teacher_but_no_student(own):
    model, _ = build_model(f"{own}:always_five", class_count=3)
    assert output_count(model, 8) == 5
    assert "has 5 outputs; 3 are needed" in fails(InputError, f"{own}:always_five", pretrained=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pair", "returns tuple for one image, not logits"),
        ("maps", "does not take 3x224x224 images|returns \\(1, 3, 224, 224\\)"),
        ("text", "returned str, not a torch.nn.Module"),
        ("fails", "num_classes=3: RuntimeError: no weights for 3 classes here$"),
        ("leaves", "SystemExit: 2"),
    ],
)
def test_callables_that_make_no_classifier_are_refused_with_the_reason(own, name, message):
    with pytest.raises(InputError, match=message):
        build_model(f"{own}:{name}", class_count=3, pretrained=False)


def test_missing_modules_and_attributes_are_usage_errors(own):
    assert "no module 'absent_module'" in fails(UsageError, "absent_module:make")
    assert "no module 'absent'" in fails(UsageError, "absent.module:make")
    assert "did you mean Factory" in fails(UsageError, f"{own}:factory")


def test_modules_that_fail_to_import_give_the_reason(own, tmp_path):
    (tmp_path / f"broken_{own}.py").write_text("import absent_library\n")
    assert "No module named 'absent_library'" in fails(InputError, f"broken_{own}:make")
    (tmp_path / f"wrong_{own}.py").write_text("def (\n")
    assert "SyntaxError" in fails(InputError, f"wrong_{own}:make")


def test_a_file_may_not_say_which_code_to_run(own, tmp_path):
    spec = f"{own}:Net"
    model, info = build_model(spec, class_count=3, image_px=8)
    save_student(tmp_path / "s.safetensors", model, info, {})
    sys.modules.pop(own)
    assert spec in fails(UsageError, str(tmp_path / "s.safetensors"))
    assert own not in sys.modules
    again, described = build_model(spec, class_count=3, checkpoint=tmp_path / "s.safetensors")
    assert weights_sha256(again) == weights_sha256(model)
    assert described.preprocessing.image_px == 8


def test_probing_changes_neither_modes_nor_statistics():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model[1].eval()
    before = weights_sha256(model)
    assert output_count(model, 6) == 4
    assert [module.training for module in model] == [True, False, True, True]
    assert weights_sha256(model) == before


def test_parameters_are_counted_once_and_buffers_not_at_all():
    shared = nn.Linear(3, 3)
    assert parameter_count(nn.Sequential(shared, nn.BatchNorm1d(3), shared)) == 12 + 6


def test_weights_loaded_into_a_built_network_survive_a_round_trip(student, tmp_path):
    path, model, info = student
    fresh, _ = build_model("resnet8", class_count=3)
    load_state(fresh, read_state(path), origin=str(path))
    save_student(tmp_path / "again.safetensors", fresh, info, {})
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert weights_sha256(fresh) == weights_sha256(model)
