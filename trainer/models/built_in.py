"""The built-in networks by name, with facts about each; torch is imported only when one is built.

Sizes and names are those of the distillation literature for 32x32 images; see small_images.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from manifests.base.registry import Registry

if TYPE_CHECKING:
    from torch import nn

RESNET = "He et al. 2016, section 4.2; as in CRD (Tian et al. 2020)"
RESNET_X4 = "He et al. 2016 with four times the width; as in CRD (Tian et al. 2020)"
WRN = "Zagoruyko and Komodakis 2016; as in CRD (Tian et al. 2020)"
VGG = "Simonyan and Zisserman 2015 with batch norm and one linear layer; as in CRD (Tian et al. 2020)"
MOBILE = "Sandler et al. 2018, expansion 6, half the width, for 32 px; as in CRD (Tian et al. 2020)"


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One registered network: how to build it for a number of classes, and where it comes from."""

    name: str
    build: Callable[[int], "nn.Module"]
    """Number of classes -> module with fresh weights, (n, 3, H, W) images to (n, classes) logits."""
    image_px: int
    source: str


MODELS: Registry[ModelEntry] = Registry("model")


def _add(name: str, family: str, *shape: Any, source: str) -> None:
    """Add a class of small_images.py, called with `shape` and the number of classes."""

    def build(class_count: int) -> "nn.Module":
        from trainer.models import small_images

        return cast("nn.Module", getattr(small_images, family)(*shape, class_count))

    MODELS.add(name, ModelEntry(name=name, build=build, image_px=32, source=source))


for _depth in (8, 14, 20, 32, 44, 56, 110):
    _add(f"resnet{_depth}", "ResNet", _depth, (16, 16, 32, 64), source=RESNET)
for _depth in (8, 32):
    _add(f"resnet{_depth}x4", "ResNet", _depth, (32, 64, 128, 256), source=RESNET_X4)
for _depth, _widen in ((16, 1), (16, 2), (40, 1), (40, 2)):
    _add(f"wrn_{_depth}_{_widen}", "WideResNet", _depth, _widen, source=WRN)
for _depth in (8, 13):
    _add(f"vgg{_depth}", "VGG", _depth, source=VGG)
_add("mobilenetv2", "MobileNetV2", 0.5, source=MOBILE)
