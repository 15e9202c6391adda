"""Copies of a manifest elsewhere and back: files first, header last, and only the files that are missing.

Until its header is there, readers do not see a manifest. What a killed push or pull has copied is recognised by its
digest and not copied again.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from manifests.base.files import CHUNK_BYTES, link_or_copy
from manifests.base.layout import BETON_NAME, HEADER_NAME
from manifests.base.progress import Progress, format_bytes, note
from manifests.card.readme import CARD_NAME, CROISSANT_NAME, write_card
from manifests.card.score_plots import picture_paths
from manifests.card.text import SEARCH_PICTURE
from manifests.errors import IncompleteError, InputError, UnreachableError, UsageError
from manifests.format.child_header import Making, child_header
from manifests.format.columns import kinds_of
from manifests.format.header import FileEntry, Header
from manifests.format.header_file import header_bytes, parse_header
from manifests.manifest import NOT_PULLED, PULLED_FROM, Manifest, commit, write_local
from manifests.share.overwrite import check_folder, check_links, check_undisturbed, clear, clear_destination
from manifests.stores.destinations import Destination, FolderDestination
from manifests.stores.store import LocalFile, LocalStore, Store, store_of

ALWAYS = ("samples", "selection")
"""Tables without which the others mean nothing."""
WHOLE_BYTES = 64 << 20
"""Files up to this size are copied in one piece."""
_CUT = "leave it out; the recipient can write a beton: prune select --data, or prune cut"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Result of a push or pull."""

    manifest_id: str
    where: str
    copied: int
    """Files that were missing."""
    copied_bytes: int
    there: int
    """Files that were there already."""
    seconds: float

    def text(self, done: str) -> str:
        """Return a summary such as `3 files sent, 1.2 MB, 2 were there`."""
        files = "1 file" if self.copied == 1 else f"{self.copied} files"
        there = f", {self.there} were there" if self.there else ""
        return f"{files} {done}, {format_bytes(self.copied_bytes)}{there}"


def push(
    source: Manifest,
    destination: Destination,
    *,
    cards: Path | None = None,
    with_images: bool = False,
    replace: bool = False,
    jobs: int = 8,
) -> Moved:
    """Copy a manifest of this machine to a destination; `cards` is the folder of its cards, unless they are its own.

    Raises UsageError if images must not be redistributed, MismatchError if another manifest is there and not to be
    replaced, or appears meanwhile, InputError if a file is missing or altered here, or refused there, IncompleteError
    if the connection breaks: the same call resumes.
    """
    start, header = time.monotonic(), source.header
    store, content = LocalStore(source.folder), header_bytes(source.store)
    if parse_header(content, store.name(HEADER_NAME)) != header:
        raise InputError(f"{store.name(HEADER_NAME)} was replaced while it was read", hint="push again")
    beside = store if cards is None else LocalStore(cards)
    if source.not_pulled:
        raise UsageError(
            f"{source.where} lacks its {', '.join(sorted(source.not_pulled))}: they were not pulled",
            hint="pull them first, or push a part: --only samples",
        )
    check_images(header, with_images)
    names: list[tuple[str, str | None]] = [
        (entry.path, entry.sha256) for entry in header.files if with_images or entry.table
    ]
    cards_of_it = (CARD_NAME, CROISSANT_NAME, *picture_paths(source).values(), SEARCH_PICTURE)
    names += [(path, None) for path in cards_of_it if beside.size(path) is not None]
    is_there = clear_destination(destination, header, replace)

    def copy(name: tuple[str, str | None]) -> int | None:
        file = LocalFile.of(beside if name[1] is None else store, *name)
        if destination.holds(file):
            return None
        destination.put(file)
        return file.bytes

    with _resumable():
        destination.begin([path for path, _ in names])
        if destination.is_one_step:
            # `finish` detects what changes from now on; this detects what changed before.
            is_there = clear_destination(destination, header, replace)
        if not is_there:
            clear(destination, names, replace)
        sizes = _in_parallel(copy, names, jobs, f"pushing to {destination.store.where}")
        check_undisturbed(destination, header, is_there)
        message = f"{header.kind} of {header.data.name}, manifest {source.id[:12]}"
        destination.finish(content, message, is_there=is_there)
    return _moved(source.id, destination.store.where, sizes, start)


def pull(
    url: str, folder: Path, *, only: Collection[str] = (), with_images: bool = False, jobs: int = 8
) -> tuple[Manifest, Moved]:
    """Copy a manifest to a folder of this machine, or only its samples and the tables of `only`.

    Raises the errors of `push`, and UsageError for a table that the manifest does not have.
    """
    start, store = time.monotonic(), store_of(url)
    content = header_bytes(store)
    source = Manifest(store, parse_header(content, store.name(HEADER_NAME)))
    header, destination = source.header, FolderDestination(LocalStore(folder))
    check_images(header, with_images)
    is_there = clear_destination(destination, header, replace=False)
    wanted = check_table_kinds(source, only) if only else kinds_of(header)
    if with_images and (header.file(BETON_NAME) is None or store.size(BETON_NAME) is None):
        note(f"{store.where} holds no {BETON_NAME}: it was pushed without --with-images, or never written")
        with_images = False
    entries = [entry for entry in header.files if entry.kind in wanted or (with_images and not entry.table)]

    def copy(entry: FileEntry) -> int | None:
        if destination.store.size(entry.path) == entry.bytes and destination.store.sha256(entry.path) == entry.sha256:
            return None
        _fetch(source, entry, destination)
        return entry.bytes

    if not is_there:
        check_folder(destination, header, store)
        check_links(destination)
    with _resumable():
        folder.mkdir(parents=True, exist_ok=True)
        destination.begin([])
        if not is_there:
            # From now on the folder is marked as a pull of this URL, which the same command resumes.
            write_local(folder, {**Manifest(folder, header).local, PULLED_FROM: store.where})
            clear(destination, [(entry.path, None) for entry in header.files], replace=True)
        sizes = _in_parallel(copy, entries, jobs, f"pulling {store.where}")
        pulled = _remember(folder, header, store, wanted, is_there)
        if not is_there:
            write_card(folder, header, with_images=with_images)
        destination.finish(content, "", is_there=is_there)
    return pulled, _moved(source.id, store.where, sizes, start)


def check_images(header: Header, with_images: bool) -> None:
    """Raise UsageError if images are requested that must not be redistributed."""
    if with_images and header.data.redistributable is False:
        raise UsageError(
            f"--with-images: the header says that the images of {header.data.name} must not be redistributed",
            hint=_CUT,
        )
    if with_images and header.hidden is not None:
        raise UsageError("--with-images: the keys are hidden, but a beton would show the images", hint=_CUT)


def check_table_kinds(manifest: Manifest, only: Collection[str]) -> set[str]:
    """Return the requested kinds of tables, samples and selection. Raises UsageError for one that is not there."""
    has = kinds_of(manifest.header)
    if unknown := sorted(set(only) - has):
        raise UsageError(f"--only {unknown[0]}: {manifest.where} has only {', '.join(sorted(has))}")
    kinds = {*only, *has.intersection(ALWAYS)}
    if left := sorted(kinds & manifest.not_pulled):
        raise UsageError(f"--only {left[0]}: {manifest.where} lacks its {left[0]}", hint="pull them first")
    return kinds


def excerpt(source: Manifest, only: Collection[str], folder: Path) -> Manifest:
    """Write a manifest of samples, selection and the kinds of tables in `only` into `folder`.

    It names the source as its parent and the missing kinds in `left_out`. It has no beton, because that of a selection
    holds targets. Raises UsageError for a kind of table that the source lacks.
    """
    kinds = check_table_kinds(source, only)
    header = source.header
    left_out = kinds_of(header) - kinds | set(header.left_out or ())
    entries = [entry for entry in header.files if entry.kind in kinds]
    for entry in entries:
        with source.store.open(entry.path):
            link_or_copy(source.folder / entry.path, folder / entry.path)
    header = child_header(Making.SENT, header, files=entries, parents=[source.id], left_out=sorted(left_out))
    return commit(folder, header)


def _fetch(source: Manifest, entry: FileEntry, destination: FolderDestination) -> None:
    """Write one file here. Raises InputError if it is not what the header says."""
    altered = InputError(
        f"{source.store.name(entry.path)} was altered: its size or sha256 is not the one the header names",
        hint="whoever pushed it can push it again",
    )
    if entry.bytes <= WHOLE_BYTES:
        data = source.file_bytes(entry)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise altered
        with destination.writer(entry.path) as writer:
            writer.write(data)
        return
    digest, left_bytes = hashlib.sha256(), entry.bytes
    with source.store.open(entry.path) as reader, destination.writer(entry.path) as writer:
        while left_bytes >= 0 and (chunk := reader.read(CHUNK_BYTES)):
            left_bytes -= len(chunk)
            digest.update(chunk)
            writer.write(chunk)
        if left_bytes or digest.hexdigest() != entry.sha256:
            raise altered


def _remember(folder: Path, header: Header, store: Store, wanted: set[str], is_there: bool) -> Manifest:
    """Note in local.json where a manifest came from, and what was not pulled."""
    here = Manifest(folder, header)
    before = here.not_pulled if is_there else kinds_of(header)
    beside: dict[str, Any] = {**here.local, PULLED_FROM: store.where}
    if left := sorted(set(before) - wanted):
        beside[NOT_PULLED] = left
    write_local(folder, beside)
    return Manifest(folder, header)


def _in_parallel(work: Callable[[T], int | None], items: Sequence[T], jobs: int, what: str) -> list[int | None]:
    """Return the results of work in any order; the first error ends it all."""
    results, pool = [], ThreadPoolExecutor(jobs, "copies")
    with Progress(len(items), what, "files") as progress:
        try:
            for future in as_completed([pool.submit(work, item) for item in items]):
                results.append(future.result())
                progress.advance(1)
        except BaseException as error:
            # Who is told to stop does not wait for servers.
            pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
            raise
        pool.shutdown()
    return results


def _moved(manifest_id: str, where: str, sizes: list[int | None], start: float) -> Moved:
    copied = [size for size in sizes if size is not None]
    return Moved(
        manifest_id=manifest_id,
        where=where,
        copied=len(copied),
        copied_bytes=sum(copied),
        there=len(sizes) - len(copied),
        seconds=round(time.monotonic() - start, 3),
    )


@contextmanager
def _resumable() -> Iterator[None]:
    """Turn a broken connection into an IncompleteError: what was copied stays."""
    try:
        yield
    except UnreachableError as error:
        raise IncompleteError(error.message, hint=f"{error.hint}; the same command resumes") from None
