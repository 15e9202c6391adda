"""`prune push`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manifests.base.files import scratch_folder
from manifests.base.layout import BETON_NAME
from manifests.base.progress import note
from manifests.errors import UsageError
from prune_toolkit.cli.options import FOLDER, echo_next, jobs_option, json_option, manifest_place, timeout_option
from trainer.cli.console import echo_json

if TYPE_CHECKING:
    from manifests.format.header import Header
    from manifests.manifest import Manifest

TELLING = {"logits", "targets"}
"""Tables that suffice to train a copy of the teacher."""
MATCHING = {"features", "logits", "scores", "targets"}
"""Tables whose values can identify a row."""


@click.command(name="push")
@click.argument("manifest", type=manifest_place)
@click.argument("url")
@click.option(
    "--only",
    multiple=True,
    metavar="TABLE",
    help="Send only these tables, as their own manifest: scores, logits, features, targets or thumbnails; repeatable. "
    "Samples, and which of them are kept, are always sent.",
)
@click.option("--with-images", is_flag=True, help="Send train.beton too, unless the data must not be redistributed.")
@click.option(
    "--secret",
    type=FOLDER,
    metavar="FILE",
    help="Replace keys and hashes by HMACs: without FILE, names and files cannot be looked up. Scores stay as they "
    "are: with the teacher, an image can still be recognised by them.",
)
@click.option("--replace", is_flag=True, help="Replace a different manifest at URL.")
@jobs_option
@timeout_option
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
    """Copy MANIFEST to URL: s3://, gs://, hf://datasets/, any other fsspec URL, or a folder.

    Files that are already there are not sent again: run the same command again to resume an interrupted push. The
    header is sent last: until then readers find no manifest. Paths of images on this machine are never sent.

    \b
    prune push manifest s3://bucket/cars
    prune push manifest hf://datasets/team/cars --only scores
    """
    from manifests.card.croissant import url_in
    from manifests.manifest import Manifest
    from manifests.share.transfer import check_images, push
    from manifests.stores.destinations import destination_at

    if with_images and (only or secret is not None):
        flag = "--only" if only else "--secret"
        raise UsageError(
            f"--with-images cannot be used with {flag}: a beton contains the images and targets", hint="leave out one"
        )
    source, destination = Manifest.open(manifest), destination_at(url)
    check_images(source.header, with_images)
    with scratch_folder("prune-push") as scratch:
        sent = _prepared(source, only, secret, scratch)
        _warn(sent.header)
        # A local folder means nothing to others: its card keeps the URL given to `prune card --url`.
        place = url_in(sent.folder) if destination.store.is_local else destination.store.where
        _describe(sent, place, scratch / "cards", with_images)
        moved = push(sent, destination, cards=scratch / "cards", with_images=with_images, replace=replace, jobs=jobs)
    if as_json:
        echo_json(asdict(moved))
        return
    click.echo(f"{moved.where}: {moved.text('sent')}; id {moved.manifest_id[:12]}")
    echo_next("prune", "pull", moved.where, "DIR")


def _prepared(source: "Manifest", only: tuple[str, ...], secret: Path | None, scratch: Path) -> "Manifest":
    """Return what to send: the manifest itself, a part of it, or either with hidden keys."""
    from manifests.hidden.hide import hide
    from manifests.hidden.secret import read_secret
    from manifests.share.transfer import excerpt
    from manifests.tables.thumbnails_table import TABLE as THUMBNAILS

    header = source.header
    if THUMBNAILS in only and secret is not None:
        raise UsageError(
            f"--secret cannot be used with --only {THUMBNAILS}: they show the images", hint="leave out one"
        )
    is_bound = header.data.redistributable is False
    if THUMBNAILS in only and is_bound:
        raise UsageError(f"--only {THUMBNAILS}: the header says images of {header.data.name} must not be redistributed")
    kinds = _kinds(header)
    if not only and secret is None and not source.not_pulled:
        if is_bound and THUMBNAILS in kinds:
            note(f"{THUMBNAILS} are left out: the header says images of {header.data.name} must not be redistributed")
            only = tuple(sorted(kinds - {THUMBNAILS}))
        elif header.hidden is not None and header.file(BETON_NAME) is not None:
            note(f"sent as a part, without {BETON_NAME}: keys are hidden, and its size and sha256 identify the images")
            only = tuple(sorted(kinds))
    if only:
        source = excerpt(source, only, scratch / "part")
    return source if secret is None else hide(source, read_secret(secret), scratch / "hidden")


def _kinds(header: "Header") -> set[str]:
    """Return the kinds of tables in a manifest."""
    from manifests.format.columns import kinds_of

    return kinds_of(header)


def _warn(header: "Header") -> None:
    """Print notes on what its readers can do with the manifest."""
    kinds = _kinds(header)
    if telling := sorted(kinds & TELLING):
        others = "".join(f" --only {kind}" for kind in sorted(kinds - TELLING - {"samples"}))
        note(
            f"anyone who reads this can train a copy of the teacher from its {' and '.join(telling)};"
            f"{others or ' --only samples'} leaves them out"
        )
    if header.hidden is not None and (matching := sorted(kinds & MATCHING)):
        what = " and ".join(matching)
        note(
            f"names and bytes are hidden, but {what} show whether an image is in here, given the image and the teacher"
        )
        note(f"equal {what} still match an open copy of this manifest: do not publish both")


def _describe(manifest: "Manifest", url: str | None, folder: Path, with_images: bool) -> None:
    """Write the card and its pictures into a folder; a README.md that is not a card replaces it."""
    from manifests.card.readme import CARD_NAME, is_card, write_full_card
    from manifests.format.header_file import MAX_HEADER_BYTES

    write_full_card(manifest.folder, url, into=folder, with_images=with_images)
    try:
        text = manifest.store.read(CARD_NAME, MAX_HEADER_BYTES)
    except FileNotFoundError:
        return
    if not is_card(text.decode(errors="replace")):
        note(f"{CARD_NAME} is sent as it is: it was not written by a command")
        (folder / CARD_NAME).write_bytes(text)
