"""VGG and MobileNetV2: names and shapes of published checkpoints written down, sizes counted by hand, values too."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainer.models.build import MODELS, build_model, parameter_count
from trainer.models.small_images import MobileNetV2, SmallImageNet

VGG8 = [(0, 0, 3, 64), (1, 0, 64, 128), (2, 0, 128, 256), (3, 0, 256, 512), (4, 0, 512, 512)]
VGG13 = [
    (0, 0, 3, 64), (0, 3, 64, 64), (1, 0, 64, 128), (1, 3, 128, 128), (2, 0, 128, 256), (2, 3, 256, 256),
    (3, 0, 256, 512), (3, 3, 512, 512), (4, 0, 512, 512), (4, 3, 512, 512),
]  # fmt: skip
"""Stage, index of the convolution in it, channels in and out, as RepDistiller's and mdistiller's files name them."""
MOBILE = [
    [(16, 16, 8)],
    [(8, 48, 12), (12, 72, 12)],
    [(12, 72, 16), (16, 96, 16), (16, 96, 16)],
    [(16, 96, 32), (32, 192, 32), (32, 192, 32), (32, 192, 32)],
    [(32, 192, 48), (48, 288, 48), (48, 288, 48)],
    [(48, 288, 80), (80, 480, 80), (80, 480, 80)],
    [(80, 480, 160)],
]
"""Channels in, expanded and out of every block of every stage, at half the width."""
Shapes = dict[str, tuple[int, ...]]


def norm(name: str, width: int) -> Shapes:
    vectors = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return vectors | {f"{name}.num_batches_tracked": ()}


def vgg_shapes(convolutions: list[tuple[int, int, int, int]], classes: int) -> Shapes:
    shapes: Shapes = {"classifier.weight": (classes, 512), "classifier.bias": (classes,)}
    for stage, index, width_in, width_out in convolutions:
        shapes[f"block{stage}.{index}.weight"] = (width_out, width_in, 3, 3)
        shapes[f"block{stage}.{index}.bias"] = (width_out,)
        shapes |= norm(f"block{stage}.{index + 1}", width_out)
    return shapes


def mobile_shapes(classes: int) -> Shapes:
    shapes: Shapes = {"classifier.0.weight": (classes, 1280), "classifier.0.bias": (classes,)}
    shapes |= {"conv1.0.weight": (16, 3, 3, 3), "conv2.0.weight": (1280, 160, 1, 1)}
    shapes |= norm("conv1.1", 16) | norm("conv2.1", 1280)
    for stage, blocks in enumerate(MOBILE):
        for block, (width_in, inner, width_out) in enumerate(blocks):
            name = f"blocks.{stage}.{block}.conv"
            shapes[f"{name}.0.weight"] = (inner, width_in, 1, 1)
            shapes[f"{name}.3.weight"] = (inner, 1, 3, 3)
            shapes[f"{name}.6.weight"] = (width_out, inner, 1, 1)
            shapes |= norm(f"{name}.1", inner) | norm(f"{name}.4", inner) | norm(f"{name}.7", width_out)
    return shapes


EXPECTED = {"vgg8": vgg_shapes(VGG8, 100), "vgg13": vgg_shapes(VGG13, 100), "mobilenetv2": mobile_shapes(100)}


def built(name: str, classes: int = 10) -> SmallImageNet:
    network = MODELS[name].build(classes)
    assert isinstance(network, SmallImageNet)
    return network


@pytest.mark.parametrize("name", EXPECTED)
def test_names_and_shapes_are_those_of_published_checkpoints(name: str) -> None:
    with torch.device("meta"):
        state = built(name, 100).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == EXPECTED[name]


def test_a_published_checkpoint_of_either_code_base_loads_as_it_is(tmp_path) -> None:
    # RepDistiller wraps the weights as {"model": ...}, mdistiller's students of nn.DataParallel begin with "module.".
    generator = torch.Generator().manual_seed(0)
    state = {
        key: torch.zeros((), dtype=torch.long) if not shape else torch.rand(shape, generator=generator)
        for key, shape in EXPECTED["vgg8"].items()
    }
    torch.save({"epoch": 240, "model": state, "best_acc": 70.4}, tmp_path / "vgg8_vanilla.pth")
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "student.pth")
    for file in ("vgg8_vanilla.pth", "student.pth"):
        network, info = build_model("vgg8", class_count=100, checkpoint=tmp_path / file)
        assert info.weights == "loaded"
        assert info.preprocessing.image_px == 32
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_vgg8_has_the_parameters_that_hand_counting_gives() -> None:
    convolutions = sum(9 * width_in * width_out + 3 * width_out for _, _, width_in, width_out in VGG8)
    assert convolutions == 3_913_728
    assert parameter_count(built("vgg8", 100)) == convolutions + 512 * 100 + 100 == 3_965_028


def test_a_mobile_block_has_the_parameters_that_hand_counting_gives() -> None:
    # 12 -> 72 -> 12 channels: two 1x1 convolutions, one depthwise 3x3, three batch norms.
    block = built("mobilenetv2").get_submodule("blocks.1.1")
    assert parameter_count(block) == 12 * 72 + 72 * 9 + 72 * 12 + 2 * (72 + 72 + 12) == 2_688


def test_vgg8_computes_convolution_norm_relu_and_pooling_in_the_published_order() -> None:
    network = built("vgg8").eval()
    state = _with_lively_norms(network)
    for side, pools in ((32, (0, 1, 2)), (64, (0, 1, 2, 3))):
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
        x = images
        for stage in range(5):
            x = F.conv2d(x, state[f"block{stage}.0.weight"], state[f"block{stage}.0.bias"], padding=1)
            x = F.relu(_normed(x, state, f"block{stage}.1"))
            x = F.max_pool2d(x, 2) if stage in pools else x
        assert x.shape[2:] == (4, 4)
        expected = x.mean((2, 3)) @ state["classifier.weight"].T + state["classifier.bias"]
        with torch.no_grad():
            assert torch.allclose(network(images), expected, atol=1e-5)


def test_an_inverted_residual_adds_its_input_only_where_the_shape_stays() -> None:
    blocks = built("mobilenetv2").get_submodule("blocks")
    adds = [[block.is_residual for block in stage] for stage in blocks]
    assert adds == [[False], *([False] + [True] * (len(stage) - 1) for stage in MOBILE[1:])]
    block = blocks[1][1].eval()
    x = torch.randn(1, 12, 4, 4)
    with torch.no_grad():
        for layer in block.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.zero_()
        assert torch.equal(block(x), x)


def test_mobilenet_halves_four_times_at_the_published_places() -> None:
    network, sides = built("mobilenetv2").eval(), []
    layers = [network.conv1, *network.blocks, network.conv2]
    for layer in layers:
        layer.register_forward_hook(lambda _, __, out: sides.append(out.shape[2]))
    with torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    assert sides == [16, 16, 16, 8, 4, 4, 2, 2, 2]


@pytest.mark.parametrize("name", EXPECTED)
def test_they_start_as_published(name: str) -> None:
    torch.manual_seed(0)
    network = built(name, 100)
    for key, value in network.named_parameters():
        if key.endswith("bias"):
            assert not value.any(), key
        elif value.ndim == 1:
            assert (value == 1).all(), key
    linear = next(layer for layer in network.modules() if isinstance(layer, nn.Linear))
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.03)
    widest = max((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), key=lambda c: c.weight.numel())
    fan_out = widest.out_channels * widest.kernel_size[0] ** 2
    assert widest.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.01)


def test_the_width_scales_all_channels_but_the_last() -> None:
    with torch.device("meta"):
        state = MobileNetV2(1.0, 7).state_dict()
    assert state["conv1.0.weight"].shape == (32, 3, 3, 3)
    assert state["blocks.5.0.conv.6.weight"].shape == (160, 576, 1, 1)
    assert state["conv2.0.weight"].shape == (1280, 320, 1, 1)


def _with_lively_norms(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict, after giving batch norms and biases values that a wrong order or a missing one would betray."""
    generator = torch.Generator().manual_seed(2)
    state = network.state_dict()
    for key, value in state.items():
        if key.endswith(("running_mean", "bias")):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
        elif key.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return state


def _normed(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    mean, var, weight, bias = (
        state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias
