"""`prune push`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune_toolkit.commands.options import FOLDER, MANIFEST, jobs_option, json_option

if TYPE_CHECKING:
    from manifests.manifest import Manifest

TELLING = {"logits", "targets"}
"""Tables a student could be taught with to answer as the teacher does."""
MATCHING = {"features", "logits", "scores", "targets"}
"""Tables whose values tell rows apart."""


@click.command(name="push")
@click.argument("manifest", type=MANIFEST)
@click.argument("url")
@click.option(
    "--only",
    multiple=True,
    metavar="TABLE",
    help="Send these tables as a manifest of their own: scores, logits, features, targets or thumbnails; repeatable. "
    "Samples, and which of them are kept, are always sent.",
)
@click.option("--with-images", is_flag=True, help="Send train.beton too, unless the data may not be passed on.")
@click.option(
    "--secret",
    type=FOLDER,
    metavar="FILE",
    help="Replace keys and hashes by HMACs: who lacks FILE cannot look up a name or an image. Scores stay as they are.",
)
@click.option("--replace", is_flag=True, help="Put it in the place of another manifest that is there.")
@jobs_option
@json_option
def command(
    manifest: Path | str,
    url: str,
    only: tuple[str, ...],
    with_images: bool,
    secret: Path | None,
    replace: bool,
    jobs: int,
    as_json: bool,
) -> None:
    """Copy MANIFEST to URL: s3://, gs://, hf://datasets/, any other of fsspec, or a folder.

    Files that are there already are not sent again, so a push that was interrupted goes on. The header is sent last:
    until then there is no manifest for those who read. Where the images are on this machine is never sent.

    \b
    prune push manifest s3://bucket/cars
    prune push manifest hf://datasets/team/cars --only scores
    """
    from dataclasses import asdict
    from tempfile import TemporaryDirectory

    from manifests.console import echo_json, note
    from manifests.croissant import url_in
    from manifests.errors import UsageError
    from manifests.manifest import BETON_NAME, Manifest
    from manifests.store import RemoteStore
    from manifests.targets import target_of
    from manifests.transfer import kind_of, push

    if with_images and (only or secret is not None):
        flag = "--only" if only else "--secret"
        raise UsageError(f"--with-images and {flag}: a beton shows the images, and holds targets", hint="leave out one")
    source, target = Manifest.open(manifest), target_of(url)
    with TemporaryDirectory(prefix="prune-push-") as scratch:
        sent = _prepared(source, only, secret, Path(scratch))
        kinds = {kind_of(entry) for entry in sent.header.files} - {BETON_NAME}
        if told := sorted(kinds & TELLING):
            others = "".join(f" --only {kind}" for kind in sorted(kinds - TELLING - {"samples"}))
            note(
                f"whoever reads this can train a copy of the teacher from its {' and '.join(told)};"
                f"{others or ' --only samples'} leaves them out"
            )
        if secret is not None and (told := sorted(kinds & MATCHING)):
            note(f"equal {' and '.join(told)} still match an open copy of this manifest: do not publish both")
        # A folder is no place that others know: its card keeps the one that `prune card --url` named.
        _describe(sent, target.store.where if isinstance(target.store, RemoteStore) else url_in(sent.folder))
        moved = push(sent, target, with_images=with_images, replace=replace, jobs=jobs)
    if as_json:
        echo_json(asdict(moved))
        return
    click.echo(f"{moved.where}: {moved.text('sent')}; id {moved.manifest_id[:12]}")
    click.echo(f"next: prune pull {moved.where} DIR")


def _prepared(source: "Manifest", only: tuple[str, ...], secret: Path | None, scratch: Path) -> "Manifest":
    """What is sent: the manifest itself, a part of it, or either with hidden keys."""
    from manifests.excerpt import excerpt
    from manifests.hiding import hide
    from manifests.secret import read_secret

    if only:
        source = excerpt(source, only, scratch / "part")
    return source if secret is None else hide(source, read_secret(secret), scratch / "hidden")


def _describe(manifest: "Manifest", url: str | None) -> None:
    """Write the card with its pictures; a folder that cannot be written to is sent with the card it has."""
    from manifests.card import write_full_card
    from manifests.console import note

    try:
        write_full_card(manifest.folder, url)
    except OSError as error:
        note(f"no new card: {error.strerror or error}")
