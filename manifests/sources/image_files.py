"""The image files below a folder, and what else lies there."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from manifests.images.decode import is_image
from manifests.sources.read_as import LeftOut
from manifests.sources.tree import Entry, Folder
from manifests.untrusted.rules import path_problem

EXTENSIONS = frozenset(
    (*("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "webp", "tif", "tiff", "ppm", "pgm", "gif"), "avif", "jp2", "j2k")
)
_SYSTEM = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".ipynb_checkpoints")
)
_HEAD_BYTES = 16
_EXTENSION_CHARACTERS = 20


def image_folders(folder: Folder, left_out: LeftOut | None = None) -> list[str]:
    """Return the sorted names of the subfolders that hold an image somewhere; tell of the others in `left_out`."""
    left_out = left_out or LeftOut()
    names = [entry.name for entry in folder.scan() if entry.is_dir()]
    found = []
    for name in sorted(name for name in names if name in _SYSTEM or not name.startswith(".")):
        if name in _SYSTEM:
            left_out.add("folders of the system", name)
        elif not _is_key("", name, left_out):
            continue
        elif next(image_files(folder / name, "", LeftOut()), None) is None:
            left_out.add("folders without images", name)
        else:
            found.append(name)
    return found


def image_files(folder: Folder, prefix: str, left_out: LeftOut, used: Collection[Path] = ()) -> Iterator[str]:
    """Yield the paths of the image files anywhere below `folder`, each after `prefix`, without one stat per file.

    An image is known by the ending of its name, or by its first bytes where the name has no ending. Hidden files are
    skipped; other ones, folders of the system and links to a folder above themselves are told of in `left_out`, except
    files that are `used`, such as the list of labels.
    """
    pending: list[tuple[Folder, str, tuple[str, ...]]] = [(folder, prefix, (os.path.realpath(str(folder)),))]
    while pending:
        current, prefix, trail = pending.pop()
        for entry in current.scan():
            name = entry.name
            dot = name.rfind(".")
            if dot > 0 and name[dot + 1 :].lower() in EXTENSIONS and (entry.is_file() or _dangles(entry, current)):
                if name[0] != "." and (name.isprintable() or _is_key(prefix, name, left_out)):
                    yield prefix + name
            elif name in _SYSTEM:
                left_out.add("folders of the system", prefix + name)
            elif name[0] == ".":
                continue
            elif entry.is_dir():
                below = _below(entry, current, trail)
                if below is None:
                    left_out.add("links to a folder above themselves", prefix + name)
                else:
                    pending.append((current / name, f"{prefix}{name}/", below))
            elif dot < 0 and is_image(current.head(name, _HEAD_BYTES)):
                if _is_key(prefix, name, left_out):
                    yield prefix + name
            elif not any(name == path.name and _is_in(current, path) for path in used):
                _leave_out(name, current, left_out)


def files_beside(folder: Folder, left_out: LeftOut) -> None:
    """Tell of the files beside the class folders in `left_out`."""
    for entry in folder.scan():
        if not entry.name.startswith(".") and not entry.is_dir():
            what = "images" if entry.name.rpartition(".")[2].lower() in EXTENSIONS else "files"
            left_out.add(f"{what} beside the class folders", entry.name)


def loose_images(folder: Folder) -> bool:
    """Return whether a folder holds an image file itself."""
    return any(entry.name.rpartition(".")[2].lower() in EXTENSIONS and not entry.is_dir() for entry in folder.scan())


def _is_key(prefix: str, name: str, left_out: LeftOut) -> bool:
    """Return whether a name may stand in a key; tell of it in `left_out` if not."""
    if name.isprintable() or path_problem(name) is None:
        return True
    shown = (prefix + name).encode(errors="backslashreplace").decode()
    left_out.add("names with control characters or that are not UTF-8", shown)
    return False


def _below(entry: Entry, folder: Folder, trail: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the folders followed to get into a folder; None for a link to one of them or to one above."""
    if not entry.is_symlink():
        return trail
    target, here = os.path.realpath(f"{folder}/{entry.name}"), os.path.realpath(str(folder))
    if any(above == target or above.startswith(target + os.sep) for above in (here, *trail)):
        return None
    return (*trail, target)


def _leave_out(name: str, folder: Folder, left_out: LeftOut) -> None:
    stem, _, extension = name.rpartition(".")
    if stem and extension.lower() in EXTENSIONS:
        left_out.add("pipes, sockets and devices", name)
        return
    kind = f"files ending in .{extension[:_EXTENSION_CHARACTERS].lower()}" if stem else "files without an ending"
    if left_out.add(kind, name) and stem and is_image(folder.head(name, _HEAD_BYTES)):
        left_out.images_by_content.append(kind)


def _is_in(folder: Folder, path: Path) -> bool:
    return folder.disk is not None and os.path.realpath(folder.disk) == os.path.realpath(path.parent)


def _dangles(entry: Entry, folder: Folder) -> bool:
    return entry.is_symlink() and not os.path.exists(f"{folder}/{entry.name}")  # noqa: PTH110 - no Path object per file
