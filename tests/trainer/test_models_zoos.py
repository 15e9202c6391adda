import sys
import urllib.error

import pytest
import torch
from torch import nn

from manifests.errors import InputError, UsageError
from trainer.models.build import build_model, output_count
from trainer.models.weights import save_student, weights_sha256

SMALL = "squeezenet1_1"
SMALL_TIMM = "test_resnet"


@pytest.fixture(scope="module")
def published():
    """Weights that stand for those of the zoo: 1000 outputs, and not what fresh weights would be."""
    torch.manual_seed(11)
    models = pytest.importorskip("torchvision.models")
    return models.get_model(SMALL, weights=None).state_dict()


@pytest.fixture
def downloads(monkeypatch, published):
    """Every download gives the weights above; the list of addresses asked for."""
    from torchvision.models import _api

    asked = []

    def load(url, **options):
        asked.append(url)
        return published

    monkeypatch.setattr(_api, "load_state_dict_from_url", load)
    return asked


@pytest.fixture
def no_network(monkeypatch):
    from torchvision.models import _api

    def load(url, **options):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(_api, "load_state_dict_from_url", load)


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.fixture
def timm_weights(timm, monkeypatch):
    """timm's pretrained networks without network: fresh weights, and the configuration of the real ones."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **rest: create(name, **rest))


def test_a_bare_torchvision_name_gives_fresh_weights(no_network):
    model, info = build_model(f"torchvision/{SMALL}", class_count=7)
    assert output_count(model, 64) == 7
    assert (info.spec, info.weights, info.class_names) == (f"torchvision/{SMALL}", "random", None)
    assert (info.preprocessing.image_px, info.preprocessing.resize_px) == (224, 256)


def test_named_torchvision_weights_bring_head_classes_and_preprocessing(downloads, published):
    model, info = build_model(f"torchvision/{SMALL}:DEFAULT", class_count=10)
    assert all(torch.equal(value, published[name]) for name, value in model.state_dict().items())
    assert downloads[0].endswith("squeezenet1_1-b8a52dc0.pth")
    assert info.spec == f"torchvision/{SMALL}:IMAGENET1K_V1"
    assert info.weights == "loaded"
    assert info.class_names is not None
    assert len(info.class_names) == 1000
    assert info.class_names[207] == "golden retriever"
    assert info.preprocessing.mean == [0.485, 0.456, 0.406]


def test_a_student_takes_named_weights_but_for_the_head(downloads, published):
    model, info = build_model(f"torchvision/{SMALL}:DEFAULT", class_count=10, pretrained=False)
    state = model.state_dict()
    fresh = {name for name, value in state.items() if value.shape != published[name].shape}
    assert fresh == {"classifier.1.weight", "classifier.1.bias"}
    assert all(torch.equal(state[name], published[name]) for name in state.keys() - fresh)
    assert (output_count(model, 64), info.weights, info.class_names) == (10, "fresh head", None)


def test_a_student_of_as_many_classes_keeps_the_named_head(downloads, published):
    model, info = build_model(f"torchvision/{SMALL}:DEFAULT", class_count=1000, pretrained=False)
    assert torch.equal(model.state_dict()["classifier.1.weight"], published["classifier.1.weight"])
    assert (info.weights, len(info.class_names or ())) == ("loaded", 1000)


def test_without_network_the_way_out_is_told(no_network):
    with pytest.raises(InputError, match=r"could not be loaded: URLError: .*not known") as caught:
        build_model(f"torchvision/{SMALL}:DEFAULT", class_count=10)
    assert "--checkpoint FILE" in (caught.value.hint or "")
    assert "squeezenet1_1-b8a52dc0.pth" in (caught.value.hint or "")


def test_a_downloaded_file_stands_in_for_named_weights(no_network, published, tmp_path):
    torch.save(published, tmp_path / "w.pth")
    spec = f"torchvision/{SMALL}:DEFAULT"
    model, info = build_model(spec, class_count=10, checkpoint=tmp_path / "w.pth")
    assert all(torch.equal(value, published[name]) for name, value in model.state_dict().items())
    assert len(info.class_names or ()) == 1000


def test_a_fine_tuned_checkpoint_of_a_zoo_network_has_no_imagenet_names(no_network, tmp_path):
    fine_tuned, _ = build_model(f"torchvision/{SMALL}", class_count=12)
    torch.save(fine_tuned.state_dict(), tmp_path / "w.pth")
    model, info = build_model(f"torchvision/{SMALL}:DEFAULT", class_count=10, checkpoint=tmp_path / "w.pth")
    assert weights_sha256(model) == weights_sha256(fine_tuned)
    assert info.class_names is None


@pytest.mark.parametrize(
    ("weights", "image_px", "resize_px", "interpolation"),
    [
        ("resnet50:IMAGENET1K_V1", 224, 256, "bilinear"),
        ("resnet50:IMAGENET1K_V2", 224, 232, "bilinear"),
        ("efficientnet_b3:DEFAULT", 300, 320, "bicubic"),
        ("vit_b_16:IMAGENET1K_SWAG_E2E_V1", 384, 384, "bicubic"),
    ],
)
def test_preprocessing_is_that_of_the_torchvision_weights(weights, image_px, resize_px, interpolation):
    from trainer.models.zoos import torchvision_blueprint

    found = torchvision_blueprint(weights, None).native(nn.Identity())
    assert found is not None
    assert (found.image_px, found.resize_px, found.interpolation) == (image_px, resize_px, interpolation)


def test_every_torchvision_classifier_has_a_blueprint_for_every_weight():
    from torchvision import models

    from trainer.models.zoos import torchvision_blueprint

    names = [
        f"{name}:{weights.name}"
        for name in models.list_models(module=models)
        for weights in models.get_model_weights(name)
        if weights.name != "IMAGENET1K_FEATURES"
    ]
    assert len(names) > 100
    assert all(len(torchvision_blueprint(name, None).class_names or ()) == 1000 for name in names)


def test_torchvision_weights_without_classifier_are_refused():
    with pytest.raises(UsageError, match="has no classifier"):
        build_model("torchvision/vgg16:IMAGENET1K_FEATURES", class_count=3)


def test_unknown_torchvision_weights_list_the_known_ones():
    with pytest.raises(UsageError, match="no weights 'IMAGENET1K_V9'") as caught:
        build_model("torchvision/resnet50:IMAGENET1K_V9", class_count=3)
    assert "IMAGENET1K_V2" in (caught.value.hint or "")


def test_networks_with_auxiliary_heads_return_plain_logits_in_training(tmp_path):
    from torchvision import models

    full = models.googlenet(weights=None, num_classes=3, aux_logits=True, init_weights=False)
    torch.save(full.state_dict(), tmp_path / "w.pth")
    model, _ = build_model("torchvision/googlenet", class_count=3, checkpoint=tmp_path / "w.pth")
    assert model.training
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    assert torch.equal(model.state_dict()["fc.weight"], full.state_dict()["fc.weight"])


def test_a_size_that_a_network_cannot_take_is_told_before_anything_runs():
    with pytest.raises(InputError, match="does not take 3x16x16 images"):
        build_model("torchvision/squeezenet1_1", class_count=3, image_px=16)


def test_students_of_the_zoo_come_back_from_their_file_without_a_download(downloads, tmp_path):
    model, info = build_model(f"torchvision/{SMALL}:DEFAULT", class_count=10, pretrained=False)
    save_student(tmp_path / "s.safetensors", model, info, {})
    downloads.clear()
    again, described = build_model(str(tmp_path / "s.safetensors"), class_count=10)
    assert weights_sha256(again) == weights_sha256(model)
    assert described.preprocessing == info.preprocessing
    assert not downloads


def test_timm_students_start_from_fresh_weights(timm):
    model, info = build_model(f"timm/{SMALL_TIMM}", class_count=7, pretrained=False, image_px=32)
    assert output_count(model, 32) == 7
    assert (info.weights, info.preprocessing.image_px) == ("random", 32)


def test_timm_teachers_bring_their_head_and_preprocessing(timm, timm_weights):
    model, info = build_model(f"timm/{SMALL_TIMM}", class_count=7)
    assert output_count(model, 64) == 1000
    assert (info.spec, info.weights) == ("timm/test_resnet.r160_in1k", "loaded")
    config = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    assert info.preprocessing.image_px == config.input_size[1] == 160
    assert info.preprocessing.resize_px == int(160 / config.crop_pct) == 168
    assert info.preprocessing.mean == list(config.mean)
    assert info.preprocessing.interpolation == config.interpolation


def test_timm_preprocessing_is_what_timm_itself_applies(timm, timm_weights):
    info = build_model("timm/test_vit", class_count=7)[1]
    from timm.data import create_transform, resolve_data_config

    config = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg("test_vit").to_dict())
    resize, crop, _, normalise = create_transform(**config).transforms
    assert (info.preprocessing.resize_px, info.preprocessing.image_px) == (resize.size, crop.size[0])
    assert info.preprocessing.interpolation == resize.interpolation.value
    assert info.preprocessing.std == pytest.approx(normalise.std.tolist())


def test_a_timm_checkpoint_replaces_the_published_weights(timm, monkeypatch, tmp_path):
    reference = timm.create_model(SMALL_TIMM, num_classes=5)
    torch.save({"state_dict": reference.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    model, info = build_model(f"timm/{SMALL_TIMM}", class_count=7, checkpoint=tmp_path / "w.pth")
    assert weights_sha256(model) == weights_sha256(reference)
    assert info.preprocessing.image_px == 160


def test_timm_transformers_are_built_for_the_image_size_and_come_back(timm, tmp_path):
    model, info = build_model("timm/test_vit", class_count=7, pretrained=False, image_px=32)
    save_student(tmp_path / "s.safetensors", model, info, {})
    again, described = build_model(str(tmp_path / "s.safetensors"), class_count=7)
    assert output_count(again, 32) == 7
    assert described.preprocessing.image_px == 32


def test_timm_weights_that_cannot_be_had_are_an_input_error(timm, monkeypatch):
    def create(*arguments, **options):
        raise OSError("We couldn't connect to the hub\nlong story")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(InputError, match=r"could not be loaded: OSError: We couldn't connect to the hub\n"):
        build_model(f"timm/{SMALL_TIMM}", class_count=3)


def test_timm_weights_without_classifier_are_refused(timm, monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **_: create(name, num_classes=0))
    with pytest.raises(InputError, match="has no classifier"):
        build_model(f"timm/{SMALL_TIMM}", class_count=3)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("resnet18x", "no network 'resnet18x'", "timm/resnet18 "),
        ("test_resnet.in22k", "no weights 'in22k'", "r160_in1k"),
        ("", "no network ''", "list_models"),
    ],
)
def test_unknown_timm_names_get_a_suggestion(timm, name, message, hint):
    with pytest.raises(UsageError, match=message) as caught:
        build_model(f"timm/{name}", class_count=3)
    assert hint in (caught.value.hint or "")


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match="timm/resnet18 needs timm") as caught:
        build_model("timm/resnet18", class_count=3)
    assert caught.value.hint == "pip install 'prune-toolkit[timm]'"
