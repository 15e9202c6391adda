"""Making room for a manifest: what is in its place, whether that may be removed, and what is removed first."""

from collections.abc import Sequence

from manifests.base.layout import HEADER_NAME
from manifests.card.readme import CARD_NAME, CROISSANT_NAME
from manifests.errors import InputError, MismatchError, UnreachableError
from manifests.format.header import Header
from manifests.format.header_file import read_header
from manifests.manifest import Manifest
from manifests.stores.destinations import Destination, FolderDestination
from manifests.stores.store import Store
from manifests.untrusted.rules import is_file_of_a_manifest


def clear_destination(destination: Destination, header: Header, replace: bool) -> bool:
    """Return whether the manifest's header is there already; remove another one's header, then the files it names."""
    if destination.store.size(HEADER_NAME) is None:
        return False
    there = _header_of(destination.store)
    if there is not None and there.id == header.id:
        return True
    if not replace:
        raise MismatchError(
            f"{destination.store.where} holds {_described(there)}; this one is {header.id[:12]}",
            hint="name another place" if destination.store.is_local else "name another place, or add --replace",
        )
    destination.remove(HEADER_NAME)
    kept = {entry.path for entry in header.files}
    for entry in there.files if there is not None else ():
        if entry.path not in kept:
            destination.remove(entry.path)
    return False


def check_undisturbed(destination: Destination, header: Header, is_there: bool) -> None:
    """Check before storing the header. Raises MismatchError if someone else put a header or file here meanwhile."""
    if destination.is_one_step:
        return
    where, hint = destination.store.where, "name another place, or push again when they are done"
    if destination.store.size(HEADER_NAME) is not None:
        there = _header_of(destination.store)
        if there is None or there.id != header.id:
            raise MismatchError(f"{where}: someone else put {_described(there)} there meanwhile", hint=hint)
    elif is_there:
        raise MismatchError(f"{where}: someone else removed {HEADER_NAME} meanwhile", hint=hint)
    # Cards are not compared: two machines write them a little differently, and nothing depends on them.
    if (path := destination.changed([entry.path for entry in header.files])) is not None:
        raise MismatchError(f"{where}: someone else changed {path} meanwhile", hint=hint)


def _header_of(store: Store) -> Header | None:
    """Return the header there; None if it is not a valid one."""
    try:
        return read_header(store)
    except UnreachableError:
        raise
    except InputError:
        return None


def _described(there: Header | None) -> str:
    return "something that is not a manifest" if there is None else f"another manifest, {there.kind} {there.id[:12]}"


def clear(destination: Destination, names: Sequence[tuple[str, str | None]], replace: bool) -> None:
    """Without a header there, remove what a killed push of something else left, so that none of it is reused.

    `names` are the files to come, with the sha256 of those in the header. A command may still be writing to a folder:
    raises MismatchError for what is in the way there, unless `replace`.
    """
    kept = {path for path, _ in names}
    foreign = [path for path in destination.listed() if path not in kept and _is_ours(path)]
    if destination.store.is_local and not replace:
        there = set(destination.listed())
        is_begun = any(sha256 and path in there for path, sha256 in names)
        for path, sha256 in names:
            # A card's bytes change from day to day; one without any other file belongs to something else.
            if path in there and (not is_begun if sha256 is None else destination.store.sha256(path) != sha256):
                foreign.append(path)
        if foreign:
            raise MismatchError(
                f"{destination.store.where} holds {foreign[0]}, which belongs to something else without a {HEADER_NAME}"
                + (f" ({len(foreign):,} such files)" if len(foreign) > 1 else ""),
                hint="name another place, or add --replace",
            )
    for path in foreign:
        destination.remove(path)


def check_folder(destination: FolderDestination, header: Header, store: Store) -> None:
    """Raise MismatchError if a folder without header holds anything but what a pull of this URL left."""
    folder, found = destination.folder, [path for path in destination.listed() if not path.endswith(".tmp")]
    if not found:
        return
    begun = Manifest(folder, header).pulled_from
    if begun is None:
        raise MismatchError(
            f"{folder} holds files ({found[0]}) but no manifest: a pull might overwrite them",
            hint="name a folder that is empty or does not exist",
        )
    if begun != store.where:
        raise MismatchError(
            f"{folder} holds an unfinished pull of {begun}", hint="name another folder, or finish that one"
        )


def check_links(destination: FolderDestination) -> None:
    """Raise InputError for a link in the folder: what is written later would take its place."""
    for path in destination.listed():
        if (destination.folder / path).is_symlink():
            raise InputError(
                f"{destination.folder / path} is a symbolic link: nothing is written through it", hint="remove it"
            )


def _is_ours(path: str) -> bool:
    """Return whether a push may have left this file, under its own name or that of a partial upload."""
    folder, slash, name = path.rpartition("/")
    if name.startswith(".") and name.endswith(".tmp"):
        whole = f"{folder}{slash}{name[1:-4]}"
        return whole == HEADER_NAME or _is_ours(whole)
    is_card = path in (CARD_NAME, CROISSANT_NAME) or (folder == "card" and name.endswith(".svg"))
    return is_card or is_file_of_a_manifest(path)
