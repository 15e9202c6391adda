"""Targets as features of the teacher: its last layer, and the check that features and layer make its logits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from manifests.format.last_layer import FeatureLabels, LastLayer, feature_words
from manifests.format.top_k import SoftLabels
from prune_toolkit.scoring.logit_scores import Integers
from prune_toolkit.selection.labels import LabelTransform
from prune_toolkit.selection.targets import TargetPlan, targets_of
from trainer.teachers.output_names import map_and_groups
from trainer.teachers.teacher import Teacher

TOLERANCE = 1e-2
"""Largest difference of a target from the logit it stands for, besides the rounding of that logit to float16."""
_ROUNDING = 2.0**-11
_INSTEAD = "leave --codec out, or take int8"


def layer_of_teacher(teacher: Teacher) -> LastLayer:
    """Return the layer whose outputs are the logits of the data's classes.

    Raises UsageError if the logits are not those of one linear layer, or if features are not smaller than logits.
    """
    who, (output_map, groups) = f"teacher {teacher.info.spec}", map_and_groups(teacher.reading.outputs)
    if teacher.reading.probabilities is not None or groups is not None:
        why = "it returns probabilities" if groups is None else "a class is several of its outputs"
        raise UsageError(f"--codec features: {who} makes its logits by more than a linear layer: {why}", hint=_INSTEAD)
    layer, class_count = teacher.feature_layer, len(teacher.class_names)
    taken, full = 2 * feature_words(layer.width), 2 * class_count
    if taken >= full:
        raise UsageError(
            f"--codec features: the {layer.width} features of {who} take {taken:,} bytes per label, and its "
            f"{class_count} logits in float16 only {full:,}",
            hint=_INSTEAD,
        )
    weight_KD = layer.module.weight.detach().float().cpu().numpy()
    bias_K = np.zeros(len(weight_KD), np.float32)
    if layer.module.bias is not None:
        bias_K = layer.module.bias.detach().float().cpu().numpy()
    rows = slice(None) if output_map is None else np.array(output_map)
    return LastLayer(np.array(weight_KD[rows]), np.array(bias_K[rows]))


def feature_targets(
    exact: Sequence[SoftLabels],
    features_nVD: NDArray[np.float16],
    label_n: Integers,
    sample_id_n: NDArray[np.int64],
    transform: LabelTransform,
    plan: TargetPlan,
) -> list[SoftLabels]:
    """Return targets as features, from those of V views; `exact` are the same targets as logits.

    Raises InputError if a target is more than TOLERANCE away from its logits.
    """
    ones_n = np.ones(len(label_n), np.float32)
    views = [
        FeatureLabels(plan.class_count, features_nVD[:, view], ones_n, plan.layer)
        for view in range(features_nVD.shape[1])
    ]
    targets = targets_of(views, label_n, sample_id_n, transform, plan.policy, plan.top_k, plan.codec)
    for stored, target in zip(targets, exact, strict=True):
        want_nC = target.logits().astype(np.float64)
        gap_nC = np.abs(stored.logits() - want_nC)
        wrong_n = ~(gap_nC <= TOLERANCE + _ROUNDING * np.abs(want_nC)).all(axis=1)
        if wrong_n.any():
            row = int(np.argmax(gap_nC.max(axis=1)))
            raise InputError(
                f"--codec features: sample {sample_id_n[row]}: features and last layer give a logit that is "
                f"{gap_nC[row].max():.3g} away from the teacher's; at most {TOLERANCE:g} is accepted "
                f"({int(wrong_n.sum())} such samples in this part)",
                hint=f"--dtype float32, if the teacher ran in less; or {_INSTEAD}",
            )
    return targets
