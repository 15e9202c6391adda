"""Which output of a teacher stands for which class of a data set."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from manifests.errors import InputError

IMAGENET_OUTPUTS = 1000
SAME_ORDER = 0.95
"""Share of names that must agree place by place for equally many classes to count as the same order: the
ImageNet names in circulation differ in 2 of 1000 ('crane bird', 'maillot tank suit')."""


def output_map(
    teacher_class_names: Sequence[str] | None, data_class_names: Sequence[str], output_count: int
) -> list[int] | None:
    """Teacher output of every class of the data set, None when the order is the same.

    Without teacher names the counts must agree. Else by name: exactly, then regardless of case, of `_` for a
    blank and of synonyms after a comma. WordNet ids (n01440764), as ImageNet's folders are called, name the
    outputs of any 1000-class network that has no such names itself. InputError when a class has no output
    or an ambiguous one.
    """
    data = list(data_class_names)
    teacher = None if teacher_class_names is None else list(teacher_class_names)
    if teacher is not None and len(teacher) != output_count:
        raise InputError(f"the teacher has {output_count} outputs but {len(teacher)} class names")
    if output_count == IMAGENET_OUTPUTS and set(data).isdisjoint(teacher or ()) and _are_imagenet(data):
        teacher = list(imagenet_wnids())
    if teacher is None:
        if len(data) == output_count:
            return None
        raise InputError(
            f"teacher has {output_count} outputs, data set has {len(data)} classes",
            hint="take a teacher trained on these classes, or weights that carry their class names",
        )
    if teacher == data:
        return None
    try:
        found = _by_name(teacher, data)
    except InputError:
        if len(data) == output_count and _share_in_place(teacher, data) >= SAME_ORDER:
            return None
        raise
    return None if found == list(range(output_count)) else found


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """WordNet ids of the ILSVRC2012 classes in the order of the outputs, which is the order of the ids."""
    return tuple(Path(__file__).with_name("imagenet_wnids.txt").read_text(encoding="ascii").split())


def _are_imagenet(data: Sequence[str]) -> bool:
    return set(data) <= set(imagenet_wnids())


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
            hint=f"its outputs are called {_some(teacher)}; call the classes as it does, or take a teacher "
            "trained on them",
        )
    found: list[int] = []
    taken: dict[int, str] = {}
    for place, (name, outputs) in enumerate(zip(data, candidates, strict=True)):
        output = place if place in outputs else outputs[0]
        if output != place and len(outputs) > 1:
            raise InputError(f"class {name!r} could be any of the teacher's outputs {_some(outputs)}")
        if output in taken:
            raise InputError(
                f"classes {taken[output]!r} and {name!r} are both called like the teacher's output {output}, "
                f"{teacher[output]!r}"
            )
        taken[output] = name
        found.append(output)
    return found


def _share_in_place(teacher: Sequence[str], data: Sequence[str]) -> float:
    return sum(_fold(a) == _fold(b) for a, b in zip(teacher, data, strict=True)) / len(data)


def _fold(name: str) -> str:
    return name.partition(",")[0].replace("_", " ").casefold().strip()


def _some(names: Sequence[object], limit: int = 3) -> str:
    shown = ", ".join(str(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, ..."
