"""What a module says in its attributes of the images it expects: timm's configuration, a preprocessing, or numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from manifests.errors import InputError, UsageError
from manifests.format.header import Preprocessing
from trainer.models.images_said import ALL_FLAGS, ImagesSaid
from trainer.models.info import default_preprocessing

WHOLE = ("preprocessing", "pretrained_cfg", "default_cfg")
SIZES = ("image_px", "image_size", "input_size")
PLAIN = ("mean", "std", "image_size", "input_size")
KEYS = (*SIZES, "resize_px", "crop_pct", "interpolation", "mean", "std")
FORM = "correct it, or say it with --mean, --std and --image-size, which win over attributes"


class Stated(NamedTuple):
    """A whole preprocessing: what a module says, with the defaults of its size where it says nothing."""

    attribute: str
    preprocessing: Preprocessing
    unknown: tuple[str, ...]
    """Names of the values that are defaults."""


def stated_by(network: nn.Module, spec: str, said: ImagesSaid, image_px: int) -> Stated | None:
    """Return what a module says of its images, None if nothing.

    said: what wins over attributes, which then may be malformed. image_px: the side for a module that does not say its
    own. Raises InputError, with the attribute and the reason, for what is malformed or may mean something else.
    """
    for name in WHOLE:
        if values := _whole(network, name, spec):
            break
    else:
        found = {key: getattr(network, key, None) for key in PLAIN}
        values = {key: value for key, value in found.items() if value is not None and not callable(value)}
        name = ", ".join(values)
    unsaid = {key: value for key, value in values.items() if key not in said.names}
    try:
        return _stated(name, values, spec, image_px, {*values})
    except InputError:
        if unsaid == values:
            raise
        return _stated(name, unsaid, spec, image_px, {*values, *said.names})


def _stated(name: str, values: Mapping[str, Any], spec: str, image_px: int, known: set[str]) -> Stated | None:
    if not values:
        return None
    where = f"the attribute{'s' if ', ' in name else ''} {name} of teacher {spec}"
    for key in ("mean", "std"):
        if name not in WHOLE and isinstance(values.get(key), Tensor):
            raise InputError(
                f"the attribute {key} of teacher {spec} is a tensor, with which it may normalise images itself",
                hint="say what it expects: --mean 0 --std 1 if it normalises images in [0, 1] itself, else the numbers",
            )
        other = "std" if key == "mean" else "mean"
        if key in values and other not in known:
            raise InputError(f"{where}: it says {key}, but not {other}", hint=FORM)
    try:
        shown = _preprocessing(values, image_px)
    except UsageError as error:
        raise InputError(f"{where}: {error.message}", hint=FORM) from None
    except ValueError as error:
        raise InputError(f"{where}: {error}", hint=FORM) from None
    ways = {"image_px": SIZES, "resize_px": ("resize_px", "crop_pct")}
    return Stated(name, shown, tuple(key for key in ALL_FLAGS if not values.keys() & {*ways.get(key, (key,))}))


def _whole(network: nn.Module, name: str, spec: str) -> dict[str, Any]:
    found = getattr(network, name, None)
    if isinstance(found, Preprocessing):
        return found.model_dump()
    if found is None or callable(found):
        return {}
    if not isinstance(found, Mapping):
        raise InputError(
            f"the attribute {name} of teacher {spec} is a {type(found).__name__}, not a pt.Preprocessing or a dict",
            hint=FORM,
        )
    unknown = [str(key) for key in found if key not in KEYS]
    if name == "preprocessing" and unknown:
        raise InputError(
            f"the attribute {name} of teacher {spec} has the unknown key {unknown[0]!r}",
            hint=f"known: {', '.join(KEYS)}",
        )
    return {key: found[key] for key in KEYS if found.get(key) is not None}


def _preprocessing(values: Mapping[str, Any], image_px: int) -> Preprocessing:
    """Raises UsageError or ValueError for malformed values."""
    sides = [_side(values[key], key) for key in SIZES if key in values]
    if len(set(sides)) > 1:
        raise ValueError(f"it says two sizes, {sides[0]} and {sides[1]}")
    side = sides[0] if sides else image_px
    resize = values.get("resize_px")
    if resize is None and (share := values.get("crop_pct")) is not None:
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(f"crop_pct {share!r} is not a share above 0 and up to 1")
        resize = math.floor(side / share)
    given = {name: values.get(name) for name in ("mean", "std", "interpolation")}
    read = ImagesSaid.of(**given, resize_size=None if resize is None else _side(resize, "resize_px"))
    return read.on(default_preprocessing(side))


def _side(value: Any, name: str) -> int:
    """The side of square images: a number of pixels, (height, width), or (channels, height, width)."""
    sizes = [value] if isinstance(value, int) and not isinstance(value, bool) else value
    is_list = isinstance(sizes, Sequence) and not isinstance(sizes, str)
    if not is_list or len(sizes) not in (1, 2, 3) or not all(isinstance(size, int) for size in sizes):
        raise ValueError(f"{name} {value!r} is not a side in pixels, (H, W) or (C, H, W)")
    if len(sizes) == 3 and sizes[0] not in (1, 3):
        raise ValueError(f"{name} {value!r} is not (C, H, W) with 1 or 3 channels")
    if len({*sizes[-2:]}) != 1 or sizes[-1] < 1:
        raise ValueError(f"{name} {value!r} is not square: only square images are shown")
    return int(sizes[-1])
