"""Penultimate features: what enters the layer that makes the logits, in networks of every make."""

import numpy as np
import pytest
import torch
from torch import nn

from manifests.errors import UsageError
from trainer.teachers.teacher import load_teacher
from trainer.teachers.teacher_spec import TeacherSpec

NAMES = [f"class{number}" for number in range(7)]


class Twice(nn.Module):
    """A linear layer of as many outputs as there are classes inside, and another at the end."""

    def __init__(self, num_classes):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.inner = nn.Linear(12, num_classes)
        self.head = nn.Linear(num_classes, num_classes)

    def forward(self, images):
        return self.head(torch.tanh(self.inner(self.pool(images).flatten(1))))


class Tokens(nn.Module):
    """Logits of every pixel, averaged."""

    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, images):
        return self.head(images.flatten(2).transpose(1, 2)).mean(dim=1)


class Unused(nn.Module):
    """A linear layer is not on the way."""

    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)
        self.conv = nn.Conv2d(3, num_classes, 1)

    def forward(self, images):
        return self.conv(images).mean(dim=(2, 3))


class Spare(Twice):
    """A linear layer after the head is not on the way."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.spare = nn.Linear(3, num_classes)


class Auxiliary(Twice):
    """A linear layer after the head makes something else."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.second = nn.Linear(12, num_classes)

    def forward(self, images):
        logits = super().forward(images)
        self.second(self.pool(images).flatten(1))
        return logits


class Tempered(Twice):
    """Logits that are not what the linear layer makes: p would be another one of the stored features."""

    def forward(self, images):
        return super().forward(images) / 2


@pytest.fixture
def networks(monkeypatch):
    """The networks above by name, for --teacher module:callable."""
    import sys

    module = type(sys)("feature_networks")
    for network in (Twice, Tokens, Unused, Spare, Auxiliary, Tempered):
        setattr(module, network.__name__, network)
    monkeypatch.setitem(sys.modules, "feature_networks", module)
    return "feature_networks:"


def teacher_of(spec, image_px=32):
    return load_teacher(TeacherSpec(network=spec, image_px=image_px, random_weights=True), NAMES, device="cpu")


def images_of(count=5, side=32):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, side, side), np.uint8))


@pytest.mark.parametrize(
    ("spec", "layer", "width"),
    [
        ("resnet8", "fc", 64),
        ("wrn_16_2", "fc", 128),
        ("torchvision/mobilenet_v3_small", "classifier.3", 1024),
    ],
)
def test_the_layers_weights_make_logits_of_the_features(spec, layer, width):
    teacher = teacher_of(spec)
    assert (teacher.feature_layer.name, teacher.feature_layer.width) == (layer, width)
    images = images_of()
    logits, features = teacher.logits_and_features(images)
    assert features.shape == (5, width)
    assert features.dtype == torch.float32
    module = teacher.feature_layer.module
    with torch.inference_mode():
        again = features @ module.weight.T + module.bias
    np.testing.assert_allclose(again, logits, rtol=1e-4, atol=1e-5)
    assert np.array_equal(logits, teacher.logits(images))
    assert not module._forward_pre_hooks


def test_features_of_our_own_networks_are_what_they_call_features():
    teacher = teacher_of("resnet8")
    seen = torch.zeros(2, 3, 32, 32)
    _, features = teacher.logits_and_features(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    shown = teacher.preprocessing
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (shown.mean, shown.std))
    with torch.inference_mode():
        np.testing.assert_allclose(features, teacher.module.features((seen - mean) / std), rtol=1e-5, atol=1e-6)


def test_of_several_layers_with_as_many_outputs_it_is_the_last(networks):
    for name in ("Twice", "Spare", "Auxiliary"):
        teacher = teacher_of(networks + name, 8)
        assert teacher.feature_layer.name == "head"
        assert not any(module._forward_hooks for module in teacher.module.modules())


def test_a_network_without_a_linear_head_is_named():
    with pytest.raises(UsageError, match="squeezenet1_1 has no linear layer that computes its 7 outputs"):
        _ = teacher_of("torchvision/squeezenet1_1", 64).feature_layer


@pytest.mark.parametrize("name", ["Tokens", "Unused", "Tempered"])
def test_a_network_whose_logits_no_linear_layer_makes_is_named(networks, name):
    teacher = teacher_of(networks + name, 8)
    with pytest.raises(UsageError, match=f"{name} has no linear layer that computes its 7 outputs") as caught:
        teacher.logits_and_features(images_of(side=8))
    assert "do without --features" in caught.value.hint
