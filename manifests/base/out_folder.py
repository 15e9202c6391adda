"""The folder that a command writes to: new, empty, or with unfinished work of the same kind; all else is refused."""

import errno
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from manifests.base.files import is_temporary
from manifests.errors import UsageError

NOT_COUNTED = ("lost+found", "Thumbs.db", "desktop.ini")
"""Names that systems put into folders by themselves, besides hidden ones; no command writes any of them."""
_NAME_ANOTHER = "name an empty folder with --out"


def check_out_folder(out: Path, what: str, folders: Collection[str], of_ours: Callable[[str], bool | None]) -> None:
    """Raise UsageError unless `out` is new, empty or holds unfinished work, and no link in it would be written through.

    what: the work, for messages, such as `manifest`. folders: the names of the folders in it that the work writes.
    of_ours: whether a file, by its path in `out`, is of such work: True if it certainly is, False if it is another
    one's with a name that the work writes, None if its name and content do not tell. One that certainly is makes the
    folder one of unfinished work; then only links and another one's files are in the way. `out` itself may be a link to
    a folder. The folder is not made.
    """
    if not _is_folder(out, what):
        return
    is_begun, others, in_the_way = False, list[str](), list[str]()
    for path, is_link in _files(out, folders):
        if is_link:
            raise UsageError(
                f"{out / path} is a symbolic link: nothing is written through it",
                hint=f"remove the link, or {_NAME_ANOTHER}; {out} itself may be a link",
            )
        found = True if is_temporary(path.rpartition("/")[2]) else of_ours(path)
        if found:
            is_begun = True
        elif found is False:
            in_the_way.append(path)
        elif not _is_not_counted(path):
            others.append(path)
    foreign = sorted(in_the_way if is_begun else [*in_the_way, *others])
    if foreign:
        more = f" and {len(foreign) - 1:,} more" if len(foreign) > 1 else ""
        raise UsageError(
            f"{out} holds {foreign[0]}{more}, which is not of an unfinished {what}: it might be overwritten",
            hint=f"{_NAME_ANOTHER}, or move what is there",
        )


def _is_folder(out: Path, what: str) -> bool:
    """Return whether there is a folder, False if nothing is there; raises UsageError for anything else."""
    try:
        if out.is_dir():
            return True
        out.lstat()
        out.stat()
    except FileNotFoundError:
        if out.is_symlink():
            raise UsageError(f"{out} is a symbolic link to nothing", hint=_NAME_ANOTHER) from None
        return False
    except NotADirectoryError:
        raise UsageError(f"{out} is below a file", hint=_NAME_ANOTHER) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(f"{out} is a loop of symbolic links", hint=_NAME_ANOTHER) from None
        raise
    raise UsageError(f"{out} is a file; the {what} needs a folder", hint="name a folder with --out")


def _files(out: Path, folders: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Yield the path of everything in a folder and whether it is a link; of its own folders, the files in them.

    Those folders are read last: whoever finishes there at this moment had all parts before the files beside them.
    """
    with os.scandir(out) as entries:
        for entry in entries:
            if entry.is_symlink() or entry.name not in folders or not entry.is_dir(follow_symlinks=False):
                yield entry.name, entry.is_symlink()
    pending = [name for name in folders if not (out / name).is_symlink()]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(out / folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(path)
                    else:
                        yield path, entry.is_symlink()
        except (FileNotFoundError, NotADirectoryError):
            # It is not there, another process has just removed it, or it is a file and was named above.
            continue


def _is_not_counted(path: str) -> bool:
    return path in NOT_COUNTED or any(name.startswith(".") for name in path.split("/"))
