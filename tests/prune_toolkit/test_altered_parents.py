"""A manifest written into while a command reads it: the result never names damaged bytes with a hash that fits."""

from pathlib import Path

import made_manifests
import numpy as np
import pytest

from manifests.errors import InputError
from manifests.integrity import verify
from manifests.manifest import Manifest
from manifests.share.transfer import push
from manifests.stores.destinations import destination_at
from prune_toolkit.main import cli
from trainer.cli.console import run_cli

ADD = ["import", "new.csv", "m", "--key", "file", "--score", "hard", "--harder", "high", "-o", "out"]


@pytest.fixture
def scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scores of three images, and a table of new ones for them, in the working directory."""
    monkeypatch.chdir(tmp_path)
    keys = [f"a/{row}.png" for row in range(3)]
    made_manifests.make(tmp_path / "m", keys, [0, 0, 0], classes=["a"], sets={"own": {"easy": np.arange(3.0)}})
    (tmp_path / "new.csv").write_text("file,hard\n" + "".join(f"{key},{row}\n" for row, key in enumerate(keys)))
    return tmp_path


def code(words: list[str]) -> int:
    with pytest.raises(SystemExit) as done:
        run_cli(cli, words)
    return int(done.value.code or 0)


@pytest.mark.parametrize("at", [-40, -6, 100])
def test_a_linked_part_that_is_written_to_is_refused(
    scores: Path, at: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    link_table = Manifest.link_table

    def link_and_write(self: Manifest, table: str, target: Path) -> None:
        link_table(self, table, target)
        part = self.folder / "samples" / "part-00000.parquet"
        if table == "samples":
            with part.open("r+b") as stream:
                stream.seek(part.stat().st_size + at if at < 0 else at)
                stream.write(b"\xff" * 3)

    monkeypatch.setattr(Manifest, "link_table", link_and_write)
    assert code(ADD) == 3
    said = capsys.readouterr().err
    assert "part-00000.parquet" in said
    assert not (scores / "out" / "manifest.json").exists()
    monkeypatch.undo()
    monkeypatch.chdir(scores)
    assert code(ADD) == 3
    assert not verify(scores / "m").ok


@pytest.mark.parametrize(("old", "new"), [(b'"scores"', b'"scor\xff"'), (b'"a"', b'"b"')])
def test_push_sends_no_header_that_was_replaced_meanwhile(scores: Path, old: bytes, new: bytes) -> None:
    source = Manifest.open(scores / "m")
    assert source.header.data.count == 3
    path = scores / "m" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(InputError, match=r"manifest\.json"):
        push(source, destination_at(str(scores / "out")))
    assert not (scores / "out" / "manifest.json").exists()
