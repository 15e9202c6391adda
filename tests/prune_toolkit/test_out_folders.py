"""Commands and the user's files in the folder that --out names; resumed work and ranks go on as before."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests_support import tree_bytes, write_idx

Run = Callable[..., subprocess.CompletedProcess[str]]
KILL_AT = Path(__file__).parents[1] / "support" / "kill_at.py"
SCORE = ("score", "index", "--teacher", "teachers:linear", "--image-size", 8, "--threads", 1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    """A folder with the data, an index, scores and a selection of 60 random images."""
    folder, generator = tmp_path_factory.mktemp("work"), np.random.default_rng(0)
    write_idx(folder / "digits", generator.integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 10)
    prune("index", "digits", "--beton", "-o", "index", cwd=folder)
    prune(*SCORE, "-o", "scores", cwd=folder)
    prune("select", "scores", "--keep", 0.5, "-o", "selection", cwd=folder)
    prune("split", "scores", "--classes", "0,1,2", "-o", "few", "--rest", "rest", cwd=folder)
    return folder


COMMANDS = {
    "index": ("index", "digits"),
    "score": SCORE,
    "select": ("select", "scores", "--keep", 0.5),
    "label": ("label", "selection", "--teacher", "teachers:linear", "--views", 2),
    "split": ("split", "scores", "--classes", "0,1"),
    "cut": ("cut", "selection", "--data", "digits"),
    "merge": ("merge", "few", "rest"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_writes_over_files_or_through_links(work: Path, tmp_path: Path, prune: Run, name: str) -> None:
    for file in ("README.md", "local.json", "train.beton", "samples/part-00000.parquet"):
        out = tmp_path / file.replace("/", "-")
        (out / file).parent.mkdir(parents=True)
        (out / file).write_text("mine")
        said = prune(*COMMANDS[name], "-o", out, cwd=work, code=2).stderr
        assert f"holds {file}, which is not of an unfinished manifest" in said
        assert tree_bytes(out) == {file: b"mine"}
    out, elsewhere = tmp_path / "linked", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "samples").symlink_to(elsewhere)
    assert "nothing is written through it" in prune(*COMMANDS[name], "-o", out, cwd=work, code=2).stderr
    (tmp_path / "loop").symlink_to("loop")
    assert "a loop of symbolic links" in prune(*COMMANDS[name], "-o", tmp_path / "loop", cwd=work, code=2).stderr
    assert not list(elsewhere.iterdir())


def test_a_killed_command_resumes_and_then_still_minds_links_and_the_users_readme(
    work: Path, tmp_path: Path, prune: Run
) -> None:
    out, words = tmp_path / "out", [str(word) for word in ("select", work / "scores", "--keep", 0.5, "-o")]
    killed = subprocess.run([sys.executable, KILL_AT, "2", *words, out], check=False, capture_output=True)
    assert killed.returncode == -9
    (out / "README.md").write_text("# Mine\n")
    assert "holds README.md" in prune(*words, out, code=2).stderr
    (out / "README.md").unlink()
    (out / "train.beton").symlink_to(tmp_path / "elsewhere")
    assert "train.beton is a symbolic link" in prune(*words, out, code=2).stderr
    (out / "train.beton").unlink()
    (out / ".DS_Store").touch()
    prune(*words, out)
    assert not [*out.rglob("*.tmp")]


def test_a_link_to_a_folder_is_a_place_to_write_to(work: Path, tmp_path: Path, prune: Run) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    prune(*COMMANDS["select"], "-o", tmp_path / "out", cwd=work)
    assert (tmp_path / "disk" / "manifest.json").is_file()
    assert "is finished already" in prune(*COMMANDS["select"], "-o", tmp_path / "out", cwd=work).stderr
