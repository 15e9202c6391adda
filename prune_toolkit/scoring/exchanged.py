"""Classes whose samples a teacher calls by each other's names: a sign that its outputs are in another order."""

import shlex

import numpy as np
from numpy.typing import NDArray

from manifests.sources.read_as import listed_names

MOST_CLASSES = 2048
"""Confusions of more classes are not counted: the table would not fit."""
_USUAL = 0.5
"""Share of a class's samples that one other class must get to be its usual answer."""
_LEAST_SAMPLES = 3
_SHOWN, _LISTED = 3, 20
_FAR_BETTER, _LEAST_GAIN, _ERRORS = 2, 0.1, 3
"""Far better: right twice as often, on a tenth of the samples more, and by three standard errors."""
_SAME = 0.8
"""Share of the classes that a weak teacher still shows to be in a known order."""


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


def fitting_order(count_CC: NDArray[np.int64]) -> tuple[NDArray[np.int64], float, float] | None:
    """Return the answer (C,) that fits each class best, if no class is called twice, and top-1 with it and without.

    None unless it is right far more often. A random half of the samples decides the order, the other half judges it:
    of many classes with few samples, some order always fits those that decide.
    """
    from scipy.optimize import linear_sum_assignment

    if len(count_CC) < 2:
        return None
    deciding_CC = np.random.default_rng(0).binomial(count_CC, 0.5)
    judging_CC = count_CC - deciding_CC
    class_C, answer_C = linear_sum_assignment(deciding_CC, maximize=True)
    right, fitting, total = np.trace(judging_CC), judging_CC[class_C, answer_C].sum(), judging_CC.sum()
    gained = fitting - right
    if fitting < _FAR_BETTER * right or gained < _LEAST_GAIN * total or gained <= _ERRORS * np.sqrt(fitting + right):
        return None
    return answer_C.astype(np.int64), fitting / total, right / total


def exchanged_warning(count_CC: NDArray[np.int64], class_names: list[str], *, in_order: bool = True) -> str | None:
    """Return one line that names the classes which look exchanged, and top-1 in the other order; None if none do.

    in_order: the outputs are taken in the order of the classes, so that the names of them all can be told.
    """
    answer_C, moved = np.arange(len(class_names)), exchanged_classes(count_CC)
    if len(moved) >= 2:
        right, total = int(np.trace(count_CC)), int(count_CC.sum())
        gained = sum(int(count_CC[label, answer] - count_CC[label, label]) for label, answer in moved)
        told, here, there = f"outputs of {len(moved)} classes look exchanged", right / total, (right + gained) / total
        answer_C[[label for label, _ in moved]] = [answer for _, answer in moved]
    elif (order := fitting_order(count_CC)) is not None:
        answer_C, there, here = order
        moved = [(label, int(answer)) for label, answer in enumerate(answer_C) if label != answer]
        told = "another order of the outputs fits far better"
    else:
        return None
    names = listed_names([f"{class_names[label]} is called {class_names[answer]}" for label, answer in moved], _SHOWN)
    return (
        f"{told}: {names}; in the other order top-1 is {100 * there:.2f} %, not {100 * here:.2f} %: "
        f"{_mended(answer_C, class_names, in_order=in_order)}"
    )


def _mended(answer_C: NDArray[np.int64], class_names: list[str], *, in_order: bool) -> str:
    """Return how to name the outputs, given the answer that stands for each class."""
    if in_order and sorted(answer_C.tolist()) == list(range(len(class_names))):
        names = [class_names[label] for label in np.argsort(answer_C)]
        if len(names) <= _LISTED:
            return f"printf '%s\\n' {shlex.join(names)} > outputs.txt, then --outputs outputs.txt"
        if all(name.isdecimal() for name in names):
            numeric = sorted(names, key=int)
            if sum(a == b for a, b in zip(names, numeric, strict=True)) >= _SAME * len(names):
                return "write the class names in numeric order into FILE, one per line, then --outputs FILE"
    return "name the outputs in the teacher's order, one per line, with --outputs FILE"
