"""The time that a manifest took before training, from the times in its header, and the part that a run used."""

from collections.abc import Mapping
from typing import Any

from manifests.format.header import Header

_NAMES = {
    "score": "scoring_s",
    "merge": "scoring_s",
    "select": "selection_s",
    "cut": "selection_s",
    "label": "labelling_s",
}
DYNAMICS = "dynamics"
_MADE_BY = {"index": "index", "scores": "score", "selection": "select"}
_NEEDED = {"index": (), "scores": ("score",), "selection": ("score", "select")}


def label_times(header: Header) -> dict[str, float | None]:
    """Return the seconds of recording dynamics, scoring, selection and labelling, summed over all processes.

    None if the header does not say; 0 for a step that was not done, and for dynamics that chose no sample. A manifest
    that is merged from several teachers' manifests counts the scoring of each.
    """
    found: dict[str, list[float | None]] = {name: [] for name in _NAMES.values()}
    # Selections from before the header named the command were made from scores.
    blocks, commands, recorded = [(_MADE_BY[header.kind], header.run)], set(), list[float | None]()
    while blocks:
        unnamed, block = blocks.pop()
        command = block.get("command", unnamed)
        if isinstance(command, str) and command in _NAMES:
            found[_NAMES[command]].append(_number(block, "seconds"))
            commands.add(command)
        if command == "select" and DYNAMICS in _chosen_by(block):
            recorded.append(_number(block, "dynamics_seconds"))
        blocks += [("score", parent) for parent in _parents(block)]
    is_whole = set(_NEEDED[header.kind]) <= commands
    nothing = 0.0 if is_whole else None
    return {"dynamics_s": _sum(recorded, 0.0)} | {name: _sum(seconds, nothing) for name, seconds in found.items()}


def used_times(header: Header, *, stored_labels: bool) -> list[str]:
    """Return which of `label_times` a run used: all for stored labels, else those that chose its samples."""
    if stored_labels:
        return ["dynamics_s", *dict.fromkeys(_NAMES.values())]
    chosen = header.selection
    if chosen is None or chosen.keep_got == 1:
        return []
    blocks = [header.run]
    while blocks and blocks[0].get("command") in ("label", "cut"):
        blocks = _parents(blocks[0])
    # Selections from before this was recorded were chosen by a score of the teacher, or by none.
    by = _chosen_by(blocks[0]) if blocks and "chosen_by" in blocks[0] else {"teacher"} if chosen.score else set()
    used = [("dynamics_s", DYNAMICS in by), ("scoring_s", bool(by - {DYNAMICS})), ("selection_s", bool(by))]
    return [name for name, is_used in used if is_used]


def _chosen_by(block: Mapping[str, Any]) -> set[str]:
    """Return what a selection used: sets of scores, features, logits."""
    found = block.get("chosen_by")
    return {str(name) for name in found} if isinstance(found, list) else set()


def _parents(block: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the runs that a run is based on: one, or several for a merge; an empty one stands for an unknown time."""
    several = block.get("parent_runs")
    if isinstance(several, list):
        return [parent for parent in several if isinstance(parent, dict)]
    parent = block.get("parent_run")
    return [parent] if isinstance(parent, dict) and parent else []


def _number(block: Mapping[str, Any], name: str) -> float | None:
    seconds = block.get(name)
    # A run may hold any number; those accepted here have a finite sum.
    return float(seconds) if isinstance(seconds, (int, float)) and 0 <= seconds < 1e12 else None


def _sum(seconds: list[float | None], nothing: float | None) -> float | None:
    known = [value for value in seconds if value is not None]
    if len(known) < len(seconds):
        return None
    return sum(known) if known else nothing
