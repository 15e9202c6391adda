"""Training and validation data of a run, opened and checked without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.cores import core_count
from manifests.base.layout import HEADER_NAME
from manifests.base.progress import note
from manifests.betons.reader import Beton
from manifests.copies.class_map import composed, names_there, read_class_map
from manifests.errors import InputError, MismatchError, UsageError
from manifests.format.header import Preprocessing
from manifests.format.stored_form import StoredForm, labelled_problem
from manifests.manifest import Manifest
from manifests.sources import ReadOptions, Source, open_held_out
from manifests.sources.telling import leak_warning, reading_lines
from manifests.tables.rows import hash_matrix
from trainer.config import TrainConfig
from trainer.data.stored import StoredLabels, scored_recipe
from trainer.losses import LOSSES
from trainer.losses.settings import FIELDS, under_flags, without_labels
from trainer.models.info import SMALL_PX, default_preprocessing, in_colour, rescaled

REVISE = "revise"
"""The label transform that is applied in training instead of selection, because it depends on the temperature."""
_LEFT_OUT = (
    *("teacher_images", "teacher_outputs", "mixup", "cutmix", "mix_prob", "annealed"),
    *("label_schedule", "hard_smoothing", "hard_cutmix", "unsure_below", "unsure_smoothing"),
    *("dot", "groups", "window"),
)
"""Values that a configuration does not name where they are None."""
_WRITES_BETON = {
    "index": "prune index DATA --beton",
    "scores": "prune select --keep 1.0",
    "selection": "prune cut SELECTION --data DATA",
}


@dataclass(frozen=True)
class Task:
    """A manifest and its beton: the samples to learn from, with their targets if it has them."""

    manifest: Manifest
    beton: Beton

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the class names in label order."""
        return tuple(self.manifest.class_names)

    @property
    def form(self) -> StoredForm:
        """Return the form of the stored labels."""
        return self.manifest.label_form

    @property
    def is_unlabelled(self) -> bool:
        """Return whether the images have no labels, so that those stored are the teacher's answers."""
        return self.manifest.header.data.is_unlabelled

    def loss_values(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """Return the loss and label values of a run under the flags that were given, and these; see `under_flags`.

        Raises UsageError for those that contradict each other, or need labels where there are none.
        """
        given = under_flags(self.published_loss, flags)
        return without_labels(given, self.manifest.where) if self.is_unlabelled else given

    @cached_property
    def image_px(self) -> int:
        """Return the teacher's image size; without one, the stored size if all images are equal and small, else 224."""
        teacher = self.manifest.header.teacher
        if teacher is not None:
            return teacher.preprocessing.image_px
        sides = {int(side) for side in (*np.unique(self.beton.widths_N), *np.unique(self.beton.heights_N))}
        return sides.pop() if len(sides) == 1 and max(sides) <= SMALL_PX else 224

    @cached_property
    def stored(self) -> StoredLabels:
        """Return the facts about stored samples, views and labels."""
        views, labels = self.manifest.header.views, self.manifest.header.labels
        each = self.beton.label_count_N
        return StoredLabels(
            count=self.beton.count,
            image_px=self.image_px,
            view_count=self.beton.view_count,
            least_views=None if each is None else int(each.min()),
            mean_views=0.0 if each is None else float(each.mean()),
            policy=None if labels is None else labels.policy,
            scored=scored_recipe(views) if views is not None and views.recipe != "eval" else None,
            scored_views=1 if views is None else views.count,
            top_k=None if labels is None else labels.top_k,
        )

    @property
    def published_loss(self) -> dict[str, Any]:
        """Return loss and weights of the selection's preset, and its label revision; flags win over them.

        Raises InputError if the header lacks a parameter of the revision.
        """
        labels = self.manifest.header.labels
        if labels is None:
            return {}
        preset = labels.parameters.get("loss", {})
        if not isinstance(preset, dict):
            raise InputError(f"{self.manifest.path}: labels.parameters.loss is not a set of weights")
        known = {name: value for name, value in preset.items() if name in ("loss", *FIELDS)}
        if self.is_unlabelled:
            # Published weights are for two terms, of which one needs labels.
            known = {name: value for name, value in known.items() if name not in ("kd_weight", "ce_weight")}
        if labels.transform == REVISE:
            kinds = {"eta": int | float, "scope": str}
            if missing := [name for name, kind in kinds.items() if not isinstance(labels.parameters.get(name), kind)]:
                raise InputError(f"{self.manifest.path}: its labels are to be revised, but {missing[0]} is missing")
            known |= {"revise_eta": labels.parameters["eta"], "revise_scope": labels.parameters["scope"]}
        return known

    def preprocessing(self, image_px: int) -> Preprocessing:
        """Return the evaluation view at a size: the teacher's if there is one, so that its labels fit the pixels.

        A student is shown colour images, also where its teacher was shown grey ones.
        """
        teacher = self.manifest.header.teacher
        if teacher is None:
            return default_preprocessing(image_px)
        return rescaled(in_colour(teacher.preprocessing), image_px)

    def resolved(self, config: TrainConfig, validation: Validation | None) -> dict[str, Any]:
        """Return everything a run's result depends on as plain values, which a resumed run compares."""
        values = asdict(config)
        # Runs of which nothing is said keep the identity they had before these options existed.
        for name in _LEFT_OUT:
            if values[name] is None:
                del values[name]
        for name in ("record_kl", "keep_epochs"):
            if not values[name]:
                del values[name]
        return {
            **values,
            "manifest": self.manifest.id,
            "validation": None if validation is None else validation.identity,
        }

    def check(self, config: TrainConfig) -> None:
        """Raise UsageError or InputError for a configuration that this manifest cannot serve."""
        stored_targets = LOSSES[config.loss].needs_targets and config.policy != "online"
        if stored_targets and not self.beton.view_count:
            hint = (
                "score it, then select: prune score, prune select"
                if self.manifest.kind != "selection"
                else "select again with a label transform"
            )
            raise UsageError(
                f"{self.manifest.path} (a manifest of kind {self.manifest.kind}) holds no targets, "
                f"--loss {config.loss} needs them",
                hint=f"{hint}; or learn from a live teacher (--teacher) or from the labels alone (--loss ce)",
            )
        if stored_targets and LOSSES[config.loss].standardise is not None and self.stored.top_k is not None:
            raise UsageError(
                f"--loss {config.loss} standardises all {len(self.class_names)} logits of a label; "
                f"{self.manifest.path} holds the {self.stored.top_k} largest",
                hint="store all of them (leave --top-k out), learn from a live teacher (--teacher), or take --loss kd",
            )
        self.check_size(config.policy, config.image_px)

    def check_size(self, policy: str | None, image_px: int) -> None:
        """UsageError for a size at which views that are replayed would show other pixels than the teacher saw."""
        views = self.manifest.header.views
        if policy == "replay" and views is not None and views.recipe == "pad_crop_flip" and views.image_px != image_px:
            raise UsageError(
                f"the stored views are {views.image_px} px crops, --image-size {image_px} would show others",
                hint="leave --image-size out, or take --policy single",
            )


def open_task(where: Path | Manifest) -> Task:
    """Open a manifest and its beton; raises InputError if either is missing or broken, or if they disagree."""
    manifest = where if isinstance(where, Manifest) else Manifest.open(where)
    if manifest.header.data.labels_from == "none":
        raise UsageError(
            f"{manifest.where} (a manifest of kind {manifest.kind}) is of images without labels, and no teacher has "
            "labelled them yet",
            hint="score them, then select: prune score --teacher, prune select",
        )
    path = manifest.beton_path
    if path is None:
        raise InputError(
            f"{manifest.where} (a manifest of kind {manifest.kind}) has no train.beton to read images from",
            hint=f"make one: {_WRITES_BETON[manifest.kind]}",
        )
    beton = Beton.open(path)
    class_count = len(manifest.class_names)
    form = StoredForm.of(manifest.header.labels, class_count)
    if beton.view_count and beton.class_count != form.words:
        if not form.text:
            raise InputError(f"{path} holds targets of {beton.class_count} logits for {class_count} classes")
        raise InputError(f"{path} holds targets of {beton.class_count} words; {form.text} take {form.words}")
    if (problem := labelled_problem(manifest.header.labels, beton)) is not None:
        raise InputError(f"{path} {problem}", hint=f"make one: {_WRITES_BETON[manifest.kind]}")
    if missing := {"label", "view_id", "weight", "kd_weight"} - set(beton.columns):
        raise InputError(
            f"{path} lacks the field {sorted(missing)[0]}", hint=f"make one: {_WRITES_BETON[manifest.kind]}"
        )
    label_N = beton.columns["label"]
    if label_N.min() < 0 or label_N.max() >= class_count:
        row = int(np.flatnonzero((label_N < 0) | (label_N >= class_count))[0])
        raise InputError(f"{path}: row {row} has label {label_N[row]}, there are {class_count} classes")
    return Task(manifest, beton)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Images on which the student is evaluated and never trained."""

    data: Beton | Source
    count: int
    label_map: NDArray[np.int64]
    """The manifest's label for each label of this data."""
    identity: str
    """Compared by a resumed run: a manifest's id, or kind, name and size of a source."""


def open_validation(
    spec: str, options: ReadOptions, class_names: Sequence[str], class_map: Path | None = None
) -> Validation:
    """Open a manifest with a beton, or any source of images; raises MismatchError if its classes are different.

    class_map: table of the classes that have other names there; see manifests/copies/class_map.py.
    """
    folder = Path(spec)
    data: Beton | Source
    if (folder / HEADER_NAME).is_file():
        task = open_task(folder)
        data, count, names, identity = task.beton, task.beton.count, task.class_names, task.manifest.id
    else:
        data = source = open_held_out(spec, options)
        count, names = len(source.keys), source.class_names
        identity = f"{source.kind}:{source.name}:{source.split}:{count}"
    return Validation(
        data=data, count=count, label_map=_label_map(names, class_names, spec, class_map), identity=identity
    )


def tell_validation(task: Task, validation: Validation) -> None:
    """Print what was taken for the validation images; warn if they are among the images that the manifest lists."""
    source, manifest = validation.data, task.manifest
    if isinstance(source, Beton):
        return
    note(f"validation: {reading_lines(source)[0]}")
    # Hidden hashes cannot be compared.
    if manifest.header.hidden is None and "samples" not in manifest.not_pulled:
        hashes = hash_matrix(manifest.samples(["content_hash"]).column("content_hash"))
        if (warning := leak_warning(hashes, source, core_count())) is not None:
            note(f"warning: {warning}")


def _label_map(names: Sequence[str], wanted: Sequence[str], spec: str, class_map: Path | None) -> NDArray[np.int64]:
    pairs = None if class_map is None else read_class_map(class_map)
    position = {name: label for label, name in enumerate(names_there(wanted, names, pairs))}
    names = composed(names)
    unknown = [name for name in names if name not in position]
    if unknown:
        raise MismatchError(
            f"{spec} has {len(unknown)} of {len(names)} classes that the manifest does not know: {unknown[0]!r}",
            hint=f"the manifest's classes are {', '.join(map(repr, wanted[:5]))}"
            + (", ... ; " if len(wanted) > 5 else "; ")
            + "map the names with --class-map FILE, or give all class names of the validation set with --classes FILE",
        )
    return np.array([position[name] for name in names], np.int64)
