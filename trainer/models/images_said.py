"""What is said of the images that a network expects, value by value, over what is known otherwise. Torch-free."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

from manifests.errors import UsageError
from manifests.format.header import Preprocessing
from trainer.models.channel_values import channel_values

Interpolation = Literal["bilinear", "bicubic"]
FLAGS = {"mean": "--mean", "std": "--std", "interpolation": "--interpolation", "resize_px": "--resize-size"}
ALL_FLAGS = {"image_px": "--image-size", **FLAGS}


@dataclass(frozen=True, kw_only=True)
class ImagesSaid:
    """Values of a preprocessing; None: not said."""

    mean: tuple[float, ...] | None = None
    """One number for all channels, or three."""
    std: tuple[float, ...] | None = None
    interpolation: Interpolation | None = None
    resize_px: int | None = None

    @classmethod
    def of(
        cls,
        *,
        mean: object | None = None,
        std: object | None = None,
        interpolation: str | None = None,
        resize_size: int | None = None,
    ) -> "ImagesSaid":
        """Return values as they are given in Python or by flags; UsageError for what no network can be shown."""
        if interpolation not in (None, "bilinear", "bicubic"):
            raise UsageError(f"interpolation {interpolation!r} is not known", hint="known: bilinear, bicubic")
        if resize_size is not None and resize_size < 1:
            raise UsageError(f"the size images are resized to must be at least 1, not {resize_size}")
        return cls(
            mean=None if mean is None else channel_values(mean, "mean"),
            std=None if std is None else channel_values(std, "std"),
            interpolation=cast("Interpolation | None", interpolation),
            resize_px=resize_size,
        )

    @property
    def names(self) -> list[str]:
        """The names of the values that are said."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    @property
    def flags(self) -> list[str]:
        """The flags that say them."""
        return [FLAGS[name] for name in self.names]

    def asdict(self) -> dict[str, Any]:
        """Return the values that are said, as JSON has them."""
        values = {name: getattr(self, name) for name in self.names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def on(self, known: Preprocessing) -> Preprocessing:
        """Return `known` with these values; UsageError for three numbers where the images are grey."""
        said: dict[str, Any] = {}
        for name in self.names:
            value = getattr(self, name)
            if not isinstance(value, tuple):
                said[name] = value
                continue
            channels = len(known.mean)
            if len(value) > channels:
                raise UsageError(
                    f"{FLAGS[name]} has {len(value)} numbers; the network takes grey images, of one channel",
                    hint=f"give one number, such as {FLAGS[name]} 0.5",
                )
            said[name] = list(value) * (channels // len(value))
        return known.model_copy(update=said)


NOTHING_SAID = ImagesSaid()


def values_text(values: Mapping[str, Any]) -> str:
    """Return values of a preprocessing in words, in a line."""
    return ", ".join(filter(None, (_TEXTS[name](values[name]) for name in _TEXTS if name in values)))


def numbers_text(values: Any) -> str:
    """Return the numbers of channels in brackets, one number if all are equal."""
    return f"({', '.join(f'{value:.4g}' for value in values)})" if len(set(values)) > 1 else f"{values[0]:.4g}"


_TEXTS: dict[str, Callable[[Any], str]] = {
    "image_px": lambda px: f"{px}x{px} px",
    "resize_px": lambda px: f"shorter side to {px} px",
    "interpolation": str,
    "mean": lambda values: f"mean {numbers_text(values)}",
    "std": lambda values: f"std {numbers_text(values)}",
}
