"""Find how the logits of the data's classes are read from a teacher, from what is said of it and what it answers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from manifests.base.progress import note
from manifests.format.header import TeacherCard
from trainer.models.info import ModelInfo
from trainer.teachers.classes import output_map
from trainer.teachers.known_names import known_names, presumed_names
from trainer.teachers.output_names import ClassOutputs, class_outputs, fits
from trainer.teachers.outputs import OutputReading
from trainer.teachers.probabilities import refuse_others, refuse_probabilities, said_probabilities, telling
from trainer.teachers.teacher_spec import TeacherSpec


def reading_of(
    spec: TeacherSpec, info: ModelInfo, class_names: Sequence[str], answers_nK: NDArray[np.float32]
) -> OutputReading:
    """Return how outputs are read, given those for noise, and tell what is presumed.

    Raises InputError or MismatchError if outputs are probabilities and nobody said so, or the other way round, or if
    it is not certain which of them are the classes.
    """
    who = f"teacher {name_of(spec)}"
    scored = spec.scored
    kind = None
    if spec.probabilities:
        kind = said_probabilities(answers_nK, f"{who} returns")
    elif scored is not None and scored.probabilities is not None:
        kind = scored.probabilities
        refuse_others(answers_nK, kind, f"{who} returns")
    else:
        refuse_probabilities(answers_nK, f"{who} returns")
    if kind is not None:
        note(f"{who} returns probabilities: {telling(kind)}")
    return OutputReading(
        who=f"teacher {info.spec}",
        key=output_key_of(spec),
        probabilities=kind,
        outputs=_outputs(spec, info, class_names, answers_nK.shape[1]),
    )


def output_key_of(spec: TeacherSpec) -> str | None:
    """Return where the logits are in what a teacher returns, as said or as when it scored."""
    return spec.output_key or (None if spec.scored is None else spec.scored.output_key)


def name_of(spec: TeacherSpec) -> str:
    """Return what a teacher is called, in messages."""
    return spec.network if isinstance(spec.network, str) else type(spec.network).__name__


def _outputs(spec: TeacherSpec, info: ModelInfo, class_names: Sequence[str], output_count: int) -> ClassOutputs:
    if spec.outputs is not None:
        known = [names.names for names in known_names(output_count)] if spec.outputs.rows else []
        if info.class_names is not None:
            known = [info.class_names]
        return class_outputs(spec.outputs, class_names, output_count, known)
    if spec.scored is not None and fits(then := _then(spec.scored), len(class_names), output_count):
        return then
    found = output_map(info.class_names, class_names, output_count)
    if (known_by := presumed_names(info.class_names, class_names, output_count)) is not None:
        note(f"the {output_count:,} outputs of teacher {info.spec} are taken for {known_by.what}")
    return found


def _then(scored: TeacherCard) -> ClassOutputs:
    return scored.output_map if scored.output_groups is None else scored.output_groups
