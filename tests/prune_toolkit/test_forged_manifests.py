"""Commands on manifests that somebody damaged or forged: an exit code of ours every time, and no traceback."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_manifests
import mutating
import numpy as np
import pytest

from prune_toolkit.main import cli
from trainer.cli.console import run_cli

COMMANDS = (
    ["show", "M"],
    ["show", "M", "--json"],
    ["select", "M", "--keep", "0.5", "--no-beton", "-o", "out"],
    ["select", "M", "--keep", "0.5", "--dry-run"],
    ["diff", "M", str(mutating.GOLDEN / "1.2" / "scores")],
    ["card", "M"],
    ["verify", "M"],
    ["pull", "URL", "out"],
)
CODES = {0, 2, 3, 4, 5}


def codes_of(folder: Path, seed: int) -> set[int]:
    """Exit codes of all commands on one forged manifest; another exception than SystemExit is a fault."""
    shutil.rmtree(folder / "m", ignore_errors=True)
    mutating.forge_manifest(folder / "m", random.Random(seed))
    found = set()
    for words in COMMANDS:
        shutil.rmtree(folder / "out", ignore_errors=True)
        places = {"M": str(folder / "m"), "URL": f"file://{folder / 'm'}", "out": str(folder / "out")}
        with pytest.raises(SystemExit) as done:
            run_cli(cli, [places.get(word, word) for word in words])
        found.add(int(done.value.code or 0))
    return found


@pytest.fixture
def checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[range], set[int]]:
    def check(seeds: range) -> set[int]:
        found: set[int] = set()
        for seed in seeds:
            codes = codes_of(tmp_path, seed)
            told: Any = capsys.readouterr()
            assert codes <= CODES, f"seed {seed}"
            assert "\x1b" not in told.out + told.err, f"seed {seed}"
            found |= codes
        assert {path.name for path in tmp_path.iterdir()} <= {"m", "out"}
        return found

    return check


def test_every_command_ends_with_a_code_of_ours(checked: Callable[[range], set[int]]) -> None:
    assert {0, 3} <= checked(range(40))


def test_free_values_of_a_header_are_shown_as_far_as_they_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(mutating.GOLDEN / "1.3" / "selection", tmp_path / "m")
    header = json.loads((tmp_path / "m" / "manifest.json").read_bytes())
    header["labels"]["parameters"]["changed"] = "many"
    header["run"] = {"command": [], "seconds": 1e308, "parent_run": {"command": "score", "seconds": 1e308}}
    (tmp_path / "m" / "manifest.json").write_text(json.dumps(header))
    with pytest.raises(SystemExit) as done:
        run_cli(cli, ["show", str(tmp_path / "m")])
    told = capsys.readouterr().out
    assert done.value.code == 0
    assert "revise, single of view 0" in told
    assert "labels revised" not in told
    assert "took" not in told


def test_scores_that_are_no_numbers_have_no_quartiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [f"a/{row}.png" for row in range(3)]
    values = {"odd": [np.nan, 2.0, np.inf], "none": [np.nan] * 3}
    made_manifests.make(tmp_path / "m", keys, [0, 0, 0], classes=["a"], sets={"imported": values})
    with pytest.raises(SystemExit) as done:
        run_cli(cli, ["show", str(tmp_path / "m")])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("imported/")]
    assert done.value.code == 0
    assert rows == [["imported/odd", "high", *["2"] * 5], ["imported/none", "high", *["-"] * 5]]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_of_them(checked: Callable[[range], set[int]]) -> None:
    checked(range(5_000, 6_000))
