"""Classes whose samples a teacher calls by each other's names: a sign that its outputs are in another order."""

import numpy as np
from numpy.typing import NDArray

from manifests.sources.read_as import listed_names

MOST_CLASSES = 2048
"""Confusions of more classes are not counted: the table would not fit."""
_USUAL = 0.5
"""Share of a class's samples that one other class must get to be its usual answer."""
_LEAST_SAMPLES = 3
_SHOWN = 3


class Confusion:
    """Samples by class and answer (C, C), fed part by part."""

    def __init__(self, class_count: int) -> None:
        self.count_CC = np.zeros((class_count, class_count) if class_count <= MOST_CLASSES else (0, 0), np.int64)

    def add(self, logits_NC: NDArray[np.floating], label_N: NDArray[np.integer]) -> None:
        """Add samples: logits (N, C), labels (N,)."""
        if len(self.count_CC):
            np.add.at(self.count_CC, (label_N, np.argmax(logits_NC, axis=1)), 1)


def exchanged_classes(count_CC: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return (class, usual answer) of each class that is mostly called another one, which is mostly not itself either.

    A weak teacher sends many classes to few answers. So only answers count that no two classes share.
    """
    if not len(count_CC):
        return []
    answer_C, size_C = count_CC.argmax(axis=1), count_CC.sum(axis=1)
    usual_C = count_CC[np.arange(len(count_CC)), answer_C] > _USUAL * size_C
    is_moved_C = usual_C & (size_C >= _LEAST_SAMPLES) & (answer_C != np.arange(len(answer_C)))
    taken = np.bincount(answer_C[usual_C], minlength=len(answer_C))
    return [
        (int(label), int(answer_C[label]))
        for label in np.flatnonzero(is_moved_C)
        if taken[answer_C[label]] == 1 and is_moved_C[answer_C[label]]
    ]


def exchanged_warning(count_CC: NDArray[np.int64], class_names: list[str]) -> str | None:
    """Return one line that names the classes which look exchanged, and top-1 in the other order; None if none do."""
    moved = exchanged_classes(count_CC)
    if len(moved) < 2:
        return None
    right, total = int(np.trace(count_CC)), int(count_CC.sum())
    gained = sum(int(count_CC[label, answer] - count_CC[label, label]) for label, answer in moved)
    names = listed_names([f"{class_names[label]} is called {class_names[answer]}" for label, answer in moved], _SHOWN)
    here, there = 100 * right / total, 100 * (right + gained) / total
    return (
        f"outputs of {len(moved)} classes look exchanged: {names}; in the other order top-1 is {there:.2f} %, not "
        f"{here:.2f} %: give the class names in the order of the teacher's outputs with --classes"
    )
