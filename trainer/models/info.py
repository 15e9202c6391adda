"""Facts about a built network besides its weights: its spec, its classes, and the images it expects."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from manifests.errors import UsageError
from manifests.format.header import Preprocessing
from manifests.format.header_checks import preprocessing_problem

if TYPE_CHECKING:
    from torch import nn

SMALL_PX = 64
"""Up to this size images are used whole: no margin is cut off, and CIFAR statistics apply."""
CIFAR_MEAN, CIFAR_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Weights = Literal["loaded", "fresh head", "random"]
"""All weights were read, all but the classifier, or none."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Facts that are stored with a network."""

    spec: str
    """Spec from which the architecture is rebuilt: a zoo's DEFAULT weights are spelled out, paths are left out."""
    class_names: tuple[str, ...] | None
    """Names of the outputs in their order, None if the weights do not say."""
    preprocessing: Preprocessing
    weights: Weights = "loaded"
    stated: str | None = None
    """Attribute of the module that says how it expects its images; None: its weights do, or nothing does."""
    unknown: tuple[str, ...] = ()
    """Values of the preprocessing that nothing says: the defaults of the size are assumed."""


class Loaded(NamedTuple):
    """A network with the weights its spec names, the spec spelled out, and the names of its outputs."""

    network: "nn.Module"
    spec: str
    class_names: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """Instructions to build the network of a spec, before any weights exist."""

    spec: str
    make: Callable[[int], "nn.Module"]
    """Number of classes -> module with fresh weights."""
    load: Callable[[], Loaded] | None = None
    """Builds the network with its own weights and head; None if the spec names no weights."""
    native: Callable[["nn.Module"], Preprocessing | None] = lambda _: None
    """Preprocessing that belongs to the weights of the built module; None if nothing is known."""
    image_px: int = 224
    """Image size if neither the weights nor the caller give one."""
    class_names: tuple[str, ...] | None = None
    """Output names of the weights in the spec."""
    foreign: bool = False
    """Made by the user's own code, which may load weights itself and whose output is checked."""


def default_preprocessing(image_px: int) -> Preprocessing:
    """Return the preprocessing for fresh networks.

    Up to 64 px the whole image is used, with CIFAR-100 statistics. Larger images are cropped after their
    shorter side is resized to 256/224 image_px, with ImageNet statistics.
    """
    if image_px <= SMALL_PX:
        return Preprocessing(image_px=image_px, resize_px=image_px, mean=list(CIFAR_MEAN), std=list(CIFAR_STD))
    return Preprocessing(
        image_px=image_px,
        resize_px=round(image_px * 256 / 224),
        mean=list(IMAGENET_MEAN),
        std=list(IMAGENET_STD),
    )


def usual_batch_size(image_px: int) -> int:
    """Return the images per forward pass where nobody asked for a number: fewer if their side is above 512 px.

    The side may come from a manifest that somebody sent: 256 images of 4096 px would take 51 GB.
    """
    fitting = 256 * 512**2 // image_px**2
    return min(256, 1 << max(fitting, 1).bit_length() - 1)


def check_preprocessing(preprocessing: Preprocessing) -> None:
    """UsageError for what somebody typed and no network can be shown."""
    if unknown := list(preprocessing.model_extra or {}):
        raise UsageError(
            f"Preprocessing has no field {unknown[0]!r}", hint=f"its fields: {', '.join(Preprocessing.model_fields)}"
        )
    if problem := preprocessing_problem(preprocessing):
        raise UsageError(f"Preprocessing: {problem}")


def in_colour(preprocessing: Preprocessing) -> Preprocessing:
    """Return the same preprocessing for colour images; that of a grey teacher gets its mean and std three times."""
    times = 3 // len(preprocessing.mean)
    return preprocessing.model_copy(update={"mean": preprocessing.mean * times, "std": preprocessing.std * times})


def rescaled(preprocessing: Preprocessing, image_px: int) -> Preprocessing:
    """Return the same preprocessing at another image size, with the same share of margin cut off."""
    if image_px == preprocessing.image_px:
        return preprocessing
    margin = 1.0 if image_px <= SMALL_PX else preprocessing.resize_px / preprocessing.image_px
    return preprocessing.model_copy(update={"image_px": image_px, "resize_px": round(image_px * margin)})
