"""`prune verify`."""

from pathlib import Path

import click

from prune_toolkit.commands.options import FOLDER, json_option

SHOWN = 20


@click.command(name="verify")
@click.argument("manifest", type=FOLDER, default="manifest")
@json_option
def command(manifest: Path, as_json: bool) -> None:
    """Check every file of MANIFEST: size, sha256, rows, and the inside of its beton.

    \b
    prune verify selection
    """
    from manifests.console import echo_json, echo_table, format_bytes
    from manifests.errors import InputError
    from manifests.verify import verify

    report = verify(manifest)
    if as_json:
        echo_json(report.as_json())
    elif report.ok:
        absent = f"; not here: {', '.join(report.absent)}" if report.absent else ""
        click.echo(
            f"{manifest}/ is whole: {report.files} files, {format_bytes(report.bytes)}, "
            f"id {report.manifest_id[:12]}{absent}"
        )
    else:
        echo_table([(f.path, f.problem) for f in report.findings[:SHOWN]], ("file", "problem"))
    if not report.ok:
        raise InputError(
            f"{manifest} is damaged: {len(report.findings)} problem(s)",
            hint="fetch or make the manifest again; nothing was changed",
        )
