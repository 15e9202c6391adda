"""Reports take the place of earlier ones, and of nothing else; files that go together appear together."""

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from manifests.base.files import write_atomic, write_together
from manifests.base.reports import check_report, write_listing
from manifests.errors import UsageError


def test_a_report_is_written_over_an_earlier_one_only(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    check_report(path, ["key", "what"])
    path.write_text('"key","what"\n"a","b"\n')
    check_report(path, ["key", "what"])
    for mine in ("", "key\n", "my notes\n", "key,what,more\n"):
        path.write_text(mine)
        with pytest.raises(UsageError, match="already exists"):
            check_report(path, ["key", "what"])
    (tmp_path / "link.csv").symlink_to(path)
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    for place in (tmp_path, tmp_path / "link.csv", tmp_path / "loop.csv", Path(os.devnull)):
        with pytest.raises(UsageError, match="already exists"):
            check_report(place, ["key", "what"])


def test_a_listing_is_written_where_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    write_listing(path, b"a\n")
    write_listing(path, b"a\n")
    with pytest.raises(UsageError, match="already exists"):
        write_listing(path, b"b\n")
    assert path.read_bytes() == b"a\n"


def test_files_that_go_together_are_all_there_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {tmp_path / "a": b"1", tmp_path / "b": b"2"}
    opened = Path.open

    def full(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name.startswith(".b"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space"):
            write_together(files)
    assert not list(tmp_path.iterdir())
    write_together(files)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_file_removes_what_killed_writers_of_the_same_file_left_and_nothing_else(tmp_path: Path) -> None:
    host = os.uname().nodename.replace(".", "-")
    with subprocess.Popen(["true"]) as dead:
        pass
    left = tmp_path / f".a.csv.{host}.{dead.pid}.tmp"
    kept = [
        tmp_path / f".a.csv.{host}.{os.getppid()}.tmp",
        tmp_path / f".a.csv.elsewhere.{dead.pid}.tmp",
        tmp_path / f".a.csv.b.{host}.{dead.pid}.tmp",
        tmp_path / f".b.csv.{host}.{dead.pid}.tmp",
    ]
    for path in (left, *kept):
        path.write_bytes(b"half")
    write_atomic(tmp_path / "a.csv", b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a.csv", *kept])
