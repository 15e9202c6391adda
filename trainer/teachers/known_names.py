"""Names of outputs that networks of ImageNet's classes have in common, by the number of outputs."""

import importlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from trainer.teachers.alike_names import fold

IMAGENET_OUTPUTS = 1000
LARGER_IMAGENETS = (11221, 11821, 21841, 21842, 21843)
"""Numbers of outputs whose names timm knows; networks of other data hardly have as many."""
WITH_BACKGROUND = 1001


class KnownNames(NamedTuple):
    """The names of all outputs in their order, and what they are called."""

    names: tuple[str, ...]
    what: str
    are_ids: bool


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """Return the WordNet ids of the ILSVRC2012 classes in the order of the outputs, which is the order of the ids."""
    return tuple(Path(__file__).with_name("imagenet_wnids.txt").read_text(encoding="ascii").split())


@cache
def known_names(output_count: int) -> tuple[KnownNames, ...]:
    """Return the lists of names that a network of so many outputs may have: WordNet ids, then English names."""
    if output_count == IMAGENET_OUTPUTS:
        meta: Any = importlib.import_module("torchvision.models._meta")
        return (
            KnownNames(imagenet_wnids(), "the WordNet ids of ImageNet-1K", are_ids=True),
            KnownNames(tuple(meta._IMAGENET_CATEGORIES), "the names of ImageNet-1K", are_ids=False),
        )
    if output_count in LARGER_IMAGENETS:
        try:
            data: Any = importlib.import_module("timm.data")
        except ImportError:
            return ()
        subset = data.infer_imagenet_subset({"num_classes": output_count})
        if subset is not None and (info := data.ImageNetInfo(subset)).num_classes() == output_count:
            called = subset.replace("imagenet", "ImageNet")
            return (
                KnownNames(tuple(info.label_names()), f"the WordNet ids of {called} in timm", are_ids=True),
                KnownNames(tuple(info.label_descriptions()), f"the names of {called} in timm", are_ids=False),
            )
    return ()


def presumed_names(
    teacher_names: Sequence[str] | None, class_names: Sequence[str], output_count: int
) -> KnownNames | None:
    """Return the names that outputs must have, if the data's classes are among them; None if that is not certain.

    WordNet ids say what they are, and go before other names of the weights. English names are presumed only of nameless
    outputs that are more than the classes: as many may be in the order of the classes.
    """
    for known in known_names(output_count):
        if known.are_ids:
            is_certain = set(class_names) <= set(known.names) and set(class_names).isdisjoint(teacher_names or ())
        else:
            is_known = {fold(name) for name in class_names} <= {fold(name) for name in known.names}
            is_certain = is_known and teacher_names is None and len(class_names) < output_count
        if is_certain:
            return known
    return None


def naming_hint(class_names: Sequence[str], output_count: int) -> str:
    """Return how to say which outputs are the classes, where that is not certain."""
    if output_count == WITH_BACKGROUND and set(class_names) <= set(imagenet_wnids()):
        return (
            'if the first is the background: (echo background; python -c "from trainer.teachers.known_names import '
            "imagenet_wnids as w; print(*w(), sep='\\n')\") > outputs.txt, then --outputs outputs.txt"
        )
    background = " (of 1,001, the first is often the background)" if output_count == WITH_BACKGROUND else ""
    if output_count in LARGER_IMAGENETS and not known_names(output_count):
        background = "; or install timm, which knows the names of so many outputs of ImageNet"
    return (
        "name the outputs in their order with --outputs FILE, one name per line, or a .csv of rows OUTPUT,CLASS"
        f"{background}; or take a teacher trained on these classes"
    )
