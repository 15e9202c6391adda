"""The logits in what a network returns: a tensor, or a part of a tuple, a list, a mapping or a dataclass."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

import torch

from manifests.errors import InputError

_LISTED = 8


def logits_in(returned: Any, who: str, key: str | None = None) -> torch.Tensor:
    """Return the logits (n, classes) in what a network returns: a tensor, or a tuple, list or mapping with one.

    A mapping or a dataclass, such as the ModelOutput of transformers, holds them as `logits`; in a tuple they are the
    only tensor of two dimensions. key: where they are, such as `logits`, `0` or `heads.0`. Raises InputError where that
    is not certain.
    """
    if key is not None:
        found = _at(returned, who, key)
        if not _are_logits(found):
            raise InputError(
                f"{who} returns {_shape(found)} as {key}, not logits (n, classes)", hint=_choose(returned, who)
            )
        return _flat(found)
    parts = _parts(returned)
    if parts is None:
        if not _are_logits(returned):
            raise InputError(
                f"{who} returns {_shape(returned)}, not logits (n, classes)", hint="wrap it in a callable that does"
            )
        return _flat(returned)
    named = parts.get("logits")
    fitting = [named] if _are_logits(named) else [value for value in parts.values() if _are_matrix(value)]
    if len(fitting) != 1:
        raise InputError(
            f"{who} returns {len(fitting) or 'no'} tensors of two dimensions: it is not clear which holds the logits",
            hint=_choose(returned, who),
        )
    return _flat(fitting[0])


def _parts(returned: Any) -> dict[str, Any] | None:
    """Return what is in a mapping, a dataclass, a tuple or a list, by key or position; None for anything else."""
    if isinstance(returned, Mapping):
        return {str(name): value for name, value in returned.items()}
    if is_dataclass(returned) and not isinstance(returned, type):
        return {field.name: getattr(returned, field.name) for field in fields(returned)}
    if isinstance(returned, tuple | list):
        names = getattr(returned, "_fields", range(len(returned)))
        return {str(name): value for name, value in zip(names, returned, strict=True)}
    return None


def _at(returned: Any, who: str, key: str) -> Any:
    found = returned
    for step in key.split("."):
        parts = _parts(found) or {}
        values = list(parts.values())
        if step in parts:
            found = parts[step]
        elif step.isdecimal() and int(step) < len(values):
            found = values[int(step)]
        else:
            raise InputError(f"{who} returns nothing as {key}", hint=_choose(returned, who))
    return found


def _choose(returned: Any, who: str) -> str:
    """Return which keys and positions can be chosen."""
    if _are_logits(returned):
        return "it returns the logits alone: leave out --output"
    there = list(_tensors(returned))
    if not there:
        return f"wrap {who} in a callable that returns the logits"
    listed = ", ".join(f"{key} {tuple(value.shape)}" for key, value in there[:_LISTED])
    more = f", ... ({len(there)} in all)" if len(there) > _LISTED else ""
    return f"choose with --output KEY; it returns {listed}{more}"


def _tensors(returned: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in (_parts(returned) or {}).items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        else:
            yield from _tensors(value, f"{prefix}{name}.")


def _shape(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


def _are_matrix(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 2


def _are_logits(value: Any) -> bool:
    """Also (n, C, 1, 1), as networks of convolutions alone return them."""
    return _are_matrix(value) or (isinstance(value, torch.Tensor) and value.ndim == 4 and value.shape[2:] == (1, 1))


def _flat(value: Any) -> torch.Tensor:
    return cast("torch.Tensor", value).flatten(1)
