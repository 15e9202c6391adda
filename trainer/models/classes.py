"""The map from the classes of a data set to the outputs of a teacher."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from manifests.errors import InputError

IMAGENET_OUTPUTS = 1000
SAME_ORDER = 0.95
"""Share of names that must agree, position by position, for two lists of equal length to count as the same order:
the ImageNet names in circulation differ in 2 of 1000 ('crane bird', 'maillot tank suit')."""


def output_map(
    teacher_class_names: Sequence[str] | None, data_class_names: Sequence[str], output_count: int
) -> list[int] | None:
    """Return the teacher output of every class of the data set, or None if the order is the same.

    Without teacher names, the counts must agree. With names, classes are matched exactly, then ignoring case,
    `_` for a space, and synonyms after a comma. If the classes are WordNet ids (n01440764), as the folders of
    ImageNet are called, they also match any 1000-class network without such names. Raises InputError if a
    class has no output or an ambiguous one.
    """
    data = list(data_class_names)
    teacher = None if teacher_class_names is None else list(teacher_class_names)
    if teacher is not None and len(teacher) != output_count:
        raise InputError(f"the teacher has {output_count} outputs but {len(teacher)} class names")
    if output_count == IMAGENET_OUTPUTS and set(data).isdisjoint(teacher or ()) and set(data) <= set(imagenet_wnids()):
        teacher = list(imagenet_wnids())
    if teacher is None:
        if len(data) == output_count:
            return None
        raise InputError(
            f"the teacher has {output_count} outputs, the data set has {len(data)} classes",
            hint="take a teacher trained on these classes, or weights that contain their class names",
        )
    if teacher == data:
        return None
    try:
        found = _by_name(teacher, data)
    except InputError:
        if len(data) == output_count:
            in_place = sum(_fold(there) == _fold(here) for there, here in zip(teacher, data, strict=True))
            if in_place / len(data) >= SAME_ORDER:
                return None
        raise
    return None if found == list(range(output_count)) else found


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """Return the WordNet ids of the ILSVRC2012 classes in the order of the outputs, which is the order of the ids."""
    return tuple(Path(__file__).with_name("imagenet_wnids.txt").read_text(encoding="ascii").split())


def _by_name(teacher: Sequence[str], data: Sequence[str]) -> list[int]:
    exact, folded = defaultdict(list), defaultdict(list)
    for output, name in enumerate(teacher):
        exact[name].append(output)
        folded[_fold(name)].append(output)
    candidates = [exact.get(name) or folded.get(_fold(name), []) for name in data]

    missing = [name for name, outputs in zip(data, candidates, strict=True) if not outputs]
    if missing:
        raise InputError(
            f"the teacher has no output for {len(missing)} of {len(data)} classes: {_some(missing)}",
            hint=f"its outputs are called {_some(teacher)}; give the classes these names, or take a teacher "
            "trained on the classes",
        )
    found: list[int] = []
    taken: dict[int, str] = {}
    for place, (name, outputs) in enumerate(zip(data, candidates, strict=True)):
        output = place if place in outputs else outputs[0]
        if output != place and len(outputs) > 1:
            raise InputError(f"class {name!r} could be any of the teacher's outputs {_some(outputs)}")
        if output in taken:
            raise InputError(
                f"classes {taken[output]!r} and {name!r} both match the teacher's output {output}, {teacher[output]!r}"
            )
        taken[output] = name
        found.append(output)
    return found


def _fold(name: str) -> str:
    return name.partition(",")[0].replace("_", " ").casefold().strip()


def _some(names: Sequence[object], limit: int = 3) -> str:
    shown = ", ".join(str(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, ..."
