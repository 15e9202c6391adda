"""Scored images that the teacher never saw: what a selection is judged on before any student is trained."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.progress import note
from manifests.errors import MismatchError, UsageError
from manifests.manifest import Manifest
from manifests.tables.rows import hash_matrix
from prune_toolkit.selection.search_journal import Journal

SCORE_THEM = (
    "score such images: prune score HELD --teacher TEACHER --features -o held-scores, then --held-out held-scores"
)
_SATURATED = 0.99


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """M labelled images that are in no training set: not the student's, not the teacher's."""

    id: str
    """Id of their manifest."""
    features_MD: NDArray[np.float16]
    logits_MC: NDArray[np.float16]
    """Of the same teacher as those of the pool."""
    label_M: NDArray[np.int64]
    journal: Journal | None = None
    """Where a search keeps what it tried; None: nowhere."""

    @property
    def hit_M(self) -> NDArray[np.bool_]:
        """True where the teacher is right."""
        return np.asarray(self.logits_MC.argmax(axis=1) == self.label_M)

    def recall_C(self, class_count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return how many images of each class the teacher knows, and how many there are, both (C,)."""
        size_C = np.bincount(self.label_M, minlength=class_count)
        return np.bincount(self.label_M[self.hit_M], minlength=class_count), size_C


def read_held_out(held: Manifest, parent: Manifest, *, features: bool) -> HeldOut:
    """Read the held-out images of `parent`.

    Raises UsageError if they have no labels, no logits or (where needed) no features, or are among the images of
    `parent`; MismatchError if another teacher scored them or their classes differ.
    """
    _check_alike(held, parent, features=features)
    samples, images = held.samples(["label", "content_hash", "problem"]), parent.samples(["content_hash"])
    seen = set(map(bytes, hash_matrix(images.column("content_hash"))))
    again = sum(bytes(one) in seen for one in hash_matrix(samples.column("content_hash")))
    if again:
        raise UsageError(
            f"--held-out {held.where}: {again:,} of its {len(samples):,} images are among those of {parent.where}",
            hint="a selection is judged on images that neither the teacher nor a student learned from; " + SCORE_THEM,
        )
    label_N = samples.column("label").to_numpy().astype(np.int64)
    ids, logits_MC = _joined(held.logits())
    features_MD = _joined(held.features())[1] if features else np.empty((len(ids), 0), np.float16)
    return HeldOut(id=held.id, features_MD=features_MD, logits_MC=logits_MC, label_M=label_N[ids])


def _check_alike(held: Manifest, parent: Manifest, *, features: bool) -> None:
    if held.kind != "scores":
        raise UsageError(f"--held-out {held.where} is of kind {held.kind}, not scored images", hint=SCORE_THEM)
    ours, theirs = parent.header, held.header
    if theirs.data.is_unlabelled:
        raise UsageError(f"--held-out {held.where}: its images have no labels", hint=SCORE_THEM)
    for what, needed in (("logits", True), ("features", features)):
        if needed and not held.has(f"{what}/view-000"):
            raise UsageError(f"--held-out {held.where} has no {what}", hint=SCORE_THEM)
    if held.class_names != parent.class_names:
        raise MismatchError(
            f"--held-out {held.where} has other classes than {parent.where}",
            hint="give both the same class names, in the same order: --classes FILE",
        )
    if ours.teacher is None or theirs.teacher is None or ours.teacher.weights_sha256 != theirs.teacher.weights_sha256:
        raise MismatchError(f"another teacher scored {held.where} than {parent.where}", hint=SCORE_THEM)
    if ours.teacher.preprocessing != theirs.teacher.preprocessing or (features and ours.features != theirs.features):
        raise MismatchError(
            f"the teacher saw the images of {held.where} in another way than those of {parent.where}",
            hint="score both with the same --image-size, --mean, --std and teacher",
        )


def check_unseen(held: HeldOut, logits_NC: NDArray[np.floating[Any]], label_N: NDArray[np.integer[Any]]) -> None:
    """Refuse held-out images that the teacher seems to have memorised, warn where it knows them as well as the others.

    From features of images that a teacher memorised, a student learns the same whatever subset it is given, so that no
    subset can be told from another.
    """
    pool_top1, held_top1 = float((logits_NC.argmax(axis=1) == label_N).mean()), float(held.hit_M.mean())
    if held_top1 < pool_top1:
        return
    told = (
        f"the teacher is right on {100 * held_top1:.2f} % of the held-out images, {100 * pool_top1:.2f} % of the others"
    )
    if held_top1 >= _SATURATED:
        raise UsageError(
            f"{told}: it was trained on both, or they are too easy, and every selection looks alike",
            hint="hold images out before the teacher is trained; or give --mode and --sharpness",
        )
    note(f"warning: {told}: was it trained on both? Then the search cannot tell selections apart")


def _joined(stream: Iterable[tuple[NDArray[np.int64], NDArray[Any]]]) -> tuple[Any, Any]:
    """Return all ids (M,) and vectors (M, W) of a stream."""
    ids, vectors = zip(*stream, strict=True)
    return np.concatenate(ids), np.concatenate(vectors)
