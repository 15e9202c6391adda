"""What is said of the project in more than one place is the same in all of them."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from click.testing import CliRunner

import prune_toolkit
from prune_toolkit.main import cli
from prune_toolkit.work.part_work import tool

ROOT = Path(__file__).resolve().parents[1]


def test_the_version_is_said_once_and_told_everywhere() -> None:
    assert version("prune-toolkit") == prune_toolkit.__version__
    assert CliRunner().invoke(cli, ["--version"]).stdout == f"prune-toolkit {prune_toolkit.__version__}\n"
    assert tool().version == prune_toolkit.__version__
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == prune_toolkit.__version__


def test_make_help_tells_of_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    told = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert phony is not None
    assert [line.split()[1] for line in told.splitlines()] == phony[1].split()
