"""Named, published combinations of selector, quota, labels and loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainer.models.info import SMALL_PX


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published combination of selector, quota, labels and loss."""

    selector: str
    score: str | None
    """None for a selector that does not rank by a score."""
    quota: str
    labels: str
    source: str
    loss: Mapping[str, float] = field(default_factory=dict)
    """Settings that the trainer takes from the header unless flags override them."""
    large_image_loss: Mapping[str, float] = field(default_factory=dict)
    """Settings that differ if the teacher sees images larger than SMALL_PX."""
    eta: str | None = None
    revise_scope: str | None = None
    distill_fraction: str | None = None
    distill_by: str | None = None

    def loss_at(self, image_px: int) -> dict[str, float]:
        """Return `loss` for a teacher of this image size."""
        return {**self.loss, **(self.large_image_loss if image_px > SMALL_PX else {})}


FIXED = ("selector", "score", "quota", "labels")
"""Choices of a preset that flags cannot change; for all others the flags win."""

PRESETS = {
    "mdslr": Preset(
        selector="medium",
        score="loss",
        quota="published",
        labels="reshape",
        source="MDSLR, ICLR 2025 (OpenReview Rz4UkJziFe)",
        loss={"kd_weight": 0.9, "temperature": 4.0},
    ),
    "kd-pruning": Preset(
        selector="random",
        score=None,
        quota="equal",
        labels="raw",
        source="Ben-Baruch et al., ICML 2025 (arXiv 2403.07854), class-balanced random and KD; the weight and T"
        " (4, of images larger than 64 px 1) are ours",
        loss={"kd_weight": 0.9, "temperature": 4.0},
        large_image_loss={"temperature": 1.0},
    ),
    "lr-ds": Preset(
        selector="random",
        score=None,
        quota="proportional",
        labels="revise",
        source="Lan et al., IEEE TCDS 2025 (arXiv 2404.03693), label revision and data selection; nothing is dropped at"
        " keep 1; eta, the fraction, T and the form of the score are ours",
        loss={"ce_weight": 1.0, "kd_weight": 1.0, "temperature": 4.0},
        eta="0.8",
        revise_scope="all",
        distill_fraction="0.5",
        distill_by="influence",
    ),
}
