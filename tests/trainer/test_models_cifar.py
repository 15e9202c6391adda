import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.models.build import MODELS, parameter_count
from trainer.models.small_images import ResNet, SmallImageNet, WideResNet

# Counted on the networks of HobbitLong/RepDistiller (b84f547c) and megvii-research/mdistiller (a08d46f1), which
# agree: parameters for 100 classes, and entries of the state dict.
PUBLISHED = {
    "resnet8": (83_892, 56),
    "resnet14": (181_108, 92),
    "resnet20": (278_324, 128),
    "resnet32": (472_756, 200),
    "resnet44": (667_188, 272),
    "resnet56": (861_620, 344),
    "resnet110": (1_736_564, 668),
    "resnet8x4": (1_233_540, 62),
    "resnet32x4": (7_433_860, 206),
    "wrn_16_1": (180_916, 82),
    "wrn_16_2": (703_284, 83),
    "wrn_40_1": (569_780, 226),
    "wrn_40_2": (2_255_156, 227),
    "vgg8": (3_965_028, 37),
    "vgg13": (9_462_180, 72),
    "mobilenetv2": (812_836, 320),
}
FEATURES = {"resnet8": 64, "resnet8x4": 256, "wrn_16_1": 64, "wrn_16_2": 128, "vgg8": 512, "mobilenetv2": 1280}


def small(name: str, classes: int = 10) -> SmallImageNet:
    network = MODELS[name].build(classes)
    assert isinstance(network, SmallImageNet)
    return network


def test_the_registry_holds_the_published_family_and_facts_of_each():
    assert list(MODELS) == list(PUBLISHED)
    assert all(entry.name == name and entry.image_px == 32 for name, entry in MODELS.items())
    assert all(entry.source for entry in MODELS.values())


def test_the_registry_is_read_without_torch():
    code = "import sys, trainer.models.built_in as r; print(len(r.MODELS), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["16", "False"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_number_of_parameters(name):
    with torch.device("meta"):
        network = MODELS[name].build(100)
    assert (parameter_count(network), len(network.state_dict())) == PUBLISHED[name]


def test_resnet8_has_the_parameters_that_hand_counting_gives():
    stem = 3 * 16 * 9 + 2 * 16
    layer1 = 2 * (16 * 16 * 9 + 2 * 16)
    layer2 = 16 * 32 * 9 + 32 * 32 * 9 + 16 * 32 + 3 * 2 * 32
    layer3 = 32 * 64 * 9 + 64 * 64 * 9 + 32 * 64 + 3 * 2 * 64
    assert parameter_count(small("resnet8")) == stem + layer1 + layer2 + layer3 + 64 * 10 + 10


def test_parameters_carry_the_names_of_published_checkpoints():
    resnet, wrn = small("resnet8x4").state_dict(), small("wrn_16_2").state_dict()
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "fc.bias"} <= resnet.keys()
    assert {"layer1.0.downsample.0.weight", "layer3.0.downsample.1.running_var"} <= resnet.keys()
    assert {"block1.layer.0.convShortcut.weight", "block3.layer.1.bn2.weight", "bn1.bias"} <= wrn.keys()
    assert "layer1.0.downsample.0.weight" not in small("resnet8").state_dict()
    assert "block1.layer.0.convShortcut.weight" not in small("wrn_16_1").state_dict()


@pytest.mark.parametrize("name", FEATURES)
def test_logits_are_the_head_of_the_features(name):
    network = small(name).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        features_nD = network.features(images)
        assert features_nD.shape == (3, FEATURES[name])
        assert torch.equal(network.head(features_nD), network(images))


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "mobilenetv2"])
def test_images_of_any_size_give_logits(name):
    network = small(name, 7).eval()
    with torch.no_grad():
        assert [network(torch.zeros(2, 3, h, w)).shape for h, w in ((4, 4), (28, 28), (65, 31))] == [(2, 7)] * 3


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2", "vgg8", "mobilenetv2"])
def test_channels_last_changes_no_result_and_stays_channels_last(name):
    network = small(name).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images)
        network.to(memory_format=torch.channels_last)
        seen = []
        last_norm = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)][-1]
        last_norm.register_forward_hook(lambda _, __, out: seen.append(out))
        got = network(images.to(memory_format=torch.channels_last))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_2", "vgg8", "mobilenetv2"])
def test_every_parameter_gets_a_finite_gradient(name):
    network = small(name)
    network(torch.randn(4, 3, 32, 32)).square().mean().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.any(), parameter_name


def test_convolutions_start_kaiming_normal_over_the_fan_out():
    torch.manual_seed(0)
    weight = small("resnet32x4").get_parameter("layer3.0.conv1.weight")
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert abs(weight.mean().item()) < 1e-3


def test_the_same_seed_gives_the_same_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(small("resnet8").state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@settings(max_examples=20, deadline=None)
@given(st.integers(-3, 60))
def test_depths_outside_the_family_are_refused(depth):
    with torch.device("meta"):
        for kind, least in ((lambda: ResNet(depth, (2, 2, 2, 2), 3), 2), (lambda: WideResNet(depth, 1, 3), 4)):
            if depth > least and (depth - least) % 6 == 0:
                assert len(list(kind().parameters())) > 10
            else:
                with pytest.raises(ValueError, match="is not 6n"):
                    kind()
