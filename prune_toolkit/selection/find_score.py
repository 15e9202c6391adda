"""Find scores of a manifest by name: SET/NAME, or NAME in the teacher's set, else in the only set that has it."""

import numpy as np
from numpy.typing import NDArray

from manifests.base.progress import note
from manifests.errors import InputError, UsageError
from manifests.format.header import ScoreSpec
from manifests.manifest import Manifest
from prune_toolkit.scoring.score import SCORES
from prune_toolkit.selection.pool import ScoreColumn

DEFAULT_SET = "teacher"
_MAKE = {"features": "prune score --features", "dynamics": "prune score --dynamics RUN"}
"""The command that stores the scores of each further set."""


STANDS_IN = {"loss": "entropy", "margin": "top2_margin"}
"""The score that selectors rank unlabelled images by, in place of their own, which needs labels."""


def default_score(parent: Manifest, name: str | None) -> str | None:
    """Return the score to rank by if none was asked for: for unlabelled images one that needs no labels, and told."""
    if name not in STANDS_IN or not parent.header.data.is_unlabelled:
        return name
    note(f"ranked by {STANDS_IN[name]}: {name} needs labels, and the images have none")
    return STANDS_IN[name]


def find_score(parent: Manifest, name: str) -> ScoreSpec:
    """Find the header entry of a score; raises UsageError if there is none, or several, by that name."""
    set_name, slash, column = name.rpartition("/")
    named = [spec for spec in parent.header.scores if spec.name == column]
    found = [spec for spec in named if spec.set == (set_name or DEFAULT_SET)] or ([] if slash else named)
    if len(found) > 1:
        choices = ", ".join(f"{spec.set}/{spec.name}" for spec in found)
        raise UsageError(f"{parent.where} has several scores named {name!r}", hint=f"name one of: {choices}")
    if not found:
        needs_labels = column in SCORES and SCORES[column].needs_labels
        if needs_labels and parent.header.data.is_unlabelled:
            known = ", ".join(f"{spec.set}/{spec.name}" for spec in parent.header.scores)
            raise UsageError(
                f"the score {column} compares answers with labels, and the images of {parent.where} have none",
                hint=f"scores that need none: {known}",
            )
        known = ", ".join(f"{spec.set}/{spec.name}" for spec in parent.header.scores)
        make = _MAKE.get(SCORES[column].set) if column in SCORES else None
        known += f"; {column} comes from {make}" if make else ""
        raise UsageError(f"{parent.where} has no score {name!r}", hint=f"it has: {known}")
    return found[0]


def full_name(parent: Manifest, name: str) -> str:
    """Return the name of a score in a resolved configuration; raises the same errors as `find_score`.

    A bare name in the teacher's set stays as typed, for selections made before there were other sets.
    """
    spec = find_score(parent, name)
    return name if "/" in name or spec.set == DEFAULT_SET else f"{spec.set}/{spec.name}"


def score_column(parent: Manifest, name: str, ids: NDArray[np.int64]) -> ScoreColumn:
    """Return a score of the given samples; raises InputError if the table lacks some of them."""
    found = find_score(parent, name)
    table = parent.scores(found.set, ["sample_id", found.name])
    scored = table.column("sample_id").to_numpy()
    place = np.minimum(np.searchsorted(scored, ids), len(scored) - 1)
    if not np.array_equal(scored[place], ids):
        raise InputError(f"{parent.where}: scores/{found.set} does not cover the readable samples")
    values = table.column(found.name).to_numpy()
    return ScoreColumn(value_N=values if len(values) == len(ids) else values[place], harder=found.harder)
