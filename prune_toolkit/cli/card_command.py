"""`prune card`."""

from pathlib import Path

import click

from prune_toolkit.cli.options import FOLDER, json_option
from trainer.cli.console import echo_json


@click.command(name="card")
@click.argument("manifest", type=FOLDER, default="manifest")
@click.option("--url", help="Where the manifest will be published, for the commands on the card.")
@json_option
def command(manifest: Path, url: str | None, as_json: bool) -> None:
    """Write README.md with pictures of the scores, and croissant.json, into MANIFEST.

    They describe the manifest to people, to the Hugging Face hub and to Croissant readers; its id does not
    change.

    \b
    prune card manifest
    """
    from manifests.card.readme import write_full_card

    paths = write_full_card(manifest, url)
    if as_json:
        echo_json({"path": str(manifest), "files": paths})
        return
    click.echo(f"{manifest}/: {', '.join(paths)}")
