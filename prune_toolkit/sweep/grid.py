"""The grid of a sweep: entries as typed, and the arms made from them and from the baselines that pruning must beat."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from manifests.errors import UsageError
from prune_toolkit.quotas.keep import Keep, parse_fraction
from prune_toolkit.selection.selectors import SELECTORS
from prune_toolkit.sweep.flags import select_flags, train_flags, words_of
from trainer.losses import LOSSES

Kind = Literal["static", "all", "fewer", "rs2", "infobatch", "seta"]
RANDOM, ALL, RS2, INFOBATCH, SETA = "random", "all data", "RS2", "InfoBatch", "SeTa"
FEWER, SAME_STEPS = "all data, fewer epochs", "all data, same steps"
DYNAMICS = ("infobatch", "rs2", "seta")
OF_OPEN_LENGTH: dict[Kind, str] = {"infobatch": INFOBATCH, "seta": SETA}
"""Dynamic arms, by request, whose number of steps is known only at the end, and their names."""
HOLDOUT = Keep.parse("0.1")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The requested grid; every sequence is without repetitions, in the order it was typed."""

    keeps: tuple[Keep, ...]
    selects: tuple[str, ...] = (RANDOM,)
    """[NAME=]SELECTOR [flags of prune select] [-- flags of train-student]."""
    labels: tuple[str, ...] = ("raw",)
    """Label transforms, each with its flags."""
    losses: tuple[str, ...] = ("kd",)
    kd_weights: tuple[str, ...] = ()
    """Empty: the default of the loss or the preset. Losses with a published weight above 1 keep that weight."""
    dynamics: tuple[str, ...] = ()
    seeds: int = 5
    first_seed: int = 0
    """The seeds of an arm are first_seed, first_seed + 1, ...; those of tuning always begin at 0."""
    tune_seeds: int = 3
    epochs: int | None = None
    steps: int | None = None
    student: str | None = None
    holdout: Keep = HOLDOUT
    select_flags: str = ""
    """Flags of prune select for every selection."""
    train_flags: str = ""
    """Flags of train-student for every run."""

    def __post_init__(self) -> None:
        if self.holdout.is_whole:
            raise UsageError("--holdout 1 leaves nothing to select from", hint="for example --holdout 0.1")
        for name in self.dynamics:
            if name not in DYNAMICS:
                raise UsageError(f"unknown --dynamic {name}", hint=f"known: {', '.join(DYNAMICS)}")
        for loss in self.losses:
            LOSSES[loss]
        for option, number in (("--seeds", self.seeds), ("--tune-seeds", self.tune_seeds)):
            if number < 1:
                raise UsageError(f"{option} must be at least 1, not {number}")
        if self.epochs is not None and self.steps is not None:
            raise UsageError("--epochs and --steps contradict each other", hint="give one of them")
        select_flags(self.every_select, "--select-flags")
        train_flags(self.every_train, "--train", ("student", "loss", "kd_weight"))

    @property
    def every_select(self) -> tuple[str, ...]:
        """The words of `select_flags`."""
        return tuple(words_of(self.select_flags, "--select-flags"))

    @property
    def every_train(self) -> tuple[str, ...]:
        """The words of `train_flags`."""
        return tuple(words_of(self.train_flags, "--train"))


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to select samples and to train a student, at every keep."""

    name: str
    kind: Kind = "static"
    select: tuple[str, ...] = ()
    """Flags of prune select except --keep, --seed and those of every selection."""
    train: tuple[str, ...] = ()
    """Flags of train-student except the budget, the seed and those of every run."""
    weights: tuple[str, ...] = ()
    """KD weights to try; empty if the loss or the preset has its own."""


def all_arms(grid: Grid) -> list[Arm]:
    """Return every arm of the grid once, baselines that pruning must beat first; UsageError for equal names.

    The first is the one that every other is compared with: random + KD with raw labels.
    """
    entries = [entry for text in grid.selects for entry in _entry_arms(text, grid)]
    ours = _arm(RANDOM, ("--selector", RANDOM), (), "raw", "kd", grid)
    first = next((arm for arm in entries if _is_baseline(arm)), ours)
    always: dict[str, Kind] = {ALL: "all", FEWER if grid.steps is None else SAME_STEPS: "fewer", RS2: "rs2"}
    if grid.steps is None:
        always |= {name: kind for kind, name in OF_OPEN_LENGTH.items() if kind in grid.dynamics}
    baselines = [replace(first, name=name, kind=kind) for name, kind in always.items()]
    arms = list(dict.fromkeys([first, *baselines, *entries]))
    rows = Counter((arm.name, select_flags(arm.select, "--select").get("labels"), arm.train) for arm in arms)
    for (name, _, _), count in rows.items():
        if count > 1:
            # Their rows could not be distinguished.
            raise UsageError(f"two entries are called {name!r}", hint='name them: --select "NAME=SELECTOR ..."')
    return arms


def _entry_arms(text: str, grid: Grid) -> Iterator[Arm]:
    """Yield the arms of an entry: one for each of the grid's labels and losses that the entry does not set itself."""
    name, select, train = split_entry(text)
    chosen, taught = select_flags(select, "--select"), train_flags(train, f"--select {text!r}: --", ())
    SELECTORS[chosen["selector"]]
    has_preset = chosen.get("preset") is not None
    for labels in (None,) if has_preset or "labels" in chosen else grid.labels:
        for loss in (None,) if has_preset or "loss" in taught else grid.losses:
            yield _arm(name, select, train, labels, loss, grid, own=has_preset or "kd_weight" in taught)


def split_entry(text: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Split `[NAME=]SELECTOR [FLAGS] [-- FLAGS]` into name, flags of prune select, flags of train-student."""
    named = re.fullmatch(r"\s*(?P<name>[^=]*?)\s*=\s*(?P<rest>.*)", text, re.DOTALL)
    name = None if named is None or any(word.startswith("-") for word in named["name"].split()) else named["name"]
    words = words_of(text if name is None or named is None else named["rest"], "--select")
    if not words or words[0].startswith("-") or name == "":
        raise UsageError(f"--select {text!r} names no selector", hint='for example --select "hard=window --position 1"')
    end = words.index("--") if "--" in words else len(words)
    select, train = ("--selector", *words[:end]), tuple(words[end + 1 :])
    return name or " ".join(words), select, train


def _arm(
    name: str,
    select: tuple[str, ...],
    train: tuple[str, ...],
    labels: str | None,
    loss: str | None,
    grid: Grid,
    *,
    own: bool = False,
) -> Arm:
    if labels is not None:
        flags = ("--labels", *words_of(labels, "--labels"))
        select_flags(flags, "--labels")
        select += flags
    if loss is not None:
        train += ("--loss", loss)
    known = train_flags(train, "--select").get("loss")
    has_weight = not own and (known is None or (LOSSES[known].needs_targets and not _is_beyond(known)))
    return Arm(name=name, select=select, train=train, weights=grid.kd_weights if has_weight else ())


def _is_beyond(loss: str) -> bool:
    """Return whether the published KD weight of a loss is above 1, and so not on the scale of the grid's weights."""
    return bool(LOSSES[loss].published.get("kd_weight", 0) > 1)


def unweighted_losses(grid: Grid) -> list[str]:
    """Return the losses of arms without their own weight for which the grid's weights are not tried."""
    taught = [train_flags(arm.train, "--select") for arm in all_arms(grid) if grid.kd_weights]
    losses = [flags["loss"] for flags in taught if "loss" in flags and "kd_weight" not in flags]
    return list(dict.fromkeys(loss for loss in losses if _is_beyond(loss)))


def _is_baseline(arm: Arm) -> bool:
    chosen, taught = select_flags(arm.select, "--select"), train_flags(arm.train, "--select")
    return (
        chosen["selector"] == RANDOM
        and chosen.get("labels") == "raw"
        and not chosen.keys() & {"preset", "distill_fraction"}
        and taught == {"loss": "kd"}
    )


def spelled_keep(text: str) -> Keep:
    """Return 0.1 for 0.10, .1, 10% and 1/10: the shortest exact decimal, else a fraction; UsageError outside (0, 1]."""
    keep = Keep.parse(text)
    spellings = (spelled_number(float(keep.fraction)), str(keep.fraction))
    found = (spelling for spelling in spellings if parse_fraction(spelling) == keep.fraction)
    return Keep(next(found, text), keep.fraction)


def spelled_number(number: float) -> str:
    """Return the shortest text of a number with all its digits, 1 for 1.0."""
    return repr(number + 0.0).removesuffix(".0")
