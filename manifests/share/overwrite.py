"""Room for a manifest elsewhere or here: what is in its place, whether that may go, and what goes before it comes."""

from collections.abc import Sequence
from pathlib import Path

from manifests.base.layout import HEADER_NAME
from manifests.card.readme import CARD_NAME, CROISSANT_NAME
from manifests.errors import InputError, MismatchError, UnreachableError
from manifests.format.header import Header
from manifests.format.header_file import read_header
from manifests.manifest import Manifest
from manifests.stores.destinations import Destination
from manifests.stores.store import Store
from manifests.untrusted.rules import is_file_of_a_manifest


def clear_destination(destination: Destination, header: Header, replace: bool) -> bool:
    """Whether the manifest's header is there already; of another one, take away the header and then what it names."""
    if destination.store.size(HEADER_NAME) is None:
        return False
    there = _header_of(destination.store)
    if there is not None and there.id == header.id:
        return True
    if not replace:
        raise MismatchError(
            f"{destination.store.where} holds {_told(there)}; this one is {header.id[:12]}",
            hint="name another place" if destination.store.is_local else "name another place, or --replace it",
        )
    destination.remove(HEADER_NAME)
    kept = {entry.path for entry in header.files}
    for entry in there.files if there is not None else ():
        if entry.path not in kept:
            destination.remove(entry.path)
    return False


def check_undisturbed(destination: Destination, header: Header, is_there: bool) -> None:
    """Before the header is put: MismatchError where somebody else put another, or a file, in this place meanwhile."""
    if destination.is_one_step:
        return
    where, hint = destination.store.where, "name another place, or push again when they are done"
    if destination.store.size(HEADER_NAME) is not None:
        there = _header_of(destination.store)
        if there is None or there.id != header.id:
            raise MismatchError(f"{where}: somebody else put {_told(there)} there meanwhile", hint=hint)
    elif is_there:
        raise MismatchError(f"{where}: somebody else took {HEADER_NAME} away meanwhile", hint=hint)
    # Cards are not looked at: two machines write them a little differently, and nothing depends on them.
    if (path := destination.changed([entry.path for entry in header.files])) is not None:
        raise MismatchError(f"{where}: somebody else changed {path} meanwhile", hint=hint)


def _header_of(store: Store) -> Header | None:
    """The header there, None for something that is none."""
    try:
        return read_header(store)
    except UnreachableError:
        raise
    except InputError:
        return None


def _told(there: Header | None) -> str:
    return "something that is no manifest" if there is None else f"another manifest, {there.kind} {there.id[:12]}"


def clear(destination: Destination, names: Sequence[tuple[str, str | None]], replace: bool) -> None:
    """Where no header is, take away what a killed push of something else left: nothing of it is to be read on.

    `names` are the files to come, with the sha256 of those in the header. A folder may be one that a command still
    writes to: MismatchError for what is in the way there, unless `replace`.
    """
    kept = {path for path, _ in names}
    strange = [path for path in destination.listed() if path not in kept and _is_ours(path)]
    if destination.store.is_local and not replace:
        there = set(destination.listed())
        is_begun = any(sha256 and path in there for path, sha256 in names)
        for path, sha256 in names:
            # A card is written anew each day; where nothing else is, it is that of something else.
            if path in there and (not is_begun if sha256 is None else destination.store.sha256(path) != sha256):
                strange.append(path)
        if strange:
            raise MismatchError(
                f"{destination.store.where} holds {strange[0]}, which is of something else that has no {HEADER_NAME}"
                + (f" ({len(strange):,} such files)" if len(strange) > 1 else ""),
                hint="name another place, or --replace it",
            )
    for path in strange:
        destination.remove(path)


def check_folder(folder: Path, header: Header, store: Store) -> None:
    """MismatchError for a folder without header that holds anything but what a pull of this URL left."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    first = next((path for path in found if not path.name.endswith(".tmp")), None)
    if first is None:
        return
    begun = Manifest(folder, header).pulled_from
    if begun is None:
        raise MismatchError(
            f"{folder} holds files ({first.relative_to(folder)}) and no manifest: a pull might overwrite them",
            hint="name another folder, one that is empty or not there",
        )
    if begun != store.where:
        raise MismatchError(
            f"{folder} holds an unfinished pull of {begun}", hint="name another folder, or finish that one"
        )


def _is_ours(path: str) -> bool:
    """Whether a file is one that a push may have left, under its own name or that of a file half sent."""
    folder, slash, name = path.rpartition("/")
    if name.startswith(".") and name.endswith(".tmp"):
        whole = f"{folder}{slash}{name[1:-4]}"
        return whole == HEADER_NAME or _is_ours(whole)
    is_card = path in (CARD_NAME, CROISSANT_NAME) or (folder == "card" and name.endswith(".svg"))
    return is_card or is_file_of_a_manifest(path)
