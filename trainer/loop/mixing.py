"""Which images of a batch are mixed, and by how much: a pure function of (seed, epoch, step), so resuming is exact.

mixup   x = lambda x_a + (1 - lambda) x_b,  lambda ~ Beta(alpha, alpha)       Zhang et al. 2018
cutmix  x = x_a with a box of x_b pasted in, at the same place; lambda = 1 - its area       Yun et al. 2019
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import UsageError
from trainer.config import TrainConfig
from trainer.data.order import Stream, stream_generator
from trainer.loop.dynamic import DYNAMIC
from trainer.losses import LOSSES

MIXES = ("mixup", "cutmix")


@dataclass(frozen=True, kw_only=True)
class Mix:
    """One batch mixed with a permutation of itself."""

    partner_n: NDArray[np.int64]
    """(n,) the image that each image is mixed with, by its place in the batch."""
    share: float
    """lambda: the share of the image itself; that of the partner is the rest of 1."""
    box: tuple[int, int, int, int] | None = None
    """cutmix: top, bottom, left and right edge in pixels of what the partner covers; None blends whole images."""


def mix_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mixing of a run: alphas (0 turns one off) and the share of mixed batches; {} without mixing.

    Raises UsageError, naming the flag, for values out of range.
    """
    values = {name: given[name] for name in MIXES if given.get(name)}
    for name, alpha in values.items():
        if not (math.isfinite(alpha) and alpha > 0):
            raise UsageError(
                f"--{name} must be above 0, or 0 to turn it off, not {alpha:g}", hint="for example 0.2 or 1"
            )
    probability = given.get("mix_prob")
    if probability is not None and not values:
        raise UsageError("--mix-prob has no effect without --mixup or --cutmix", hint="for example --cutmix 1")
    if probability is not None and not 0 < probability <= 1:
        raise UsageError(f"--mix-prob must be in (0, 1], not {probability:g}", hint="leave it out to mix every batch")
    return values | ({"mix_prob": 1.0 if probability is None else probability} if values else {})


def check_mixing(config: TrainConfig) -> None:
    """Raise UsageError for a configuration in which mixed images have no defined label or loss."""
    flag = next((f"--{name}" for name in MIXES if getattr(config, name) is not None), None)
    if flag is None:
        return
    loss, arm = LOSSES[config.loss], config.dynamic
    refused: dict[str, tuple[bool, str]] = {
        f"--loss {config.loss}": (
            loss.needs_label_logit or loss.standardise is not None,
            "it is defined for one true class" if loss.needs_label_logit else "it standardises the logits of one image",
        ),
        "--revise": (
            config.revise_eta is not None and config.policy == "online",
            "a live teacher labels the mixed image, which has no single true class",
        ),
        "--unsure-below": (
            config.unsure_below is not None and config.policy == "online",
            "a live teacher labels the mixed image, of which it is less sure",
        ),
        f"--dynamic {arm}": (
            arm is not None and DYNAMIC[arm].needs_losses,
            "it needs the loss of each image by itself",
        ),
        "--record-dynamics": (config.record_dynamics, "it records the answer to each image by itself"),
    }
    for other, (applies, why) in refused.items():
        if applies:
            raise UsageError(f"{flag} and {other} contradict each other: {why}", hint="leave one of them out")


def draw_mix(config: TrainConfig, *, epoch: int, step: int, rank: int, count: int, side_px: int) -> Mix | None:
    """Return how a rank mixes its `count` images of `side_px` pixels in a step of an epoch, both counted from 0.

    None: this batch is not mixed. Whether, by which of the two, lambda and the box are the same on all ranks; each rank
    permutes its own part of the batch.
    """
    shared = stream_generator(config.seed, Stream.MIX, epoch, step)
    # All are drawn always, so that no option shifts the draws of another.
    is_mixed, is_cut, *centre = shared.random(4)
    if config.mix_prob is None or is_mixed >= config.mix_prob:
        return None
    cuts = config.cutmix is not None and (config.mixup is None or is_cut < 0.5)
    alpha = config.cutmix if cuts else config.mixup
    assert alpha is not None
    share = float(shared.beta(alpha, alpha))
    partner_n = stream_generator(config.seed, Stream.MIX, epoch, step, rank).permutation(count).astype(np.int64)
    if not cuts:
        return Mix(partner_n=partner_n, share=share)
    box = cut_box(share, side_px, (centre[0], centre[1]))
    return Mix(partner_n=partner_n, share=1 - box_area(box) / side_px**2, box=box)


def cut_box(share: float, side_px: int, centre: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right edge of a square of area 1 - share, cut off at the edges of the image.

    centre: its row and column, in [0, 1). The paper's box; its area can be smaller than 1 - share.
    """
    cut_px = int(side_px * math.sqrt(1 - share))
    edges = []
    for place in centre:
        start = int(place * side_px) - cut_px // 2
        edges += [max(start, 0), min(start + cut_px, side_px)]
    top, bottom, left, right = edges
    return top, bottom, left, right


def box_area(box: tuple[int, int, int, int]) -> int:
    """Return the number of pixels in a box."""
    top, bottom, left, right = box
    return (bottom - top) * (right - left)


def described_mixing(config: TrainConfig) -> str:
    """Return how images are mixed, on one line."""
    parts = [f"{name} {getattr(config, name):g}" for name in MIXES if getattr(config, name) is not None]
    often = "every batch is mixed" if config.mix_prob == 1 else f"a batch is mixed with probability {config.mix_prob:g}"
    label = "the teacher labels the mixed images" if config.policy == "online" else "labels are mixed by the same share"
    return f"{' or '.join(parts)}: {often}; {label}"
