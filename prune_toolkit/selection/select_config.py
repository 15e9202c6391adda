"""The configuration of `prune select` and `prune cut`, and the decisions that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from manifests.copies.check import EXACT, DataCheck
from manifests.errors import InputError, MismatchError, UsageError
from manifests.format.stored_form import parse_codec
from manifests.manifest import Manifest
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.images.where import place_of
from prune_toolkit.quotas.keep import Keep, parse_fraction
from prune_toolkit.quotas.quotas import QUOTAS
from prune_toolkit.selection.find_score import default_score, full_name
from prune_toolkit.selection.held_out import SCORE_THEM
from prune_toolkit.selection.labels import LABELS
from prune_toolkit.selection.presets import FIXED, PRESETS, Preset
from prune_toolkit.selection.selector import SELECTORS, Selector
from prune_toolkit.selection.soften import DEFAULT_CONFIDENCE, PARAMETER, SOFTEN, parsed_cap, top_k_error
from prune_toolkit.selection.targets import (
    DEFAULT_ETA,
    DEFAULT_SCOPE,
    NO_LABELS,
    REVISE,
    Revision,
    TargetPlan,
    check_stored_top_k,
)

RANDOM = "random"
"""In place of a score: distill samples drawn at random."""


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """The output folder of a selection, and the images from which its beton is cut."""

    out: Path
    data: DataSpec | None = None
    check: DataCheck = field(default_factory=lambda: DataCheck(level="sizes"))
    """The comparison of images other than the scored ones with the manifest."""
    trust_beton: bool = False
    """True if images that are copied from a beton are not compared with the manifest."""
    max_side: int | None = None
    workers: int = 1

    @property
    def judges_copy(self) -> bool:
        """True if --max-side is checked against the images of `data`, whose sizes may differ from the scored ones."""
        return self.data is not None and self.check.level not in EXACT

    def check_out(self, parent: Manifest) -> None:
        """Raise UsageError if `out` lies inside the images."""
        if images := self.data or DataSpec.from_local(parent.local):
            images.refuse_out(self.out)


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What the options of a selection, its preset and the manifest decide."""

    command: str = "select"
    selector: str
    parameters: Mapping[str, str]
    score: str | None
    quota: str
    labels: str
    loss: Mapping[str, float]
    max_side: int | None
    targets: TargetPlan
    without: Manifest | None
    """The selection whose samples are left out."""
    held_out: Manifest | None
    """Scored images that the teacher never saw."""
    revision: Revision | None
    distill: tuple[Fraction, str] | None
    """Share of the kept samples that is distilled, and the score to choose them by or "random"; None distills all."""
    softening: Mapping[str, float] = field(default_factory=dict)
    """Parameter of the labels `soften`, as in the header; empty for others."""
    file_sha256: str | None = None
    """sha256 of the file that names the samples, if they were chosen elsewhere."""


@dataclass(frozen=True, kw_only=True)
class SelectConfig(CutConfig):
    """The options of `prune select`; None means the preset's or the selector's own choice."""

    keep: Keep
    selector: str | None = None
    score: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    quota: str | None = None
    per_class_min: int = 0
    """Minimum number of samples that every class keeps, or all it has."""
    without: Path | str | None = None
    """A selection of the same data whose samples are left out."""
    held_out: Path | str | None = None
    """A scored manifest of images that the teacher never saw, for selectors and quotas that judge by them."""
    without_suspects: bool = False
    """Leave out samples that are probably wrong: see prune_toolkit/suspecting."""
    val: DataSpec | None = None
    """Validation images: suspects that are among them are left out too."""
    labels: str | None = None
    eta: str | None = None
    revise_scope: str | None = None
    max_confidence: str | None = None
    distill_fraction: str | None = None
    distill_by: str | None = None
    views: int | None = None
    """Number of scored views whose labels are carried, from the first; None means all."""
    policy: str | None = None
    top_k: int | None = None
    codec: str | None = None
    """How the logits of a target are stored: int8 or int4; None and float16 are the same."""
    preset: str | None = None
    seed: int = 0
    beton: bool = True

    def __post_init__(self) -> None:
        if self.per_class_min < 0:
            raise UsageError(f"--per-class-min {self.per_class_min}: at least 0")
        if self.val is not None and not self.without_suspects:
            raise UsageError(
                "--val names images whose copies are left out, which only --without-suspects does",
                hint="add --without-suspects, or leave out --val",
            )
        if self.preset is not None:
            if self.preset not in PRESETS:
                raise UsageError(f"unknown preset {self.preset!r}", hint=f"known: {', '.join(PRESETS)}")
            for choice in FIXED:
                asked, said = getattr(self, choice), getattr(self._preset, choice)
                if asked is not None and asked != said:
                    raise UsageError(
                        f"--preset {self.preset} sets {choice} to {said or 'none'}, not {asked}",
                        hint="leave out one of the two",
                    )
        # Both properties refuse values out of range.
        if self.revision is None and (self.eta is not None or self.revise_scope is not None):
            flag = "--revise-scope" if self.eta is None else "--eta"
            raise UsageError(f"{flag} applies to label revision only", hint="add --labels revise")
        if self.max_confidence is not None:
            if self._choice("labels", None) != SOFTEN:
                raise UsageError("--max-confidence applies to softened labels only", hint="add --labels soften")
            parsed_cap(self.max_confidence)
        if self.distill is None and self.distill_by is not None:
            raise UsageError(
                "--distill-by needs --distill-fraction, the share of samples to distill",
                hint="add --distill-fraction 0.5",
            )

    @cached_property
    def _preset(self) -> Preset | None:
        return None if self.preset is None else PRESETS[self.preset]

    def _choice(self, name: str, default: Any) -> Any:
        """Return the value of a flag, else of the preset, else the default."""
        asked = getattr(self, name)
        if asked is None and self._preset is not None:
            asked = getattr(self._preset, name)
        return default if asked is None else asked

    @property
    def method(self) -> Selector:
        """The selector."""
        return SELECTORS[self._choice("selector", "medium")]

    @cached_property
    def revision(self) -> Revision | None:
        """Parameters of label revision; None for other labels."""
        if self._choice("labels", None) != REVISE:
            return None
        return Revision.parse(self._choice("eta", DEFAULT_ETA), self._choice("revise_scope", DEFAULT_SCOPE))

    @cached_property
    def distill(self) -> tuple[Fraction, str] | None:
        """Share of the kept samples to distill, and the score to choose them by or "random"; None distills all."""
        text = self._choice("distill_fraction", None)
        if text is None:
            return None
        share = parse_fraction(text)
        if share is None or not 0 < share <= 1:
            raise UsageError(
                f"--distill-fraction is {text!r}: it must be above 0 and at most 1",
                hint="0.5 distills half of the kept samples; to distill none, use train-student --loss ce",
            )
        return share, self._choice("distill_by", "influence")

    def targets(self, parent: Manifest) -> TargetPlan:
        """Return the plan that turns scored views into targets; raises UsageError for more than is stored."""
        if self.labels_of(parent) == NO_LABELS:
            flags: dict[str, object] = {
                "--views": self.views,
                "--policy": self.policy,
                "--top-k": self.top_k,
                "--codec": self.codec,
                "--distill-fraction": self.distill,
            }
            if asked := [flag for flag, value in flags.items() if value is not None]:
                raise UsageError(
                    f"{asked[0]}: without soft labels there is nothing to store or to distill",
                    hint="have a teacher score the images first: prune score --teacher",
                )
            return TargetPlan.nothing(len(parent.class_names))
        scored = parent.header.views
        stored, stored_k = (1, None) if scored is None else (scored.count, scored.top_k)
        if self.views is not None and self.views > stored:
            raise UsageError(
                f"--views {self.views}: {parent.where} holds logits of {stored} view(s)",
                hint=f"label more views of the kept samples after selecting: prune label --views {self.views}",
            )
        if stored_k is not None and self.labels_of(parent) == SOFTEN:
            raise top_k_error(stored_k)
        top_k = stored_k if self.top_k is None else self.top_k
        views = stored if self.views is None else self.views
        codec = parse_codec(self.codec, top_k)
        if codec == "features":
            raise UsageError(
                "--codec features needs the teacher, for the features of each view and its last layer",
                hint="select without it, then label the kept samples: prune label SELECTION --codec features",
            )
        plan = TargetPlan.resolve(self.policy, views, top_k, len(parent.class_names), codec)
        if stored_k is not None:
            check_stored_top_k(stored_k, plan.policy, plan.views, top_k)
        return plan

    def labels_of(self, parent: Manifest) -> str:
        """Return the label transform: `none` by default if the manifest never had logits."""
        has_logits = parent.has("logits/view-000") or parent.header.views is not None
        return str(self._choice("labels", "reshape" if has_logits else NO_LABELS))

    def _without(self, parent: Manifest) -> Manifest | None:
        """Return the selection whose samples are left out; raises MismatchError if it is of other data."""
        if self.without is None:
            return None
        other = Manifest.open(self.without)
        if other.kind != "selection":
            raise UsageError(
                f"--without {other.where} is of kind {other.kind}, not a selection",
                hint="name a folder that prune select wrote",
            )
        if other.header.data.fingerprint != parent.header.data.fingerprint:
            raise MismatchError(
                f"--without {other.where} is a selection of other data (fingerprint "
                f"{other.header.data.fingerprint[:12]}) than {parent.where} ({parent.header.data.fingerprint[:12]})",
                hint="select from manifests of the same images",
            )
        if other.header.data.count != parent.header.data.count:
            raise InputError(f"{other.where} and {parent.where} have different numbers of samples")
        return other

    def _judged_on(self) -> Manifest | None:
        """Return the manifest of held-out images; raises UsageError if they are missing, or nothing looks at them."""
        method, quota = self.method, QUOTAS[self._choice("quota", "proportional")]
        is_needed = quota.by_recall is not None or method.needs_held_out(method.resolve(self.parameters))
        if self.held_out is None:
            if is_needed:
                what = f"quota {quota.name}" if quota.by_recall is not None else f"selector {method.name} with auto"
                raise UsageError(
                    f"{what} is judged on images that the teacher never saw, and none are given", hint=SCORE_THEM
                )
            return None
        if not is_needed:
            raise UsageError(
                f"--held-out has no effect with selector {method.name} and quota {quota.name}",
                hint="leave it out; --selector beta with mode or sharpness auto, and --quota recall, use it",
            )
        return Manifest.open(self.held_out)

    def _refuse_labels(self, parent: Manifest) -> None:
        """Raise UsageError for what learns from labels: unlabelled images have only their teacher's answers."""
        why = f"the images of {parent.where} have none: their labels are the teacher's answers"
        if self.revision is not None:
            raise UsageError(
                f"label revision corrects a teacher by the labels, and {why}", hint="--labels raw or reshape"
            )
        if self.distill is not None:
            raise UsageError(
                f"--distill-fraction leaves samples to be learned from their labels alone, and {why}",
                hint="distill all of them: leave it out",
            )

    def decide(self, parent: Manifest) -> Decisions:
        """Make all decisions from the flags, the preset and the manifest."""
        preset, method, labels, teacher = self._preset, self.method, self.labels_of(parent), parent.header.teacher
        if parent.header.data.is_unlabelled:
            self._refuse_labels(parent)
        asked = self.score or (preset.score if preset else None)
        score = method.score_or(asked)
        if asked is None and not method.own_score:
            score = default_score(parent, score)
        distill = self.distill
        if distill is not None and distill[1] != RANDOM:
            distill = distill[0], full_name(parent, distill[1])
        # The images of a beton are copied as they are.
        shrinks = self.beton and place_of(parent, self.data).beton is None
        return Decisions(
            selector=method.name,
            parameters={name: str(value) for name, value in method.resolve(self.parameters).items()},
            score=None if score is None else full_name(parent, score),
            quota=QUOTAS[self._choice("quota", "proportional")].name,
            labels=NO_LABELS if labels == NO_LABELS else LABELS[labels].name,
            loss={} if preset is None else preset.loss_at(0 if teacher is None else teacher.preprocessing.image_px),
            max_side=self.max_side if shrinks else None,
            targets=self.targets(parent),
            without=self._without(parent),
            held_out=self._judged_on(),
            revision=self.revision,
            distill=distill,
            softening={}
            if labels != SOFTEN
            else {PARAMETER: parsed_cap(self.max_confidence or DEFAULT_CONFIDENCE, len(parent.class_names))},
        )

    def resolved(self, parent: Manifest, decisions: Decisions) -> dict[str, Any]:
        """Return the configuration for the header; newer fields only if used, so that existing ids stay valid."""
        targets, revision, distill = decisions.targets, decisions.revision, decisions.distill
        # The full label of view 0 was the only choice before there were more views.
        is_plain = targets.views == 0 or (targets.views, targets.policy, targets.top_k) == (1, "single", None)
        extras = {
            "per_class_min": self.per_class_min or None,
            "without": None if decisions.without is None else decisions.without.id,
            "held_out": None if decisions.held_out is None else decisions.held_out.id,
            "eta": None if revision is None else revision.eta,
            "revise_scope": None if revision is None else revision.scope,
            **decisions.softening,
            "distill_fraction": None if distill is None else str(distill[0]),
            "distill_by": None if distill is None else distill[1],
            "file_sha256": decisions.file_sha256,
            "codec": targets.codec,
        }
        return {
            "command": decisions.command,
            "parent": parent.id,
            "keep": str(self.keep),
            "selector": decisions.selector,
            "parameters": dict(decisions.parameters),
            "score": decisions.score,
            "quota": decisions.quota,
            "labels": decisions.labels,
            "preset": self.preset,
            "loss": dict(decisions.loss),
            "seed": self.seed,
            "beton": self.beton,
            "max_side": decisions.max_side,
            **({} if is_plain else {"views": targets.views, "policy": targets.policy, "top_k": targets.top_k}),
            **{name: value for name, value in extras.items() if value is not None},
        }
