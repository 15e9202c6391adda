"""The map from the classes of a data set to the outputs of a teacher."""

from collections import defaultdict
from collections.abc import Sequence

from manifests.errors import InputError
from trainer.teachers.alike_names import fold, some
from trainer.teachers.known_names import naming_hint, presumed_names

BY_FILE = "or name the outputs with --outputs FILE, one per line in their order"
SAME_ORDER = 0.95
"""Share of names that must agree, position by position, for two lists of equal length to count as the same order:
the ImageNet names in circulation differ in 2 of 1000 ('crane bird', 'maillot tank suit')."""


def output_map(
    teacher_class_names: Sequence[str] | None, data_class_names: Sequence[str], output_count: int
) -> list[int] | None:
    """Return the teacher output of every class of the data set, or None if the order is the same.

    Without teacher names, the counts must agree. With names, classes are matched exactly, then ignoring case,
    `_` for a space, and synonyms after a comma. If the classes are those of an ImageNet that has as many outputs,
    its names are taken, as `presumed_names` says. Raises InputError if a class has no output or an ambiguous one.
    """
    data = list(data_class_names)
    teacher = None if teacher_class_names is None else list(teacher_class_names)
    if teacher is not None and len(teacher) != output_count:
        raise InputError(f"the teacher has {output_count} outputs but {len(teacher)} class names")
    if (known := presumed_names(teacher, data, output_count)) is not None:
        # Of English names only the first synonyms count: those with and without further ones are alike.
        teacher = list(known.names) if known.are_ids else [fold(name) for name in known.names]
    if teacher is None:
        if len(data) == output_count:
            return None
        raise InputError(
            f"the teacher has {output_count} outputs, the data set has {len(data)} classes",
            hint=naming_hint(data, output_count),
        )
    if teacher == data:
        return None
    try:
        found = _by_name(teacher, data)
    except InputError:
        if len(data) == output_count:
            in_place = sum(fold(there) == fold(here) for there, here in zip(teacher, data, strict=True))
            if in_place / len(data) >= SAME_ORDER:
                return None
        raise
    return None if found == list(range(output_count)) else found


def _by_name(teacher: Sequence[str], data: Sequence[str]) -> list[int]:
    exact, folded = defaultdict(list), defaultdict(list)
    for output, name in enumerate(teacher):
        exact[name].append(output)
        folded[fold(name)].append(output)
    candidates = [exact.get(name) or folded.get(fold(name), []) for name in data]

    missing = [name for name, outputs in zip(data, candidates, strict=True) if not outputs]
    if missing:
        raise InputError(
            f"the teacher has no output for {len(missing)} of {len(data)} classes: {some(missing)}",
            hint=f"its outputs are called {some(teacher)}; give the classes these names, {BY_FILE}",
        )
    found: list[int] = []
    taken: dict[int, str] = {}
    for place, (name, outputs) in enumerate(zip(data, candidates, strict=True)):
        # Of as many names, equal ones are told apart by their place; of fewer, a place says nothing.
        is_in_place = place in outputs and len(teacher) == len(data)
        output = place if is_in_place else outputs[0]
        if not is_in_place and len(outputs) > 1:
            raise InputError(
                f"class {name!r} could be any of the teacher's outputs {some(outputs)}",
                hint=f"give each class a name of its own, {BY_FILE}",
            )
        if output in taken:
            raise InputError(
                f"classes {taken[output]!r} and {name!r} both match the teacher's output {output}, {teacher[output]!r}",
                hint=f"give each class a name of its own, {BY_FILE}",
            )
        taken[output] = name
        found.append(output)
    return found
