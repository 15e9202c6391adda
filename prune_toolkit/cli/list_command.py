"""`prune list`."""

from collections.abc import Mapping
from typing import Any

import click

from prune_toolkit.cli.options import json_option
from trainer.cli.console import echo_json


def _scores() -> list[dict[str, Any]]:
    from prune_toolkit.scoring.score import SCORES

    order = {"teacher": 0, "features": 1, "dynamics": 2}
    return [
        {
            "name": s.name,
            "set": s.set,
            "formula": s.formula,
            "source": s.source,
            "harder": s.harder,
            "needs": ", ".join(s.needs),
            "cost": s.cost,
            **({"from": origin} if (origin := SCORES.origin(s.name)) else {}),
        }
        for s in sorted(SCORES.values(), key=lambda score: order.get(score.set, len(order)))
    ]


def _selectors() -> list[dict[str, Any]]:
    from prune_toolkit.cli.select_command import PARAMETER_FLAGS
    from prune_toolkit.selection.selectors import SELECTORS

    def option(name: str, default: str) -> str:
        flag = f"--{name} " if name in PARAMETER_FLAGS else f"--parameter {name}="
        return f"{flag}{default or name.upper()}"

    return [
        {
            "name": s.name,
            "keeps": s.formula,
            "ranks by": s.score or "no score",
            "needs": ", ".join(s.needs) or "only the samples",
            "options": ", ".join(option(name, parameter.default) for name, parameter in s.parameters.items()) or "none",
            "source": s.source,
            **({"from": origin} if (origin := SELECTORS.origin(s.name)) else {}),
        }
        for s in SELECTORS.values()
    ]


def _quotas() -> list[dict[str, Any]]:
    from prune_toolkit.quotas.quotas import QUOTAS

    return [{"name": q.name, "rule": q.formula, "source": q.source} for q in QUOTAS.values()]


def _labels() -> list[dict[str, Any]]:
    from prune_toolkit.selection.labels import LABELS

    return [{"name": entry.name, "formula": entry.formula, "source": entry.source} for entry in LABELS.values()]


def _views() -> list[dict[str, Any]]:
    from prune_toolkit.labelling.view_rules import VIEW_RULES

    return [{"name": rule.name, "labels": rule.formula, "source": rule.source} for rule in VIEW_RULES.values()]


def _losses() -> list[dict[str, Any]]:
    from trainer.losses import LOSSES

    def listed(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in values.items() if value is not None) or "none"

    return [
        {
            "name": name,
            "formula": entry.formula,
            "needs": "targets" if entry.needs_targets else "labels alone",
            "options": listed(entry.options),
            "published": listed(entry.published),
            "source": entry.source,
        }
        for name, entry in LOSSES.items()
    ]


def _dynamic() -> list[dict[str, Any]]:
    from trainer.loop.dynamic import DYNAMIC

    def flags(options: Mapping[str, float | None]) -> str:
        named = ((f"--{name.replace('_', '-')}", default) for name, default in options.items())
        return ", ".join(f"{flag} (required)" if value is None else f"{flag} {value:g}" for flag, value in named)

    return [
        {"name": name, "shows": arm.formula, "options": flags(arm.options) or "none", "source": arm.source}
        for name, arm in DYNAMIC.items()
    ]


def _presets() -> list[dict[str, Any]]:
    from prune_toolkit.selection.presets import PRESETS

    def labels(eta: str | None, scope: str | None) -> str:
        return "" if eta is None else f", eta {eta}, scope {scope}"

    return [
        {
            "name": name,
            "selector": preset.selector,
            "score": preset.score or "none",
            "quota": preset.quota,
            "labels": preset.labels + labels(preset.eta, preset.revise_scope),
            "distilled": "all"
            if preset.distill_fraction is None
            else f"{preset.distill_fraction} of each class, by {preset.distill_by}",
            "loss": ", ".join(f"{key} {value}" for key, value in preset.loss.items()),
            "source": preset.source,
        }
        for name, preset in PRESETS.items()
    ]


def _models() -> list[dict[str, Any]]:
    from trainer.models.built_in import MODELS

    own = [{"name": name, "images": f"{entry.image_px} px", "source": entry.source} for name, entry in MODELS.items()]
    others = {
        "torchvision/NAME[:WEIGHTS]": "any classification model of torchvision",
        "timm/NAME": "any model of timm (pip install 'prune-toolkit[timm]')",
        "module:callable": "your own function that takes num_classes",
        "FILE.safetensors": "a student written by train-student",
    }
    return own + [{"name": name, "images": "the model's own size", "source": text} for name, text in others.items()]


LISTINGS = {
    "scores": _scores,
    "selectors": _selectors,
    "quotas": _quotas,
    "labels": _labels,
    "views": _views,
    "losses": _losses,
    "dynamic": _dynamic,
    "presets": _presets,
    "models": _models,
}


@click.command(name="list")
@click.argument("kind", type=click.Choice(tuple(LISTINGS)), required=False)
@json_option
def command(kind: str | None, as_json: bool) -> None:
    """List the available methods: name, formula, source.

    \b
    prune list scores
    """
    found = {name: listing() for name, listing in LISTINGS.items() if kind in (None, name)}
    if as_json:
        echo_json(found if kind is None else found[kind])
        return
    for position, (name, entries) in enumerate(found.items()):
        if position:
            click.echo()
        click.echo(name)
        width = max(len(entry["name"]) for entry in entries)
        for entry in entries:
            heading, *facts = (value if key == "name" else f"{key}: {value}" for key, value in entry.items())
            for number, fact in enumerate(facts):
                click.echo(f"  {'' if number else heading:<{width}}  {fact}")
