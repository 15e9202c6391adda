"""What the labels of a manifest cost, from the times that the headers behind it left in its own; what a run used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manifests.header import Header

_NAMES = {"score": "scoring_s", "select": "selection_s", "label": "labelling_s"}
_MADE_BY = {"index": "index", "scores": "score", "selection": "select"}
_NEEDED = {"index": (), "scores": ("score",), "selection": ("score", "select")}


def label_times(header: Header) -> dict[str, float | None]:
    """Seconds of scoring, selection and labelling, summed over all their processes.

    None where the header does not say; 0 for what nobody did.
    """
    found: dict[str, list[float | None]] = {command: [] for command in _NAMES}
    # Selections of before there was a command were made from scores.
    unnamed, block = _MADE_BY[header.kind], header.run
    while block:
        command = block.get("command", unnamed)
        if command in found:
            found[command].append(_seconds(block))
        unnamed, parent = "score", block.get("parent_run")
        block = parent if isinstance(parent, dict) else {}
    is_whole = all(found[command] for command in _NEEDED[header.kind])
    return {name: _sum(found[command], 0.0 if is_whole else None) for command, name in _NAMES.items()}


def used_times(header: Header, *, stored_labels: bool) -> list[str]:
    """Which of `label_times` a run made use of: all for stored labels, else those that chose its samples by a score."""
    if stored_labels:
        return list(_NAMES.values())
    chosen = header.selection
    return ["scoring_s", "selection_s"] if chosen is not None and chosen.score and chosen.keep_got < 1 else []


def _seconds(block: Mapping[str, Any]) -> float | None:
    seconds = block.get("seconds")
    return float(seconds) if isinstance(seconds, (int, float)) else None


def _sum(seconds: list[float | None], nothing: float | None) -> float | None:
    known = [value for value in seconds if value is not None]
    if len(known) < len(seconds):
        return None
    return sum(known) if known else nothing
