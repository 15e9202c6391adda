"""The logits of the data's classes in what a network returns."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch

from manifests.format.header import Probabilities
from trainer.models.returned import logits_in
from trainer.teachers.output_names import ClassOutputs, map_and_groups
from trainer.teachers.probabilities import CEILING, FLOOR, refuse_others, refuse_probabilities

ROWS_THAT_TELL = 8
"""So many rows that add up to 1 do not by chance."""


@dataclass(frozen=True, kw_only=True)
class OutputReading:
    """How the logits of the data's classes are found in what a network returns."""

    who: str
    """The teacher, in messages."""
    key: str | None = None
    """Key or position of the logits, or of the probabilities; None: where `logits_in` finds them."""
    probabilities: Probabilities | None = None
    """What the network returns in place of logits."""
    outputs: ClassOutputs = None

    def found(self, returned: Any) -> torch.Tensor:
        """Return the values (n, K) of all outputs, as the network returns them, in float32."""
        return logits_in(returned, self.who, self.key).float()

    def __call__(self, found_nK: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, C) of the classes."""
        return self._of_classes(self._logits(found_nK))

    def check(self, found_nK: torch.Tensor) -> None:
        """Raise InputError for probabilities where logits are expected, and the other way round."""
        if self.probabilities is not None:
            refuse_others(found_nK.cpu().numpy(), self.probabilities, f"{self.who} returns")
        elif len(found_nK) >= ROWS_THAT_TELL:
            refuse_probabilities(found_nK.cpu().numpy(), f"{self.who} returns")

    def card(self) -> dict[str, Any]:
        """Return what is said of it in a header's teacher: of an option that was not needed, nothing."""
        output_map, groups = map_and_groups(self.outputs)
        further = {"output_groups": groups, "output_key": self.key, "probabilities": self.probabilities}
        return {"output_map": output_map, **{name: value for name, value in further.items() if value is not None}}

    def ends_as(self, layer_nK: torch.Tensor) -> torch.Tensor:
        """Return what the network would return if a layer computed its logits."""
        if self.probabilities is None:
            return layer_nK
        return layer_nK.softmax(dim=1) if self.probabilities == "softmax" else layer_nK.sigmoid()

    def _logits(self, found_nK: torch.Tensor) -> torch.Tensor:
        if self.probabilities is None:
            return found_nK
        if self.probabilities == "softmax":
            return found_nK.clamp(min=FLOOR).log()
        return found_nK.clamp(FLOOR, CEILING).logit()

    def _of_classes(self, logits_nK: torch.Tensor) -> torch.Tensor:
        if self.outputs is None:
            return logits_nK
        if self._padded_CM is None:
            return logits_nK[:, cast("list[int]", self.outputs)]
        padded = torch.nn.functional.pad(logits_nK, (0, 1), value=-torch.inf)
        return padded[:, self._padded_CM.to(padded.device)].logsumexp(dim=2)

    @cached_property
    def _padded_CM(self) -> torch.Tensor | None:
        """Outputs of each class, filled up with -1: the column behind the last; None for one output per class."""
        _, groups = map_and_groups(self.outputs)
        if groups is None:
            return None
        widest = max(map(len, groups))
        return torch.tensor([[*group, *[-1] * (widest - len(group))] for group in groups])
