"""Residual networks for small images, as the distillation literature trains them; plain.py has VGG and MobileNetV2.

ResNet is the three-stage network of He et al. 2016 (section 4.2) with a 1x1 projection where the shape changes;
WideResNet is the pre-activation network of Zagoruyko and Komodakis 2016. Parameter names are those of
RepDistiller and mdistiller, so their published checkpoints load unchanged.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


def _conv(width_in: int, width_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, kernel, stride=stride, padding=kernel // 2, bias=False)


def initialise(network: nn.Module) -> None:
    """Initialise convolutions Kaiming-normal over the fan-out, and batch norms to the identity."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


class SmallImageNet(nn.Module):
    """A trunk that ends in pooled features, and one linear head, named as in published checkpoints."""

    def features(self, images: Tensor) -> Tensor:
        """Return penultimate features (n, D) of images (n, 3, H, W)."""
        raise NotImplementedError

    def head(self, features_nD: Tensor) -> Tensor:
        """Return logits (n, C) of penultimate features (n, D)."""
        raise NotImplementedError

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
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth {depth} is not 6n+2")
        stem, *stages = widths
        self.conv1 = _conv(3, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = self._stage(stem, stages[0], blocks, stride=1)
        self.layer2 = self._stage(stages[0], stages[1], blocks, stride=2)
        self.layer3 = self._stage(stages[1], stages[2], blocks, stride=2)
        self.fc = nn.Linear(stages[2], class_count)
        initialise(self)

    @staticmethod
    def _stage(width_in: int, width_out: int, blocks: int, *, stride: int) -> nn.Sequential:
        first = BasicBlock(width_in, width_out, stride)
        return nn.Sequential(first, *(BasicBlock(width_out, width_out, 1) for _ in range(blocks - 1)))

    def features(self, images: Tensor) -> Tensor:
        """Return penultimate features (n, widths[3])."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def head(self, features_nD: Tensor) -> Tensor:
        """Return logits (n, C), computed by `fc`."""
        return cast(Tensor, self.fc(features_nD))


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
        first = PreActivationBlock(width_in, width_out, stride)
        rest = (PreActivationBlock(width_out, width_out, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the stage."""
        return cast(Tensor, self.layer(x))


class WideResNet(SmallImageNet):
    """WRN-depth-widen of depth 6n+4, without dropout."""

    def __init__(self, depth: int, widen: int, class_count: int) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth {depth} is not 6n+4")
        widths = (16 * widen, 32 * widen, 64 * widen)
        self.conv1 = _conv(3, 16)
        self.block1 = WideStage(16, widths[0], blocks, stride=1)
        self.block2 = WideStage(widths[0], widths[1], blocks, stride=2)
        self.block3 = WideStage(widths[1], widths[2], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], class_count)
        initialise(self)
        nn.init.zeros_(self.fc.bias)

    def features(self, images: Tensor) -> Tensor:
        """Return penultimate features (n, 64 * widen)."""
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        x = F.relu(self.bn1(x), inplace=True)
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def head(self, features_nD: Tensor) -> Tensor:
        """Return logits (n, C), computed by `fc`."""
        return cast(Tensor, self.fc(features_nD))
