"""What somebody says of a teacher's outputs: their names, or a table from outputs to classes. Torch-free.

An output whose name is no class is left out. Several outputs may be one class, such as the 118 dogs of ImageNet: its
logit is their logsumexp, so its probability is that of their union.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.base.files import refuse_special
from manifests.base.progress import note
from manifests.copies.class_map import read_pairs
from manifests.errors import InputError, MismatchError
from manifests.sources.names import listed_in
from trainer.teachers.alike_names import fold, some

ClassOutputs = list[int] | list[list[int]] | None
"""The output of each class, or the outputs of each; None if outputs are the classes in their order."""
ROW = "OUTPUT,CLASS: its name or its number from 0, and the class that it is, such as 151,dog"


@dataclass(frozen=True)
class SaidOutputs:
    """The names of a teacher's outputs, in their order, or rows of (name or number of an output, class)."""

    where: str
    names: tuple[str, ...] = ()
    rows: tuple[tuple[str, str], ...] = ()


def read_outputs(path: Path) -> SaidOutputs:
    """Read a JSON list or a text file of one name per line, as class names are read, or a .csv file of two columns.

    A name may occur several times. Raises InputError for a file that holds neither.
    """
    refuse_special(path)
    if path.suffix.lower() == ".csv" and _has_two_columns(path):
        return SaidOutputs(str(path), rows=tuple(read_pairs(path, ROW)))
    return named_outputs(listed_in(path), str(path))


def named_outputs(names: Sequence[object], where: str) -> SaidOutputs:
    """Return names of outputs; raises InputError if there are none, or one is empty or not text."""
    for output, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise InputError(
                f"{where}: the name of output {output} is {name!r}, expected text",
                hint="an output that is not a class needs a name, too: one that no class has, such as -",
            )
    if not names:
        raise InputError(f"{where} names no outputs")
    return SaidOutputs(where, names=tuple(map(str, names)))


def class_outputs(
    said: SaidOutputs, class_names: Sequence[str], output_count: int, known: Sequence[Sequence[str]] = ()
) -> ClassOutputs:
    """Return the outputs of each class, and tell of outputs that are left out or are a class together.

    Names match exactly, else ignoring case, `_` for a space and synonyms after a comma. known: lists of names that the
    outputs have, by which the rows of a table may name them. Raises MismatchError if the names are not as many as the
    outputs, or a class has none; InputError if it is not clear which are meant.
    """
    outputs_of = _by_row(said, class_names, output_count, known) if said.rows else _by_name(said, class_names)
    if said.names and len(said.names) != output_count:
        raise MismatchError(
            f"the teacher has {output_count:,} outputs, {said.where} names {len(said.names):,}",
            hint="name every output of the teacher in its order, one per line; those of no class any other name",
        )
    missing = [name for name in class_names if name not in outputs_of]
    if missing:
        raise MismatchError(
            f"{said.where} names no output for {len(missing):,} of {len(class_names):,} classes: {some(missing)}",
            hint=f"its names are {some(list(dict.fromkeys(said.names or [name for _, name in said.rows])))}; the "
            f"classes are {some(class_names)}",
        )
    groups = [outputs_of[name] for name in class_names]
    _tell(said, class_names, groups, output_count)
    if max(map(len, groups)) > 1:
        return groups
    found = [group[0] for group in groups]
    return None if found == list(range(output_count)) else found


def as_class_logits(logits_nK: NDArray[np.floating], outputs: ClassOutputs) -> NDArray[np.floating]:
    """Return the logits (n, C) of the classes, given those of the outputs (n, K)."""
    if outputs is None:
        return logits_nK
    from scipy.special import logsumexp

    columns = [
        logits_nK[:, found] if isinstance(found, int) else logsumexp(logits_nK[:, found], axis=1) for found in outputs
    ]
    return np.stack(columns, axis=1).astype(logits_nK.dtype)


def map_and_groups(outputs: ClassOutputs) -> tuple[list[int] | None, list[list[int]] | None]:
    """Return `output_map` and `output_groups` of a header."""
    one = [found for found in outputs or () if isinstance(found, int)]
    several = [found for found in outputs or () if not isinstance(found, int)]
    return one or None, several or None


def fits(outputs: ClassOutputs, class_count: int, output_count: int) -> bool:
    """Return whether outputs of so many classes are among so many outputs."""
    if outputs is None:
        return class_count == output_count
    numbers = [number for found in outputs for number in ([found] if isinstance(found, int) else found)]
    is_empty = any(not isinstance(found, int) and not found for found in outputs)
    return len(outputs) == class_count and not is_empty and all(0 <= number < output_count for number in numbers)


def _has_two_columns(path: Path) -> bool:
    try:
        return "," in path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return False


def _by_name(said: SaidOutputs, class_names: Sequence[str]) -> dict[str, list[int]]:
    exact, folded = _places(said.names)
    outputs_of: dict[str, list[int]] = {}
    for name in class_names:
        found = exact.get(name) or folded.get(fold(name), [])
        if len(spellings := {said.names[output] for output in found}) > 1:
            raise InputError(
                f"{said.where}: class {name!r} could be any of {some(sorted(spellings))}",
                hint="write the name of the class itself at each of its outputs",
            )
        if found:
            outputs_of[name] = found
    _refuse_shared(said, outputs_of)
    return outputs_of


def _by_row(
    said: SaidOutputs, class_names: Sequence[str], output_count: int, known: Sequence[Sequence[str]]
) -> dict[str, list[int]]:
    exact, folded = _places(class_names)
    places = [_places(names) for names in known]
    found_of = defaultdict[str, set[int]](set)
    for number, (cell, name) in enumerate(said.rows):
        labels = exact.get(name) or folded.get(fold(name), [])
        outputs = _called(cell, places, output_count)
        if number == 0 and not labels and not outputs:
            continue  # The names of the columns.
        if len(labels) > 1:
            raise InputError(f"{said.where}: {name!r} could be any of {some([class_names[row] for row in labels])}")
        if len(outputs) != 1:
            what = f"could be any of the outputs {some(sorted(outputs))}" if outputs else "is not an output"
            raise InputError(
                f"{said.where}: {cell!r} {what}; the teacher has {output_count:,}",
                hint=f"a row is {ROW}" + ("" if known else "; the names of its outputs are not known, so give numbers"),
            )
        if labels:
            found_of[class_names[labels[0]]] |= outputs
    outputs_of = {name: sorted(outputs) for name, outputs in found_of.items()}
    _refuse_shared(said, outputs_of)
    return outputs_of


def _called(
    cell: str, places: Sequence[tuple[dict[str, list[int]], dict[str, list[int]]]], output_count: int
) -> set[int]:
    """Return the outputs that a cell may mean: by their exact names, else by folded ones, and by number."""
    exact = {output for names, _ in places for output in names.get(cell, [])}
    by_name = exact or {output for _, names in places for output in names.get(fold(cell), [])}
    return by_name | ({int(cell)} if cell.isdecimal() and int(cell) < output_count else set())


def _places(names: Sequence[str]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Return the places of each name, and of each folded name."""
    exact, folded = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for place, name in enumerate(names):
        exact[name].append(place)
        folded[fold(name)].append(place)
    return exact, folded


def _refuse_shared(said: SaidOutputs, outputs_of: dict[str, list[int]]) -> None:
    class_of: dict[int, str] = {}
    for name, outputs in outputs_of.items():
        for output in outputs:
            if output in class_of:
                raise InputError(
                    f"{said.where}: output {output} would be class {class_of[output]!r} and class {name!r}",
                    hint="an output is one class: name it as that class",
                )
            class_of[output] = name


def _tell(said: SaidOutputs, class_names: Sequence[str], groups: Sequence[list[int]], output_count: int) -> None:
    """Tell of outputs that are left out, which may be misspelled, and of those that are one class together."""
    told = []
    if several := [(len(group), name) for group, name in zip(groups, class_names, strict=True) if len(group) > 1]:
        told.append("the logsumexp of " + some([f"{count:,} outputs is {name}" for count, name in several]))
    if left_out := output_count - sum(map(len, groups)):
        of_class = {output for group in groups for output in group}
        names = Counter(name for output, name in enumerate(said.names) if output not in of_class)
        listed = f": {some(list(names))}" if names else ""
        told.append(f"{left_out:,} of {output_count:,} outputs are no class{listed}")
    if told:
        note(f"{said.where}: {'; '.join(told)}")
