"""`prune pull`."""

from dataclasses import asdict
from pathlib import Path

import click

from prune_toolkit.cli.options import FOLDER, echo_next, jobs_option, json_option, timeout_option
from trainer.cli.console import echo_json


@click.command(name="pull")
@click.argument("url")
@click.argument("folder", type=FOLDER)
@click.option(
    "--only",
    multiple=True,
    metavar="TABLE",
    help="Fetch only these tables: scores, logits, features, targets or thumbnails; repeatable. "
    "Samples, and which of them are kept, are always fetched.",
)
@click.option("--with-images", is_flag=True, help="Fetch train.beton too, if it is there and may be redistributed.")
@jobs_option
@timeout_option
@json_option
def command(url: str, folder: Path, only: tuple[str, ...], with_images: bool, jobs: int, as_json: bool) -> None:
    """Fetch the manifest at URL (s3://, gs://, hf://, http(s)://, any of fsspec, or a path) into FOLDER.

    Every file is checked against the header. Files that are already here are not fetched again: run the same
    command again to resume an interrupted pull, or without --only to fetch the rest.

    \b
    prune pull s3://bucket/cars cars
    prune pull https://example.org/cars cars --only scores
    """
    from manifests.share.transfer import pull

    pulled, moved = pull(url, folder, only=only, with_images=with_images, jobs=jobs)
    if as_json:
        echo_json({**asdict(moved), "path": str(folder), "not_pulled": sorted(pulled.not_pulled)})
        return
    left = f"; not pulled: {', '.join(sorted(pulled.not_pulled))}" if pulled.not_pulled else ""
    click.echo(f"{folder}/: {moved.text('pulled')}; id {moved.manifest_id[:12]}{left}")
    echo_next("prune", "verify", folder, "--data", "DATA")
