"""Cross-entropy with the labels alone: how a teacher is trained."""

from trainer.losses.loss import LOSSES, Loss

LOSSES.add("ce", Loss(formula="CE_i", source="labels alone; also how a teacher is trained"), module=__name__)
