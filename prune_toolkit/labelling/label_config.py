"""The configuration of `prune label`, its defaults, and checks that selection, teacher and images fit together."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.progress import Progress
from manifests.errors import InputError, MismatchError, UsageError
from manifests.format.header import Probabilities, Views
from manifests.format.parts import part_rows
from manifests.format.stored_form import parse_codec
from manifests.hidden.secret import refuse_hidden
from manifests.manifest import Manifest
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.images.readers import ImageReader, ImagesAtHand
from prune_toolkit.labelling.feature_labels import layer_of_teacher
from prune_toolkit.labelling.view_budget import Budget, BudgetFlags
from prune_toolkit.scoring.logit_scores import TEACHER
from prune_toolkit.scoring.score import outside_scores
from prune_toolkit.scoring.teacher_pass import PassConfig, TeacherPass, show_chosen, show_views
from prune_toolkit.scoring.view_flags import ViewFlags, recipe_or_none, views_block
from prune_toolkit.selection.labels import LABELS, LabelTransform
from prune_toolkit.selection.soften import DEFAULT_CONFIDENCE, SOFTEN
from prune_toolkit.selection.targets import TargetPlan
from trainer.data.stored import scored_recipe
from trainer.data.views import ViewRecipe
from trainer.teachers.output_names import map_and_groups
from trainer.teachers.teacher import Teacher

VIEWS = 8
"""The default number of views."""
_RESTORE = "restore the images, or name a complete copy of them with --data"


@dataclass(frozen=True, kw_only=True)
class LabelConfig(PassConfig):
    """The options of `prune label`; `teacher_licence` is another teacher's, the selection names its own teacher's."""

    targets: TargetPlan
    labels: str
    other_teacher: bool = False
    beton: bool = True
    data: DataSpec | None = None
    budget: Budget | None = None
    """None if all views of each sample are labelled."""

    @property
    def seen_views(self) -> int:
        """Views that the teacher sees of every sample, before others are chosen."""
        return self.targets.read_views if self.budget is None else self.budget.first_views

    def shown(self, samples: int) -> int:
        """Return how many images of these samples the teacher sees in all, with a budget at most."""
        return samples * self.targets.read_views if self.budget is None else self.budget.shown(samples)


@dataclass(frozen=True, kw_only=True)
class Labelling(TeacherPass):
    """A checked labelling: the selection, the teacher, the images, and the transform from logits to targets."""

    config: LabelConfig
    selection: Manifest
    transform: LabelTransform
    is_other: bool
    """True if the labels are from another teacher than the scores."""

    @classmethod
    def of(cls, config: LabelConfig, teacher: Teacher, selection: Manifest) -> "Labelling":
        """Check that they fit together; UsageError, MismatchError or InputError if they do not."""
        if selection.header.selection is not None and not selection.header.selection.count:
            raise InputError(f"{selection.where} keeps no samples to label", hint="select with a larger --keep")
        difference = _difference(teacher, selection)
        if difference is not None and not config.other_teacher:
            raise MismatchError(
                f"{selection.where} was scored {difference}",
                hint="give the teacher that scored, with --teacher and --checkpoint, and no flags of its images and "
                "outputs, which the selection says; or add --other-teacher",
            )
        is_other = difference is not None
        if config.targets.codec == "features":
            config = replace(config, targets=replace(config.targets, layer=layer_of_teacher(teacher)))
        return cls(
            config=config,
            teacher=teacher,
            selection=selection,
            images=ImagesAtHand.of_index(selection, config.data),
            transform=stored_transform(selection, config.labels, is_other=is_other),
            is_other=is_other,
        )

    def views(self) -> Views:
        """Return the header block of the labelled views."""
        image_px = self.teacher.preprocessing.image_px
        return views_block(self.config.recipe, self.config.targets.views, image_px, None, self.images.drawn_max_side)

    def resolved(self) -> dict[str, Any]:
        """Return everything the result depends on, without paths."""
        config, targets = self.config, self.config.targets
        # Left out if not given, so that such a labelling keeps the id it had before these options existed.
        sometimes = {
            "teacher_licence": config.teacher_licence if self.is_other else None,
            "max_side": self.images.max_side,
            "codec": targets.codec,
            "view_budget": None if config.budget is None else config.budget.resolved(),
        }
        return {
            "command": "label",
            "parent": self.selection.id,
            **self.facts(),
            "views": self.views().model_dump(exclude_none=True),
            "policy": targets.policy,
            "top_k": targets.top_k,
            "labels": config.labels,
            "beton": config.beton,
            **{name: value for name, value in sometimes.items() if value is not None},
            **(outside_scores(TEACHER) if self.is_other else {}),
        }

    @cached_property
    def keep_N(self) -> NDArray[np.bool_]:
        """(N,) flags of the samples that are kept."""
        return np.asarray(self.selection.selection().column("keep").to_numpy(zero_copy_only=False))

    def kept(self, part: int) -> NDArray[np.int64]:
        """Return the kept samples of one part."""
        rows = part_rows(part, len(self.keep_N))
        return np.asarray(rows.start + np.flatnonzero(self.keep_N[rows.start : rows.stop]))

    def kept_before(self, part: int) -> int:
        """Return how many samples are kept in the parts before this one."""
        return int(self.keep_N[: part_rows(part, len(self.keep_N)).start].sum())

    def shown(
        self, reader: ImageReader, ids: NDArray[np.int64], progress: Progress
    ) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """Compute logits (n, V, C) and, if they are stored, features (n, V, D) of some samples.

        Raises InputError naming the first that cannot be read."""
        views = reader.view_count if self.config.targets.codec == "features" else 0
        found, logits_nVC, features_nVD = show_views(self, reader, ids, progress, feature_views=views)
        if len(found) < len(ids):
            missing = np.setdiff1d(ids, found)
            key = self.selection.samples(["key"]).column("key")[int(missing[0])].as_py()
            raise InputError(f"{key} cannot be read any more ({len(missing):,} such samples here)", hint=_RESTORE)
        return logits_nVC, features_nVD

    def shown_chosen(
        self, reader: ImageReader, ids: NDArray[np.int64], views: NDArray[np.int64], progress: Progress
    ) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """Compute logits (m, C) and, if they are stored, features (m, D) of one view of each, of ascending samples.

        Raises InputError if a sample cannot be read any more."""
        with_features = self.config.targets.codec == "features"
        logits_mC, features_mD = show_chosen(self, reader, ids, views, progress, features=with_features)
        if len(logits_mC) < len(ids):
            raise InputError("a sample that was just read cannot be read any more", hint=_RESTORE)
        return logits_mC, features_mD


def stored_transform(selection: Manifest, labels: str, *, is_other: bool) -> LabelTransform:
    """Return the label transform as fitted to all scored samples.

    Raises UsageError if it was not fitted, or was fitted to another teacher.
    """
    method = LABELS[labels]
    transform = method.make(len(selection.class_names))
    if labels == SOFTEN and (selection.header.labels is None or selection.header.labels.transform != labels):
        raise UsageError(
            f"{selection.where} was selected without --labels {labels}, which sets how confident a label may be",
            hint=f"select again with --labels {labels} --max-confidence {DEFAULT_CONFIDENCE}",
        )
    if selection.header.labels is not None:
        transform.set(selection.header.labels.parameters)
    if not method.needs_fit:
        return transform
    block = selection.header.labels
    if is_other:
        raise UsageError(
            f"--labels {labels} was fitted to the teacher that scored; it cannot be used with another teacher",
            hint="use --labels raw; or score with the other teacher and select again",
        )
    if block is None or block.class_std is None or block.transform != labels:
        raise UsageError(
            f"{selection.where} was selected without --labels {labels}, which must be fitted to all scored samples",
            hint=f"use --labels raw, or select again with --labels {labels}",
        )
    class_std_C = np.array(block.class_std, np.float64)
    kept = selection.selection().column("keep").to_numpy(zero_copy_only=False)
    kept_C = np.bincount(selection.samples(["label"]).column("label").to_numpy()[kept], minlength=len(class_std_C))
    if unfitted := np.flatnonzero((kept_C > 0) & (class_std_C == 0)).tolist():
        raise InputError(
            f"{selection.where}: labels.class_std is 0 for {selection.class_names[unfitted[0]]!r}, of which it keeps "
            f"{kept_C[unfitted[0]]:,} samples",
            hint="select again, or use --labels raw",
        )
    transform.restore(class_std_C)
    return transform


def _difference(teacher: Teacher, selection: Manifest) -> str | None:
    """Describe how this teacher or its preprocessing differs from the selection's; None if they are equal."""
    card = selection.header.teacher
    if card is None:
        return "by a teacher that it does not name"
    if card.weights_sha256 != teacher.weights_sha256:
        return (
            f"by {card.spec} with weights {card.weights_sha256[:12]}; "
            f"this is {teacher.info.spec} with weights {teacher.weights_sha256[:12]}"
        )
    now, then = teacher.preprocessing.model_dump(), card.preprocessing.model_dump()
    differing = next((name for name in now if now[name] != then.get(name)), None)
    if differing is not None:
        return f"with {differing} {then.get(differing)}; now it is {now[differing]}"
    if map_and_groups(teacher.reading.outputs) != (card.output_map, card.output_groups):
        return "with other outputs of the teacher as the classes, which --outputs FILE says"
    reading = teacher.reading
    # Of imported logits, the header says what the file held, not what the network returns.
    if selection.header.compute is not None and (reading.key, reading.probabilities) != (
        card.output_key,
        card.probabilities,
    ):
        return (
            f"from {returned_text(card.output_key, card.probabilities)} of the teacher; "
            f"now it is from {returned_text(reading.key, reading.probabilities)}"
        )
    return None


def returned_text(key: str | None, probabilities: Probabilities | None) -> str:
    """Say in words where the logits of a teacher come from."""
    what = "the logits" if probabilities is None else f"the {probabilities} probabilities"
    return what if key is None else f"{what} at --output {key}"


def check_selection(selection: Manifest, teacher_licence: str | None, *, is_other: bool) -> None:
    """Raise UsageError for a manifest that is not a selection, or whose keys are hidden.

    Also for a teacher licence, unless the labels are from another teacher than the scores.
    """
    if selection.kind != "selection":
        do = f"prune select {selection.where} --keep 0.5" if selection.kind == "scores" else "prune score, prune select"
        raise UsageError(
            f"{selection.where} is of kind {selection.kind}: labelling needs a selection",
            hint=f"make one first: {do}",
        )
    refuse_hidden(selection.header, selection.where)

    if teacher_licence is not None and not is_other:
        raise UsageError(
            "--teacher-licence needs --other-teacher: the selection records the licence of its own teacher",
            hint="give the licence to prune score instead",
        )


def default_labels(selection: Manifest, *, is_other: bool) -> str:
    """Return the selection's label transform; raw for another teacher, to which no transform was fitted."""
    block = selection.header.labels
    return "raw" if is_other or block is None else block.transform


def planned_targets(
    selection: Manifest, policy: str | None, views: int | None, top_k: int | None, codec: str | None = None
) -> TargetPlan:
    """Return the plan of the stored targets; `views` is None for the default number, `codec` None for float16."""
    if policy == "single":
        if views is not None and views > 1:
            raise UsageError("--policy single labels only view 0", hint=f"leave out --views {views}, or --policy")
        views = 1
    views, class_count = VIEWS if views is None else views, len(selection.class_names)
    return TargetPlan.resolve(policy, views, top_k, class_count, parse_codec(codec, top_k))


def with_budget(targets: TargetPlan, flags: BudgetFlags) -> tuple[TargetPlan, Budget | None]:
    """Return the plan of targets under a budget, and the budget; None without. Raises UsageError like `Budget.of`."""
    budget = Budget.of(flags, targets.views, targets.policy, targets.codec)
    if budget is None or targets.policy == "mean":
        return targets, budget
    return replace(targets, each=float(budget.mean)), budget


def planned_recipe(selection: Manifest, asked: ViewFlags, image_px: int, *, typed: Collection[str]) -> ViewRecipe:
    """Return the recipe `asked` for; what was not `typed` is taken from the selection's views, if it has any."""
    views, known = selection.header.views, dict[str, Any]()
    if views is not None and views.recipe != "eval":
        recipe = scored_recipe(views)
        known = {
            "augment": recipe.name,
            "pad": recipe.pad_px,
            "scale_min": recipe.scale_min,
            "flip": recipe.flip,
            "seed": recipe.seed,
        }
    asked = replace(asked, **{name: value for name, value in known.items() if name not in typed})
    return recipe_or_none(asked, image_px, typed={*known, *typed})
