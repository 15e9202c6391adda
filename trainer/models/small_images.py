"""Networks for small images, as the distillation literature trains them.

ResNet is the three-stage network of He et al. 2016 (section 4.2) with a 1x1 projection where the shape changes;
WideResNet is the pre-activation network of Zagoruyko and Komodakis 2016; VGG is Simonyan and Zisserman 2015 with batch
norm and only the last fully connected layer; MobileNetV2 is Sandler et al. 2018 with expansion 6, half the width and
fewer strides. Parameter names are those of RepDistiller and mdistiller, so their published checkpoints load unchanged.
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

VGG_WIDTHS = {
    8: ((64,), (128,), (256,), (512,), (512,)),
    13: ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
}
FIFTH_POOL_PX = 64
"""From this height up, a VGG halves its maps once more, as published for 64 px."""
MOBILE_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels at full width, blocks, stride of the first block; some strides are 1 that are 2 at 224 px."""


def _conv(width_in: int, width_out: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, groups=groups, bias=False)


def _activated(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]


def _stage(
    block: Callable[[int, int, int], nn.Module], width_in: int, width_out: int, blocks: int, stride: int
) -> nn.Sequential:
    """Return blocks, of which only the first changes width and resolution."""
    return nn.Sequential(
        block(width_in, width_out, stride), *(block(width_out, width_out, 1) for _ in range(blocks - 1))
    )


def _blocks_per_stage(depth: int, rest: int) -> int:
    blocks, remainder = divmod(depth - rest, 6)
    if remainder or blocks < 1:
        raise ValueError(f"depth {depth} is not 6n+{rest}")
    return blocks


def _initialise(network: nn.Module) -> None:
    """Initialise convolutions Kaiming-normal over the fan-out, and batch norms to the identity."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def _initialise_plain(network: nn.Module) -> None:
    """Initialise as the residual networks; biases zero, linear layers normal with standard deviation 0.01."""
    _initialise(network)
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


class SmallImageNet(nn.Module):
    """A trunk, pooling, and one linear head, named as in published checkpoints."""

    head_name = "fc"

    def maps(self, images: Tensor) -> Tensor:
        """Return the last feature maps (n, D, h, w) of images (n, 3, H, W)."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """Return penultimate features (n, D) of images (n, 3, H, W)."""
        return F.adaptive_avg_pool2d(self.maps(images), 1).flatten(1)

    def head(self, features_nD: Tensor) -> Tensor:
        """Return logits (n, C) of penultimate features (n, D)."""
        return cast(Tensor, getattr(self, self.head_name)(features_nD))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, C) of images (n, 3, H, W); H and W must be at least 4 pixels."""
        return self.head(self.features(images))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is a 1x1 projection if the shape changes."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(width_in, width_out, stride=stride)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = _conv(width_out, width_out)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or width_in != width_out:
            projection = _conv(width_in, width_out, kernel=1, stride=stride)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(width_out))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block, (n, width_out, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + shortcut, inplace=True)


class ResNet(SmallImageNet):
    """ResNet of depth 6n+2: a stem, three stages of n blocks at strides 1, 2, 2, pooling, `fc`."""

    def __init__(self, depth: int, widths: tuple[int, int, int, int], class_count: int) -> None:
        """`widths`: channels of the stem and of the three stages."""
        super().__init__()
        blocks = _blocks_per_stage(depth, 2)
        self.conv1 = _conv(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(BasicBlock, widths[0], widths[1], blocks, stride=1)
        self.layer2 = _stage(BasicBlock, widths[1], widths[2], blocks, stride=2)
        self.layer3 = _stage(BasicBlock, widths[2], widths[3], blocks, stride=2)
        self.fc = nn.Linear(widths[3], class_count)
        _initialise(self)

    def maps(self, images: Tensor) -> Tensor:
        """Return (n, widths[3], H / 4, W / 4)."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        return cast(Tensor, self.layer3(self.layer2(self.layer1(x))))


class PreActivationBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions.

    If the width changes, the shortcut is a 1x1 convolution of the activated input; otherwise it is the input.
    """

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = _conv(width_in, width_out, stride=stride)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.conv2 = _conv(width_out, width_out)
        self.convShortcut: nn.Conv2d | None = None
        if width_in != width_out:
            self.convShortcut = _conv(width_in, width_out, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block, (n, width_out, H / stride, W / stride)."""
        active = F.relu(self.bn1(x), inplace=True)
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        out = F.relu(self.bn2(self.conv1(active)), inplace=True)
        return cast(Tensor, self.conv2(out) + shortcut)


class WideStage(nn.Module):
    """One stage of a WideResNet; a separate module because published parameter names have the form block1.layer.0."""

    def __init__(self, width_in: int, width_out: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = _stage(PreActivationBlock, width_in, width_out, blocks, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the stage."""
        return cast(Tensor, self.layer(x))


class WideResNet(SmallImageNet):
    """WRN-depth-widen of depth 6n+4, without dropout."""

    def __init__(self, depth: int, widen: int, class_count: int) -> None:
        super().__init__()
        blocks = _blocks_per_stage(depth, 4)
        self.conv1 = _conv(3, 16)
        self.block1 = WideStage(16, 16 * widen, blocks, stride=1)
        self.block2 = WideStage(16 * widen, 32 * widen, blocks, stride=2)
        self.block3 = WideStage(32 * widen, 64 * widen, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, class_count)
        _initialise(self)
        nn.init.zeros_(self.fc.bias)

    def maps(self, images: Tensor) -> Tensor:
        """Return (n, 64 * widen, H / 4, W / 4)."""
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        return F.relu(self.bn1(x), inplace=True)


class VGG(SmallImageNet):
    """Five stages of 3x3 convolutions with bias, batch norm and ReLU; 2x2 max pooling between the first four."""

    head_name = "classifier"

    def __init__(self, depth: int, class_count: int) -> None:
        """`depth`: a key of VGG_WIDTHS; it counts the linear layer too, as published names do."""
        super().__init__()
        width_in = 3
        for number, widths in enumerate(VGG_WIDTHS[depth]):
            layers: list[nn.Module] = []
            for width in widths:
                layers += _activated(nn.Conv2d(width_in, width, 3, padding=1))
                width_in = width
            # In published files the last ReLU is not part of a stage.
            self.add_module(f"block{number}", nn.Sequential(*layers[:-1]))
        self.classifier = nn.Linear(width_in, class_count)
        _initialise_plain(self)

    def maps(self, images: Tensor) -> Tensor:
        """Return (n, 512, H / 8, W / 8), or H / 16 and W / 16 from FIFTH_POOL_PX up; H and W end at 1."""
        x = images
        for number in range(5):
            x = F.relu(getattr(self, f"block{number}")(x), inplace=True)
            is_pooled = number < 3 or (number == 3 and images.shape[2] >= FIFTH_POOL_PX)
            # Maps of one row or column (very small images) stay as they are.
            if is_pooled and min(x.shape[2:]) >= 2:
                x = F.max_pool2d(x, 2)
        return x


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection without activation; the input is added if shapes are equal."""

    def __init__(self, width_in: int, width_out: int, stride: int, *, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.is_residual = stride == 1 and width_in == width_out
        self.conv = nn.Sequential(
            *_activated(_conv(width_in, inner, kernel=1)),
            *_activated(_conv(inner, inner, stride=stride, groups=inner)),
            _conv(inner, width_out, kernel=1),
            nn.BatchNorm2d(width_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block, (n, width_out, H / stride, W / stride)."""
        out = self.conv(x)
        return cast(Tensor, x + out if self.is_residual else out)


class MobileNetV2(SmallImageNet):
    """MobileNetV2 for 32 px at a given width: a stem of stride 2, seven stages, 1,280 features."""

    head_name = "classifier"

    def __init__(self, width: float, class_count: int) -> None:
        """`width`: share of the channels of MOBILE_STAGES, up to 1."""
        super().__init__()
        width_in = int(32 * width)
        self.conv1 = nn.Sequential(*_activated(_conv(3, width_in, stride=2)))
        self.blocks = nn.Sequential()
        for expansion, channels, blocks, stride in MOBILE_STAGES:
            width_out = int(channels * width)
            block = partial(InvertedResidual, expansion=expansion)
            self.blocks.append(_stage(block, width_in, width_out, blocks, stride))
            width_in = width_out
        self.conv2 = nn.Sequential(*_activated(_conv(width_in, 1280, kernel=1)))
        self.classifier = nn.Sequential(nn.Linear(1280, class_count))
        _initialise_plain(self)

    def maps(self, images: Tensor) -> Tensor:
        """Return (n, 1280, H / 16, W / 16)."""
        return cast(Tensor, self.conv2(self.blocks(self.conv1(images))))
