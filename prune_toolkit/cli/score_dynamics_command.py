"""`prune score --dynamics`: its options, and the lines it prints. Torch-free."""

from pathlib import Path

import click

from prune_toolkit.cli.options import echo_next

_WITH_DYNAMICS = {"data_argument", "dynamics", "early_epoch", "out", "dry_run", "as_json"}


def score_dynamics(
    scored: str | None,
    runs: tuple[Path, ...],
    early_epoch: int | None,
    out: Path | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
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
            f"{', '.join(typed)} cannot be used with --dynamics: no teacher is run and no image is read",
            hint="score first, then: prune score MANIFEST --dynamics RUN",
        )
    plan = DynamicsPlan.of(out or Path("manifest-dynamics"), Manifest.open(scored or "manifest"), runs, early_epoch)
    manifest = None if dry_run else write_dynamics_scores(plan)
    count = len(plan.runs[0].sample_id_N)
    if as_json:
        plain = {
            "samples": count,
            "runs": plan.run_facts(),
            "scores": [entry.name for entry in plan.scores],
            "out": str(plan.out),
        }
        written = {} if manifest is None else {"id": manifest.id, "path": str(plan.out), "run": manifest.header.run}
        echo_json(plain | written)
        return
    names = ", ".join(f"dynamics/{entry.name}" for entry in plan.scores)
    infos = [record.info for record in plan.runs]
    recorded = ", ".join(f"{info.epochs_recorded} epochs of {info.student} (seed {info.seed})" for info in infos)
    early = ", ".join(dict.fromkeys(map(str, plan.early_epochs)))
    click.echo(f"{count:,} samples, {recorded}; early scores at epoch {early}")
    if manifest is None:
        click.echo(f"would write {plan.out}/ with {names}")
        return
    click.echo(f"{plan.out}/: {names}; id {manifest.id[:12]}")
    echo_next("prune", "select", plan.out, "--keep", "0.5", "--score", f"dynamics/{plan.scores[0].name}")
