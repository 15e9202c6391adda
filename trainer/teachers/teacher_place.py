"""Where a teacher's files are on this machine, as local.json keeps it beside a manifest. Torch-free."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifests.base.progress import note
from manifests.format.header import TeacherCard
from manifests.manifest import Manifest
from trainer.models.named_by_data import is_own, own_spec
from trainer.models.spec_files import kind_of
from trainer.models.spec_names import is_file
from trainer.teachers.teacher_spec import TeacherSpec

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


def teacher_that_scored(manifest: Manifest, checkpoint: Path | None, key: str | None, flags: str) -> TeacherSpec:
    """Return the teacher of a manifest: with the files that local.json names, which is told, or as the header names it.

    checkpoint, key: as typed; the weights are compared with the header's later. flags: see own_spec. Raises UsageError
    for a network that data may not name.
    """
    card = manifest.header.teacher
    assert card is not None
    place = manifest.local.get(TEACHER)
    if checkpoint is None and isinstance(place, Mapping) and place.get("weights_sha256") == card.weights_sha256:
        network, file, inside = (place.get(name) for name in ("network", "checkpoint", "checkpoint_key"))
        if isinstance(network, str) and _may_be_local(network):
            named = {"--checkpoint": file, "--checkpoint-key": key or inside}
            flags_told = "".join(f" {flag} {value}" for flag, value in named.items() if value)
            note(f"the teacher that scored: {network}{flags_told}")
            return TeacherSpec(
                network=network,
                checkpoint=None if file is None else Path(str(file)),
                checkpoint_key=key or (None if inside is None else str(inside)),
            )
    return TeacherSpec(network=own_spec(card.spec, manifest.where, flags), checkpoint=checkpoint, checkpoint_key=key)


def card_of_run(manifest: Manifest) -> TeacherCard | None:
    """Return the teacher of a manifest if it ran: imported logits may be in another order than its outputs."""
    return None if manifest.header.compute is None else manifest.header.teacher


def _may_be_local(network: str) -> bool:
    """Tell whether local.json may name a network: it may have come with the manifest, so no code, hub or program."""
    return is_own(network) or (is_file(network) and kind_of(network) != "pt2")
