"""`prune score --dynamics`: what it takes, and what it says. Torch-free."""

from pathlib import Path
from typing import Any

import click

from prune_toolkit.cli.options import echo_next

_WITH_DYNAMICS = {"data_argument", "dynamics", "early_epoch", "out", "dry_run", "as_json"}


def score_dynamics(options: dict[str, Any]) -> None:
    """Add scores of recorded runs to a manifest; UsageError for typed flags that need a teacher or images."""
    from manifests.errors import UsageError
    from manifests.manifest import Manifest
    from prune_toolkit.scoring.dynamics_pass import DynamicsPlan, write_dynamics_scores
    from trainer.cli.console import echo_json

    context = click.get_current_context()
    typed = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in _WITH_DYNAMICS
        and context.get_parameter_source(parameter.name or "") == click.core.ParameterSource.COMMANDLINE
    ]
    if typed:
        raise UsageError(
            f"{', '.join(typed)} with --dynamics: no teacher is run and no image is read",
            hint="score first, then: prune score MANIFEST --dynamics RUN",
        )
    plan = DynamicsPlan.of(
        options["out"] or Path("manifest-dynamics"),
        Manifest.open(options["data_argument"] or "manifest"),
        options["dynamics"],
        options["early_epoch"],
    )
    facts = {
        "samples": len(plan.runs[0].sample_id_N),
        "runs": plan.resolved()["dynamics"],
        "scores": [entry.name for entry in plan.scores],
        "out": str(plan.out),
    }
    if not options["dry_run"]:
        manifest = write_dynamics_scores(plan)
        facts |= {"id": manifest.id, "path": str(plan.out), "run": manifest.header.run}
    if options["as_json"]:
        echo_json(facts)
        return
    names = ", ".join(f"dynamics/{name}" for name in facts["scores"])
    recorded = ", ".join(f"{run['epochs']} epochs of {run['student']} (seed {run['seed']})" for run in facts["runs"])
    early = ", ".join(dict.fromkeys(str(run["early_epoch"]) for run in facts["runs"]))
    click.echo(f"{facts['samples']:,} samples, {recorded}; early scores at epoch {early}")
    if options["dry_run"]:
        click.echo(f"would write {plan.out}/ with {names}")
        return
    click.echo(f"{plan.out}/: {names}; id {facts['id'][:12]}")
    echo_next("prune", "select", plan.out, "--keep", "0.5", "--score", f"dynamics/{plan.scores[0].name}")
