"""The built-in networks by name, with facts about each; torch is imported only when one is built.

Sizes and names are those of the distillation literature for 32x32 images; see cifar.py and plain.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from manifests.base.registry import Registry

if TYPE_CHECKING:
    from torch import nn

Build: TypeAlias = "Callable[[int], nn.Module]"

RESNET = "He et al. 2016, section 4.2; as in CRD (Tian et al. 2020)"
RESNET_X4 = "He et al. 2016 with four times the width; as in CRD (Tian et al. 2020)"
WRN = "Zagoruyko and Komodakis 2016; as in CRD (Tian et al. 2020)"
VGG = "Simonyan and Zisserman 2015 with batch norm and one linear layer; as in CRD (Tian et al. 2020)"
MOBILE = "Sandler et al. 2018, expansion 6, half the width, for 32 px; as in CRD (Tian et al. 2020)"


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One registered network: how to build it for a number of classes, and where it comes from."""

    name: str
    build: Build
    """Number of classes -> module with fresh weights, (n, 3, H, W) images to (n, classes) logits."""
    image_px: int
    source: str


MODELS: Registry[ModelEntry] = Registry("model")


def model(name: str, *, image_px: int, source: str) -> Callable[[Build], Build]:
    """Return a decorator that registers a builder under `name`, with its default image size and its source."""

    def register(build: Build) -> Build:
        MODELS.add(name, ModelEntry(name=name, build=build, image_px=image_px, source=source))
        return build

    return register


def _resnet(depth: int, widths: tuple[int, int, int, int]) -> Build:
    def build(class_count: int) -> "nn.Module":
        from trainer.models.small_images import ResNet

        return ResNet(depth, widths, class_count)

    return build


def _wide_resnet(depth: int, widen: int) -> Build:
    def build(class_count: int) -> "nn.Module":
        from trainer.models.small_images import WideResNet

        return WideResNet(depth, widen, class_count)

    return build


def _vgg(depth: int) -> Build:
    def build(class_count: int) -> "nn.Module":
        from trainer.models.plain import VGG

        return VGG(depth, class_count)

    return build


def _mobilenet_v2(class_count: int) -> "nn.Module":
    from trainer.models.plain import MobileNetV2

    return MobileNetV2(0.5, class_count)


for _depth in (8, 14, 20, 32, 44, 56, 110):
    model(f"resnet{_depth}", image_px=32, source=RESNET)(_resnet(_depth, (16, 16, 32, 64)))
for _depth in (8, 32):
    model(f"resnet{_depth}x4", image_px=32, source=RESNET_X4)(_resnet(_depth, (32, 64, 128, 256)))
for _depth, _widen in ((16, 1), (16, 2), (40, 1), (40, 2)):
    model(f"wrn_{_depth}_{_widen}", image_px=32, source=WRN)(_wide_resnet(_depth, _widen))
for _depth in (8, 13):
    model(f"vgg{_depth}", image_px=32, source=VGG)(_vgg(_depth))
model("mobilenetv2", image_px=32, source=MOBILE)(_mobilenet_v2)
