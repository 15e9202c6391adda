"""The loss values of a run: published values as defaults under the given flags, and checked."""

from collections.abc import Mapping
from typing import Any

from manifests.errors import UsageError
from trainer.config import TrainConfig
from trainer.losses.loss import LOSSES, PUBLISHED_EPOCHS

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
        "--dot": bool(given.get("dot")),
        "--record-dynamics": bool(given.get("record_dynamics")),
        "--record-grand": bool(given.get("record_grand")),
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


def described(config: TrainConfig) -> str:
    """Return the loss on one line, with its values unless they are those of plain KD."""
    entry = LOSSES[config.loss]
    values = {"kd": config.kd_weight, "ce": config.ce_weight, "T": config.temperature, **config.loss_options}
    plain = all(getattr(config, name) == value for name, value in LOSSES["kd"].published.items())
    if not entry.needs_targets or (config.loss == "kd" and plain):
        return config.loss
    shown = [f"{name} {value:g}" for name, value in values.items() if value is not None]
    if config.kd_warmup_epochs:
        shown.append(f"warm-up {config.kd_warmup_epochs:.3g} epochs")
    return f"{config.loss} ({', '.join(shown)})"
