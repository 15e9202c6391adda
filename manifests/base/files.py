"""Atomic files: a reader sees the whole file or none, even if the writer is killed."""

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import IO

from manifests.errors import InputError

CHUNK_BYTES = 1 << 20
_TEMPORARY = re.compile(r"\..+\.(?P<host>[^.]*)\.(?P<pid>[0-9]{1,9})\.tmp", re.DOTALL)
_FOREIGN_AGE_S = 3600


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; on success it is synced and renamed, on failure removed.

    What a killed writer of the same file left there is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left(path)
    temporary = temporary_beside(path)
    # Its name can be guessed, so a link may be there: the file is created again, and no link is followed.
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb", buffering=CHUNK_BYTES) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one step."""
    with atomic_file(path) as stream:
        stream.write(data)


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write several files; none takes its name before all have found room."""
    with ExitStack() as stack:
        for path, data in files.items():
            stream = stack.enter_context(atomic_file(path))
            stream.write(data)
            stream.flush()


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left anywhere below `folder`, but nothing that another rank is writing now.

    Processes on other machines cannot be seen: their files are removed once they are untouched for an hour. What cannot
    be removed stays: it is in nobody's way.
    """
    for path in folder.rglob(".*.tmp"):
        with suppress(OSError):
            if _is_abandoned(path):
                path.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Return whether a file has the name of one that `atomic_file` is writing, or was."""
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Make a folder for this process among the machine's temporary files; first remove those of killed processes."""
    for left in Path(gettempdir()).glob(f".{name}-*.tmp"):
        found = _TEMPORARY.fullmatch(left.name)
        if found is not None and found["host"] == _host() and not _is_alive(int(found["pid"])):
            shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=f".{name}-", suffix=f".{_host()}.{os.getpid()}.tmp") as scratch:
        yield Path(scratch)


def refuse_special(path: Path) -> None:
    """Raise InputError for a pipe, socket or device: opening one waits for a writer, perhaps forever."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(
            f"{path} is not a regular file", hint="a pipe or device cannot be read twice: write a file first"
        )


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link `source` as `target`, or copy it where the file system cannot link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with source.open("rb") as reader, atomic_file(target) as writer:
            shutil.copyfileobj(reader, writer, CHUNK_BYTES)


def _host() -> str:
    return os.uname().nodename.replace(".", "-")


def temporary_beside(path: Path) -> Path:
    """Return the name under which this process makes a file or folder that is then renamed to `path`."""
    return path.with_name(f".{path.name}.{_host()}.{os.getpid()}.tmp")


def remove_left(path: Path) -> None:
    """Remove what killed processes left under their `temporary_beside` of the same path."""
    of_this_file = re.compile(rf"\.{re.escape(path.name)}\.[^.]*\.[0-9]{{1,9}}\.tmp")
    with suppress(OSError), os.scandir(path.parent) as entries:
        for left in [path.with_name(entry.name) for entry in entries if of_this_file.fullmatch(entry.name)]:
            if not _is_abandoned(left):
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if found is None:
        return False
    if found["host"] != _host():
        try:
            return time.time() - path.stat().st_mtime > _FOREIGN_AGE_S
        except FileNotFoundError:
            return False
    return int(found["pid"]) == os.getpid() or not _is_alive(int(found["pid"]))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder; the file itself is synced.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
