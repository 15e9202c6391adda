"""The loss values of a run: published values as defaults under the given flags, and checked."""

from collections.abc import Mapping
from typing import Any

from manifests.errors import UsageError
from trainer.config import TrainConfig, check_value
from trainer.losses.annealing import spelled
from trainer.losses.loss import LOSSES, PUBLISHED_EPOCHS

UNSURE_SMOOTHING = 0.1
"""Ours: the usual label smoothing."""
FIELDS = ("kd_weight", "ce_weight", "temperature", "kd_warmup_epochs", "loss_options")


def under_flags(published: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loss and label values of a selection, overridden by the flags that were given (not None).

    Weights belong to one loss: `--loss` with another name drops those of the preset. Raises UsageError if --revise
    is given with a loss that uses no teacher labels.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    ours = published.get("loss", "kd")
    name = given.get("loss", ours)
    if given.get("revise_eta") and name in LOSSES and not LOSSES[name].needs_targets:
        raise UsageError(
            f"--revise {given['revise_eta']:g} and --loss {name} contradict each other",
            hint=f"--loss {name} learns from the labels alone; take --loss kd",
        )
    return {field: value for field, value in published.items() if name == ours or field not in FIELDS} | given


def without_labels(given: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Return the loss values of a run on images without labels, whose labels are the teacher's answers: KD alone.

    Raises UsageError for values that need labels.
    """
    name = given.get("loss", "kd")
    why = f"the images of {where} have no labels: those stored are the teacher's answers"
    needs = {
        f"--loss {name}": name in LOSSES and (not LOSSES[name].needs_targets or LOSSES[name].needs_label_logit),
        "--ce-weight": bool(given.get("ce_weight")),
        "--revise": bool(given.get("revise_eta")),
        "--label-schedule": given.get("label_schedule") is not None,
        "--unsure-below": bool(given.get("unsure_below")),
        "--dot": bool(given.get("dot")),
        "--record-dynamics": bool(given.get("record_dynamics")),
        "--record-grand": bool(given.get("record_grand")),
        "--record-kl": bool(given.get("record_kl")),
    }
    if flag := next((flag for flag, is_given in needs.items() if is_given), None):
        raise UsageError(
            f"{flag} needs labels, and {why}", hint="learn from the soft labels alone, such as by --loss kd"
        )
    return {**({"kd_weight": 1.0} if name == "kd" else {}), **given, "ce_weight": 0.0}


def published_values(given: Mapping[str, Any], *, epochs: float) -> dict[str, Any]:
    """Return the loss's values that `given` lacks, for a run of `epochs` epochs, and all options of the loss.

    Raises UsageError for an option that the loss does not have, or for --revise-scope without --revise.
    """
    name = given.get("loss", "kd")
    entry = LOSSES[name]
    values = {field: value for field, value in entry.published.items() if field not in given}
    if "kd_warmup_epochs" in values:
        values["kd_warmup_epochs"] *= epochs / PUBLISHED_EPOCHS
    asked = given.get("loss_options", {})
    if unknown := sorted(set(asked) - set(entry.options)):
        known = ", ".join(f"{option}={value:g}" for option, value in entry.options.items())
        raise UsageError(
            f"--loss-options {unknown[0]}: --loss {name} has no such option",
            hint=f"known: {known}" if known else "it has none",
        )
    values["loss_options"] = {**entry.options, **asked}
    if "revise_scope" in given and "revise_eta" not in given:
        raise UsageError("--revise-scope has no effect without --revise", hint="give the eta as well: --revise 0.8")
    # --revise 0 turns a selection's revision off; a loss on labels alone has nothing to revise.
    if not given.get("revise_eta") or not entry.needs_targets:
        values |= {"revise_eta": None, "revise_scope": "all"}
    return values


def unsure_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the threshold of unsure labels and the smoothing of those that replace them, None if all are kept.

    Raises UsageError for values out of range, or a loss for which such labels are not defined.
    """
    below, smoothing, name = given.get("unsure_below"), given.get("unsure_smoothing"), given.get("loss", "kd")
    if not below:
        if smoothing is not None and below is None:
            raise UsageError("--unsure-smoothing has no effect without --unsure-below", hint="give it too: 0.3")
        return {"unsure_below": None, "unsure_smoothing": None}
    check_value(0 < below <= 1, "unsure_below", f"{below:g}", "in (0, 1], or 0 to turn it off")
    smoothing = UNSURE_SMOOTHING if smoothing is None else smoothing
    check_value(0 < smoothing < 1, "unsure_smoothing", f"{smoothing:g}", "in (0, 1)")
    entry = LOSSES[name]
    if not entry.needs_targets or entry.standardise is not None:
        why = "it uses no labels of a teacher"
        if entry.needs_targets:
            why = "standardised, a hard label is the same whatever its smoothing"
        raise UsageError(
            f"--unsure-below and --loss {name} contradict each other: {why}", hint="take --loss kd, dkd or dist"
        )
    return {"unsure_below": below, "unsure_smoothing": smoothing}


def described(config: TrainConfig) -> str:
    """Return the loss on one line, with its values unless they are those of plain KD."""
    entry = LOSSES[config.loss]
    numbers = {"ce": config.ce_weight, **config.loss_options}
    plain = config.annealed is None and all(
        getattr(config, name) == value for name, value in LOSSES["kd"].published.items()
    )
    if not entry.needs_targets or (config.loss == "kd" and plain):
        return config.loss
    said = {name: f"{value:g}" for name, value in numbers.items() if value is not None}
    first = {"kd": spelled(config, "kd_weight"), "ce": said.get("ce"), "T": spelled(config, "temperature")}
    shown = [f"{name} {value}" for name, value in (first | said).items() if value is not None]
    if config.kd_warmup_epochs:
        shown.append(f"warm-up {config.kd_warmup_epochs:.3g} epochs")
    return f"{config.loss} ({', '.join(shown)})"
