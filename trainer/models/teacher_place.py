"""Where a teacher's files are on this machine, as local.json keeps it beside a manifest. Torch-free."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from manifests.base.progress import note
from trainer.models.spec_names import is_file
from trainer.models.teacher_spec import TeacherSpec

TEACHER = "teacher"
"""Its entry in local.json."""


def place_of_teacher(spec: TeacherSpec, weights_sha256: str) -> dict[str, Any]:
    """Return the entries for local.json: absolute paths, and the weights they lead to; empty if no file is named."""
    network = spec.network
    if not isinstance(network, str) or not (is_file(network) or spec.checkpoint):
        return {}
    place = {
        "weights_sha256": weights_sha256,
        "network": str(Path(network).resolve()) if is_file(network) else network,
        "checkpoint": None if spec.checkpoint is None else str(spec.checkpoint.resolve()),
        "checkpoint_key": spec.checkpoint_key,
    }
    return {TEACHER: {name: value for name, value in place.items() if value is not None}}


def with_place(spec: TeacherSpec, local: Mapping[str, Any], weights_sha256: str) -> TeacherSpec | None:
    """Return `spec` with the files of the teacher with these weights, and tell them; None if local.json has none."""
    place = local.get(TEACHER)
    if not isinstance(place, Mapping) or place.get("weights_sha256") != weights_sha256:
        return None
    network, checkpoint, key = (place.get(name) for name in ("network", "checkpoint", "checkpoint_key"))
    if not isinstance(network, str):
        return None
    flags = "".join(
        f" {flag} {value}" for flag, value in (("--checkpoint", checkpoint), ("--checkpoint-key", key)) if value
    )
    note(f"the teacher that scored: {network}{flags}")
    return replace(
        spec,
        network=network,
        checkpoint=None if checkpoint is None else Path(str(checkpoint)),
        checkpoint_key=None if key is None else str(key),
    )
