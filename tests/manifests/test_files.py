import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests.base.files import (
    atomic_file,
    link_or_copy,
    remove_temporaries,
    scratch_folder,
    sha256_file,
    write_atomic,
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def finished_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def temporary_of(name: str, *, host: str | None = None, pid: int) -> str:
    host = os.uname().nodename.replace(".", "-") if host is None else host
    return f".{name}.{host}.{pid}.tmp"


def test_a_file_is_there_as_a_whole_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "part"
    write_atomic(path, b"content")
    assert path.read_bytes() == b"content"
    assert names(path.parent) == ["part"]


def test_nothing_is_there_while_it_is_written_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "part"
    write_atomic(path, b"old")
    with atomic_file(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"theirs")
    (tmp_path / temporary_of("part", pid=os.getpid())).symlink_to(victim)
    write_atomic(tmp_path / "part", b"ours")
    assert (victim.read_bytes(), (tmp_path / "part").read_bytes()) == (b"theirs", b"ours")
    assert not (tmp_path / "part").is_symlink()


def test_an_exception_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    path = tmp_path / "part"
    write_atomic(path, b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as stream:
        stream.writelines(chunks())
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["part"]


def test_a_full_disk_leaves_the_old_file_and_no_temporary(small_disk: Path) -> None:
    path = small_disk / "part"
    write_atomic(path, b"old" * 1000)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(path, bytes(2 << 20))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old" * 1000
    assert names(small_disk) == ["part"]


def test_a_killed_writer_leaves_the_old_file_and_a_temporary_that_is_removed_later(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "part"
    write_atomic(path, b"old")
    code = (
        "import os, sys; from pathlib import Path; from manifests.base.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as s: s.write(b'half'); s.flush(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    assert path.read_bytes() == b"old"
    assert len(names(path.parent)) == 2
    remove_temporaries(tmp_path)
    assert names(path.parent) == ["part"]


def test_what_a_living_process_writes_is_not_removed(tmp_path: Path) -> None:
    living = tmp_path / temporary_of("manifest.json", pid=os.getppid())
    dead = tmp_path / temporary_of("manifest.json", pid=finished_process())
    own = tmp_path / temporary_of("manifest.json", pid=os.getpid())
    for path in (living, dead, own):
        path.touch()
    remove_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == [living]


def test_another_machines_temporary_goes_when_it_is_old(tmp_path: Path) -> None:
    fresh = tmp_path / temporary_of("part-00000.parquet", host="node-7", pid=12)
    stale = tmp_path / temporary_of("part-00001.parquet", host="node-7", pid=12)
    fresh.touch()
    stale.touch()
    os.utime(stale, (time.time() - 7200,) * 2)
    remove_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == [fresh]


@pytest.mark.parametrize("name", [".notes.tmp", "a.host.12.tmp", ".a.host.x.tmp", "part-00000.parquet"])
def test_files_of_other_programs_are_not_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    remove_temporaries(tmp_path)
    assert (tmp_path / name).exists()


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9999
    (tmp_path / "a").write_bytes(content)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_link_shares_the_bytes(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "deep" / "b"
    source.write_bytes(b"content")
    link_or_copy(source, target)
    assert target.samefile(source)


def test_a_file_is_copied_where_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(bytes(range(256)) * 9999)
    link_or_copy(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert not target.samefile(source)


def test_a_file_system_that_cannot_sync_folders_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def only_files(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    write_atomic(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"


def test_what_killed_processes_left_of_their_scratch_goes_and_that_of_living_ones_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    script = (
        "import os, signal\nfrom manifests.base.files import scratch_folder\n"
        "with scratch_folder('work') as folder:\n"
        " (folder / 'part').mkdir(); (folder / 'part' / 'x').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    (tmp_path / ".work-x.elsewhere.1.tmp").mkdir()
    (tmp_path / f".work-x.{os.uname().nodename.replace('.', '-')}.{os.getppid()}.tmp").mkdir()
    others = set(tmp_path.iterdir()) - {left}
    with scratch_folder("work") as one, scratch_folder("work") as two:
        assert set(tmp_path.iterdir()) == {*others, one, two}
        assert one != two
    assert set(tmp_path.iterdir()) == others
