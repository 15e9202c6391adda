"""The weights of a network among all tensors of a checkpoint: the prefix, or the prefixes, that give most of its names.

A checkpoint is flattened to dotted names, so that a nested mapping and a prefix are the same: `state_dict` around
`module.fc.weight` is the prefix `state_dict.module.`, and weights in two parts are those of `backbone.` and `head.`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manifests.errors import InputError, UsageError

AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "model_state_ema", "ema")
"""Keys of a moving average of the weights, which is taken before the weights themselves, as timm does."""
INFIX = "_orig_mod."
"""What torch.compile puts into names, at any depth."""
COUNTER = "num_batches_tracked"
"""Batch counters, which old files lack."""


class Candidate(NamedTuple):
    """Some prefixes, and what they find."""

    prefixes: tuple[str, ...]
    """Each ends with a dot, or is empty."""
    names: Mapping[str, str]
    """Wanted name -> name in the checkpoint."""


class Match(NamedTuple):
    """What a checkpoint holds for a network."""

    state: dict[str, Tensor]
    """By wanted name; also the tensors beside them that should belong to the network, which has no place for them."""
    told: list[str]
    """What was taken or ignored that the reader may not expect, a line each."""


def flattened(content: Any) -> dict[str, Tensor]:
    """Return the tensors in nested mappings and lists by dotted name, without the infix of torch.compile."""
    if isinstance(content, Tensor):
        return {"": content}
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(content, Mapping):
        pairs = content.items()
    elif isinstance(content, list | tuple):
        pairs = enumerate(content)
    return {
        f"{key}.{name}".removesuffix(".").replace(INFIX, ""): tensor
        for key, value in pairs
        for name, tensor in flattened(value).items()
    }


def best_match(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, origin: str, key: str | None = None
) -> Match:
    """Return the tensors for the names that a network wants, by most names of equal shape.

    key: part of the dotted path at which they are, `state.model` or `student`. Of sets that fit alike, a moving average
    is taken; raises InputError where they differ otherwise, and UsageError where nothing is at `key`.
    """
    found = candidates(tensors, wanted)
    if key is not None:
        found = [one for one in found if all(f".{key}." in f".{prefix}" for prefix in one.prefixes)]
        if not found:
            raise UsageError(f"{origin} has no weights of the network at {key}", hint=inventory(tensors, wanted))
    if not found:
        return Match(dict(tensors), [])
    counts = [(_fitting(one, tensors, wanted), len(_without_counters(one.names))) for one in found]
    best = [one for one, count in zip(found, counts, strict=True) if count == max(counts)]
    distinct: list[Candidate] = []
    for one in best:
        if not any(_equal(one, other, tensors) for other in distinct):
            distinct.append(one)
    averages = [one for one in distinct if any(part in AVERAGES for part in _path(one).split("."))]
    chosen = (averages or distinct)[0]
    is_whole = _without_counters(wanted) <= chosen.names.keys()
    told = []
    if len(averages or distinct) > 1 and is_whole:
        labels = [_path(one) or "the top" for one in averages or distinct]
        raise InputError(
            f"{origin} holds {len(labels)} sets of weights that fit the network and differ: {', '.join(labels)}",
            hint=f"say which the teacher is, as with --checkpoint-key {labels[0]}; for the weights of a student, save "
            "them alone",
        )
    others = [one for one in distinct if one is not chosen]
    if averages and others:
        average, raw = (_branch(_path(one), _path(other)) for one, other in ((chosen, others[0]), (others[0], chosen)))
        told.append(f"the moving average of the weights ({average}) is taken, not {raw}")
    state = {name: tensors[there] for name, there in chosen.names.items()}
    state |= _beside(chosen, tensors, wanted, is_whole=is_whole)
    if is_whole:
        known = {there for one in best for there in one.names.values()}
        inside = {prefix + name for prefix in chosen.prefixes for name in state}
        # A single number, such as the best accuracy, is a record of the run.
        ignored = [name for name in tensors if name not in known | inside and tensors[name].ndim > 0]
        if ignored:
            groups = list(dict.fromkeys(_branch(name, chosen.prefixes[0]) for name in ignored))
            more = ", ..." if len(groups) > 3 else ""
            count = "1 other entry" if len(ignored) == 1 else f"{len(ignored)} other entries"
            told.append(f"ignored {count}: {', '.join(groups[:3])}{more}")
    return Match(state, told)


def candidates(given: Iterable[str], wanted: Iterable[str]) -> list[Candidate]:
    """Return every prefix before wanted names, and the sets of neighbouring prefixes that share the names out."""
    names, by_prefix = set(wanted), defaultdict[str, dict[str, str]](dict)
    for name in given:
        starts = [0, *(at + 1 for at, letter in enumerate(name) if letter == ".")]
        for start in starts:
            if name[start:] in names:
                by_prefix[name[:start]][name[start:]] = name
    singles = [Candidate((prefix,), found) for prefix, found in by_prefix.items()]
    parts = defaultdict[str, list[Candidate]](list)
    for one in sorted(singles, key=lambda one: -len(one.names)):
        prefix = one.prefixes[0]
        for parent in {prefix, _parent(prefix)}:
            covered = {name for part in parts[parent] for name in part.names}
            if not one.names.keys() <= covered:
                parts[parent].append(one)
    for together in parts.values():
        union = {name: there for part in together for name, there in part.names.items()}
        # Parts of one network do not overlap; a teacher and a student beside it would.
        if len(together) > 1 and len(union) == sum(len(part.names) for part in together):
            singles.append(Candidate(tuple(part.prefixes[0] for part in together), union))
    return singles


def inventory(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], limit: int = 4) -> str:
    """Say on one line where a checkpoint holds names of the network, and how many have its shapes."""
    found = {one.prefixes[0]: one for one in candidates(tensors, wanted) if len(one.prefixes) == 1}
    outer = [prefix for prefix in found if not any(prefix.startswith(other) for other in found if other != prefix)]
    count = len(_without_counters(wanted))
    shown = [
        f"{_path(found[prefix]) or 'the top'} ({_fitting(found[prefix], tensors, wanted)} of {count} names fit)"
        for prefix in sorted(outer, key=lambda prefix: -_fitting(found[prefix], tensors, wanted))
    ]
    if not shown:
        groups: dict[str, int] = defaultdict(int)
        for name in tensors:
            groups[name.partition(".")[0]] += 1
        shown = [f"{group} ({count} tensor{'' if count == 1 else 's'})" for group, count in groups.items()]
    return f"it holds {', '.join(shown[:limit])}" + (", ..." if len(shown) > limit else "")


def _fitting(one: Candidate, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> int:
    return sum(tensors[one.names[name]].shape == wanted[name].shape for name in _without_counters(one.names))


def _without_counters(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.endswith(COUNTER)}


def _equal(one: Candidate, other: Candidate, tensors: Mapping[str, Tensor]) -> bool:
    names = _without_counters(one.names)
    pairs = [(tensors[one.names[name]], tensors[other.names[name]]) for name in names & other.names.keys()]
    return len(pairs) == len(names) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def _beside(
    chosen: Candidate, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, is_whole: bool
) -> dict[str, Tensor]:
    """Tensors under the prefixes that are not wanted; where all wanted are there, those inside its own modules only.

    More blocks in a module mean a deeper network; a module of another name may be left out.
    """
    used, modules = set(chosen.names.values()), {name.partition(".")[0] for name in wanted}
    return {
        name.removeprefix(prefix): tensor
        for prefix in chosen.prefixes
        for name, tensor in tensors.items()
        if name.startswith(prefix) and name not in used
        if not is_whole or name.removeprefix(prefix).partition(".")[0] in modules
    }


def _path(one: Candidate) -> str:
    return " + ".join(prefix.removesuffix(".") for prefix in one.prefixes)


def _branch(path: str, other: str) -> str:
    """The beginning of a dotted path, up to where it leaves another one."""
    parts, others = path.split("."), other.removesuffix(".").split(".")
    shared = next((i for i, part in enumerate(parts) if i >= len(others) or part != others[i]), len(parts))
    return ".".join(parts[: shared + 1])


def _parent(prefix: str) -> str:
    return prefix[: prefix.rfind(".", 0, -1) + 1]
