"""VGG and MobileNetV2 for small images, in the forms of the distillation literature.

VGG is Simonyan and Zisserman 2015 with batch norm and only the last fully connected layer; MobileNetV2 is
Sandler et al. 2018 with expansion 6, half the width and fewer strides. Parameter names are those of RepDistiller and
mdistiller, so their published checkpoints load unchanged.
"""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.small_images import SmallImageNet, initialise

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


def _initialise(network: nn.Module) -> None:
    """Initialise as the residual networks; biases zero, linear layers normal with standard deviation 0.01."""
    initialise(network)
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


class VGG(SmallImageNet):
    """Five stages of 3x3 convolutions with bias, batch norm and ReLU; 2x2 max pooling between the first four."""

    def __init__(self, depth: int, class_count: int) -> None:
        """`depth`: a key of VGG_WIDTHS; it counts the linear layer too, as published names do."""
        super().__init__()
        widths = VGG_WIDTHS[depth]
        self.block0 = _vgg_stage(3, widths[0])
        self.block1 = _vgg_stage(widths[0][-1], widths[1])
        self.block2 = _vgg_stage(widths[1][-1], widths[2])
        self.block3 = _vgg_stage(widths[2][-1], widths[3])
        self.block4 = _vgg_stage(widths[3][-1], widths[4])
        self.classifier = nn.Linear(widths[4][-1], class_count)
        _initialise(self)

    def features(self, images: Tensor) -> Tensor:
        """Return penultimate features (n, 512)."""
        x = _halved(F.relu(self.block0(images), inplace=True))
        x = _halved(F.relu(self.block1(x), inplace=True))
        x = _halved(F.relu(self.block2(x), inplace=True))
        x = F.relu(self.block3(x), inplace=True)
        if images.shape[2] >= FIFTH_POOL_PX:
            x = _halved(x)
        x = F.relu(self.block4(x), inplace=True)
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def head(self, features_nD: Tensor) -> Tensor:
        """Return logits (n, C), computed by `classifier`."""
        return cast(Tensor, self.classifier(features_nD))


def _vgg_stage(width_in: int, widths: Sequence[int]) -> nn.Sequential:
    """Return convolutions with batch norm and ReLU; the last ReLU is left to the caller."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        width_in = width
    return nn.Sequential(*layers[:-1])


def _halved(x: Tensor) -> Tensor:
    """Return the 2x2 max pooling of maps; maps of one row or column (very small images) stay as they are."""
    return x if min(x.shape[2:]) < 2 else F.max_pool2d(x, 2)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection without activation; the input is added if shapes are equal."""

    def __init__(self, width_in: int, width_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.is_residual = stride == 1 and width_in == width_out
        self.conv = nn.Sequential(
            nn.Conv2d(width_in, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, width_out, 1, bias=False),
            nn.BatchNorm2d(width_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block, (n, width_out, H / stride, W / stride)."""
        out = self.conv(x)
        return cast(Tensor, x + out if self.is_residual else out)


class MobileNetV2(SmallImageNet):
    """MobileNetV2 for 32 px at a given width: a stem of stride 2, seven stages, 1,280 features."""

    def __init__(self, width: float, class_count: int) -> None:
        """`width`: share of the channels of MOBILE_STAGES, up to 1."""
        super().__init__()
        width_in = int(32 * width)
        self.conv1 = _convolution(3, width_in, kernel=3, stride=2)
        self.blocks = nn.ModuleList()
        for expansion, channels, blocks, stride in MOBILE_STAGES:
            width_out = int(channels * width)
            stage = [InvertedResidual(width_in, width_out, stride, expansion)]
            stage += [InvertedResidual(width_out, width_out, 1, expansion) for _ in range(blocks - 1)]
            self.blocks.append(nn.Sequential(*stage))
            width_in = width_out
        self.conv2 = _convolution(width_in, 1280, kernel=1, stride=1)
        self.classifier = nn.Sequential(nn.Linear(1280, class_count))
        _initialise(self)

    def features(self, images: Tensor) -> Tensor:
        """Return penultimate features (n, 1280)."""
        x = self.conv1(images)
        for stage in self.blocks:
            x = stage(x)
        return F.adaptive_avg_pool2d(self.conv2(x), 1).flatten(1)

    def head(self, features_nD: Tensor) -> Tensor:
        """Return logits (n, C), computed by `classifier`."""
        return cast(Tensor, self.classifier(features_nD))


def _convolution(width_in: int, width_out: int, *, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width_out), nn.ReLU(inplace=True))
