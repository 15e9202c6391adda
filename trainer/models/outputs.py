"""The logits in what a network returns, and what is none."""

from collections.abc import Mapping
from typing import Any, cast

import torch

from manifests.errors import InputError

PROBABILITY_TOLERANCE = 1e-3
FEW_OUTPUTS = 64
"""So many values from 0 to 1 are no logits; a few may be by chance."""


def logits_in(outputs: Any, spec: str) -> torch.Tensor:
    """Return the logits (n, classes) in what a network returns: a tensor, or a tuple, list or mapping with one.

    A mapping, such as the ModelOutput of transformers, holds them as `logits`; in a tuple they are the only tensor of
    two dimensions. Raises InputError where that is not certain.
    """
    found = outputs.get("logits") if isinstance(outputs, Mapping) else outputs
    if isinstance(outputs, Mapping | tuple | list) and not _are_logits(found):
        values = outputs.values() if isinstance(outputs, Mapping) else outputs
        fitting = [value for value in values if _are_logits(value)]
        found = fitting[0] if len(fitting) == 1 else None
        if len(fitting) > 1:
            raise InputError(
                f"teacher {spec} returns {len(fitting)} tensors (n, ...): it is not clear which holds the logits",
                hint="wrap it in a callable that returns the logits",
            )
    if not _are_logits(found):
        raise InputError(f"teacher {spec} does not return logits (n, classes)", hint="wrap it in a callable")
    return cast("torch.Tensor", found)


def refuse_probabilities(logits_nC: torch.Tensor, spec: str) -> None:
    """Raise InputError for probabilities: rows within [0, 1] that add up to 1, or sigmoids within [0, 1]."""
    # nan is not within, and is refused with its sample later.
    if logits_nC.numel() == 0 or not bool(((logits_nC >= 0) & (logits_nC <= 1)).all()):
        return
    adds_up = bool(((logits_nC.sum(dim=1) - 1).abs() < PROBABILITY_TOLERANCE).all())
    if adds_up or logits_nC.numel() >= FEW_OUTPUTS:
        raise InputError(
            f"teacher {spec} returns {'probabilities' if adds_up else 'values from 0 to 1'}, not logits",
            hint="return what goes into its softmax or sigmoid; of probabilities p, log(p) are logits",
        )


def _are_logits(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 2
