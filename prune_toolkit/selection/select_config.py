"""The configuration of `prune select` and `prune cut`, and the decisions that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from manifests.copies.check import EXACT, DataCheck
from manifests.errors import InputError, MismatchError, UsageError
from manifests.manifest import Manifest
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.images.where import place_of
from prune_toolkit.quotas.keep import Keep, parse_fraction
from prune_toolkit.quotas.quotas import QUOTAS
from prune_toolkit.selection.decisions import Decisions
from prune_toolkit.selection.distill import DEFAULT_BY, RANDOM
from prune_toolkit.selection.find_score import find_score
from prune_toolkit.selection.labels import LABELS
from prune_toolkit.selection.presets import FIXED, PRESETS, Preset
from prune_toolkit.selection.revision import DEFAULT_ETA, DEFAULT_SCOPE, REVISE, Revision, parse_eta, parse_scope
from prune_toolkit.selection.selector import SELECTORS, Selector
from prune_toolkit.selection.targets import NO_LABELS, TargetPlan, check_stored_top_k


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """The output folder of a selection, and the images from which its beton is cut."""

    out: Path
    data: DataSpec | None = None
    check: DataCheck = field(default_factory=lambda: DataCheck(level="sizes"))
    """The comparison of images other than the scored ones with the manifest."""
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
    labels: str | None = None
    eta: str | None = None
    revise_scope: str | None = None
    distill_fraction: str | None = None
    distill_by: str | None = None
    views: int | None = None
    """Number of scored views whose labels are carried, from the first; None means all."""
    policy: str | None = None
    top_k: int | None = None
    preset: str | None = None
    seed: int = 0
    beton: bool = True

    def __post_init__(self) -> None:
        if self.per_class_min < 0:
            raise UsageError(f"--per-class-min {self.per_class_min}: at least 0")
        if self.preset is not None:
            self._check_preset(self.preset)
        self._check_labels()
        self._check_distill()

    def _check_preset(self, name: str) -> None:
        if name not in PRESETS:
            raise UsageError(f"unknown preset {name!r}", hint=f"known: {', '.join(PRESETS)}")
        for choice in FIXED:
            asked, said = getattr(self, choice), getattr(PRESETS[name], choice)
            if asked is not None and asked != said:
                raise UsageError(
                    f"--preset {name} sets {choice} to {said or 'none'}, not {asked}", hint="leave out one of the two"
                )

    def _check_labels(self) -> None:
        asked = [
            flag for flag, value in (("--eta", self.eta), ("--revise-scope", self.revise_scope)) if value is not None
        ]
        if asked and self._choice("labels", "reshape") != REVISE:
            raise UsageError(f"{asked[0]} applies to label revision only", hint="add --labels revise")
        if self.eta is not None:
            parse_eta(self.eta)
        if self.revise_scope is not None:
            parse_scope(self.revise_scope)

    def _check_distill(self) -> None:
        fraction = self._choice("distill_fraction", None)
        if fraction is None:
            if self.distill_by is not None:
                raise UsageError(
                    "--distill-by needs --distill-fraction, the share of samples to distill",
                    hint="add --distill-fraction 0.5",
                )
        else:
            _parse_distilled(fraction)

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

    @property
    def distill(self) -> tuple[Fraction, str] | None:
        """Share of the kept samples to distill, and the score to choose them by or "random"; None distills all."""
        fraction = self._choice("distill_fraction", None)
        return None if fraction is None else (_parse_distilled(fraction), self._choice("distill_by", DEFAULT_BY))

    def targets(self, parent: Manifest) -> TargetPlan:
        """Return the plan that turns scored views into targets; raises UsageError for more than is stored."""
        if self.labels_of(parent) == NO_LABELS:
            self._check_no_labels()
            return TargetPlan.nothing(len(parent.class_names))
        scored = parent.header.views
        stored, stored_k = (1, None) if scored is None else (scored.count, scored.top_k)
        if self.views is not None and self.views > stored:
            raise UsageError(
                f"--views {self.views}: {parent.where} holds logits of {stored} view(s)",
                hint=f"label more views of the kept samples after selecting: prune label --views {self.views}",
            )
        top_k = stored_k if self.top_k is None else self.top_k
        views = stored if self.views is None else self.views
        plan = TargetPlan.resolve(self.policy, views, top_k, len(parent.class_names))
        if stored_k is not None:
            check_stored_top_k(stored_k, plan.policy, plan.views, top_k)
        return plan

    def labels_of(self, parent: Manifest) -> str:
        """Return the label transform: `none` by default if the manifest never had logits."""
        has_logits = parent.has("logits/view-000") or parent.header.views is not None
        return str(self._choice("labels", "reshape" if has_logits else NO_LABELS))

    def _check_no_labels(self) -> None:
        """Raise UsageError for flags about labels if there are none."""
        flags = {"--views": self.views, "--policy": self.policy, "--top-k": self.top_k}
        asked = [flag for flag, value in flags.items() if value is not None]
        if self.distill is not None:
            asked.append("--distill-fraction")
        if asked:
            raise UsageError(
                f"{asked[0]}: without soft labels there is nothing to store or to distill",
                hint="have a teacher score the images first: prune score --teacher",
            )

    def held_out_selection(self, parent: Manifest) -> Manifest | None:
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

    def _copies_beton(self, parent: Manifest) -> bool:
        """Return whether images are copied unchanged from a beton instead of read from their source."""
        return place_of(parent, self.data).beton is not None

    def decide(self, parent: Manifest) -> Decisions:
        """Make all decisions from the flags, the preset and the manifest."""
        preset, method, labels = self._preset, self.method, self.labels_of(parent)
        score = method.score_or(self.score or (preset.score if preset else None))
        other = self.held_out_selection(parent)
        return Decisions(
            parent=parent.id,
            keep=self.keep,
            selector=method.name,
            parameters={name: str(value) for name, value in method.resolve(self.parameters).items()},
            score=None if score is None else find_score(parent, score).name,
            quota=QUOTAS[self._choice("quota", "proportional")].name,
            labels=NO_LABELS if labels == NO_LABELS else LABELS[labels].name,
            preset=self.preset,
            loss={} if preset is None else preset.loss_at(_image_px(parent)),
            seed=self.seed,
            beton=self.beton,
            max_side=self.max_side if self.beton and not self._copies_beton(parent) else None,
            targets=self.targets(parent),
            per_class_min=self.per_class_min,
            without=None if other is None else other.id,
            revision=self._revision,
            distill=self._distilled(parent),
        )

    @property
    def _revision(self) -> Revision | None:
        if self._choice("labels", "reshape") != REVISE:
            return None
        eta, scope = self._choice("eta", DEFAULT_ETA), self._choice("revise_scope", DEFAULT_SCOPE)
        return Revision(parse_eta(eta), parse_scope(scope))

    def _distilled(self, parent: Manifest) -> tuple[Fraction, str] | None:
        """Return `distill` with the full name of the score."""
        if self.distill is None or self.distill[1] == RANDOM:
            return self.distill
        fraction, by = self.distill
        return fraction, find_score(parent, by).name


def _parse_distilled(text: str) -> Fraction:
    """Parse the share of the kept samples to distill; raises UsageError unless 0 < share <= 1."""
    share = parse_fraction(text)
    if share is None or not 0 < share <= 1:
        raise UsageError(
            f"--distill-fraction is {text!r}: it must be above 0 and at most 1",
            hint="0.5 distills half of the kept samples; to distill none, use train-student --loss ce",
        )
    return share


def _image_px(parent: Manifest) -> int:
    """Return the side of the images the teacher saw, in px; 0 without a teacher."""
    teacher = parent.header.teacher
    return 0 if teacher is None else teacher.preprocessing.image_px
