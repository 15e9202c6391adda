"""What makes doubtful that a teacher is shown and read as it was made: one line, with the flags that mend it."""

import math

from prune_toolkit.scoring.logit_scores import is_near_chance
from trainer.teachers.claims import Claim

MUCH_LESS = 0.8
"""Share of a claimed top-1 below which other images hardly explain it: ImageNet-V2 costs networks a seventh."""
_ERRORS = 3
"""Standard errors of the top-1 of so many images, within which it may be chance."""
_MENDED_BY = "the images it expects (--mean, --std, --image-size) and the order of its outputs (--outputs FILE)"


def doubt_of(top1: float, samples: int, class_count: int, claim: Claim | None) -> str | None:
    """Return why a teacher that is right on a share `top1` of the images is doubted; None if it is not."""
    if is_near_chance(top1, class_count):
        return (
            f"the teacher's top-1 on these images is {100 * top1:.2f} %, about chance for {class_count} classes: check "
            f"{_MENDED_BY}"
        )
    if claim is None or not samples:
        return None
    margin = _ERRORS * math.sqrt(claim.top1 * (1 - claim.top1) / samples)
    if top1 >= min(MUCH_LESS * claim.top1, claim.top1 - margin):
        return None
    return (
        f"the teacher's top-1 on these images is {100 * top1:.2f} %, and its weights had {100 * claim.top1:.2f} % on "
        f"{claim.on}: check {_MENDED_BY}"
    )
