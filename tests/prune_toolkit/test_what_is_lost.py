"""What a selection loses without being asked to is told: by hand-worked values, by the command and from Python."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_manifests import content, make, some_logits

import prune_toolkit as pt
from prune_toolkit.quotas.keep import Keep
from prune_toolkit.selection.what_is_lost import classes_line, copies_lines, quota_line

Run = Callable[..., subprocess.CompletedProcess[str]]
TAIL = np.array([120, 60, 30, 15, 8, 4, 3, 2, 1, 1])
"""244 samples; a tenth of them is 24.4, and a tenth of that 2.44 per class."""


def test_a_quota_that_falls_short_is_told_with_both_numbers_and_the_reason() -> None:
    # Eight classes keep 2, two keep their only one: 18 of 244.
    assert quota_line("published", Keep.parse("0.1"), TAIL) == (
        "quota published keeps 18 of 244 samples (7.38 %), not 10 %: no class keeps more than 2, and 2 of 10 classes "
        "have fewer samples; --quota proportional keeps 24"
    )
    # Only rounding: floor(7 / 2 / 2) = 1 of both classes; half of 7, rounded up, is 4.
    assert quota_line("published", Keep.parse("1/2"), np.array([4, 3])) == (
        "quota published keeps 2 of 7 samples (28.57 %), not 50 %: no class keeps more than 1; --quota proportional "
        "keeps 4"
    )
    assert quota_line("published", Keep.parse("1/2"), np.array([6, 6])) is None
    assert quota_line("published", Keep.parse("1"), TAIL) is None
    for quota in ("proportional", "equal", "none"):
        assert quota_line(quota, Keep.parse("0.1"), TAIL) is None


def test_classes_without_samples_are_not_lost() -> None:
    assert classes_line(["a", "b", "c"], np.array([3, 0, 2]), np.array([1, 0, 0])) == (
        "1 of 3 classes keeps nothing: c; see --per-class-min 1"
    )
    assert classes_line(["a", "b"], np.array([3, 0]), np.array([1, 0])) is None


def test_copies_are_counted_by_the_kept_ones() -> None:
    # Contents A A A B B C D D: two of A are kept and one dropped, one of B, both of D.
    first_N = np.array([0, 0, 0, 3, 3, 5, 6, 6])
    keep_N = np.array([1, 1, 0, 1, 0, 1, 1, 1], bool)
    assert copies_lines(keep_N, ~keep_N, first_N) == [
        "kept samples with a dropped exact duplicate: 3; see --without-suspects",
        "kept samples that are exact duplicates of one another: 4; see --without-suspects",
    ]
    # The dropped copy of B could not have been kept.
    dropped_N = ~keep_N & (first_N != 3)
    assert copies_lines(keep_N, dropped_N, first_N)[0].startswith("kept samples with a dropped exact duplicate: 2;")
    assert copies_lines(keep_N, ~keep_N, np.arange(8)) == []


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Eight cats, two of them the same image, and a dog."""
    keys = [f"cat{row}" for row in range(8)] + ["dog"]
    make(tmp_path / "m", keys, [0] * 8 + [1], some_logits(0, 1, 9, 3), contents={"cat1": content("cat0")})
    return tmp_path


LINES = [
    "warning: quota published keeps 2 of 9 samples (22.22 %), not 50 %: no class keeps more than 1, and 1 of 3 "
    "classes have fewer samples; --quota proportional keeps 5",
    "warning: kept samples with a dropped exact duplicate: 1; see --without-suspects",
]


def test_the_command_tells_it_also_before_anything_is_written(manifest: Path, prune: Run) -> None:
    # The one cat that is kept is, at this seed, one of the two that are alike.
    chosen = (
        "select",
        "m",
        "--keep",
        "0.5",
        "--quota",
        "published",
        "--no-beton",
        "--selector",
        "random",
        "--seed",
        "6",
    )
    dry = prune(*chosen, "--dry-run", cwd=manifest)
    assert dry.stderr.splitlines() == LINES
    assert not (manifest / "selection").exists()
    assert prune(*chosen, cwd=manifest).stderr.splitlines() == LINES


def test_python_tells_it_too(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pt.select(manifest / "m", keep="0.3", selector="random", beton=False, out=manifest / "s")
    assert "warning: 1 of 3 classes keeps nothing: dog; see --per-class-min 1" in capsys.readouterr().err.splitlines()


def test_a_small_selection_is_one_step_as_in_training(manifest: Path, prune: Run) -> None:
    asked = ("select", "m", "--keep", "1", "--no-beton", "--dry-run")
    assert "1 steps per epoch at batch size 9" in prune(*asked, cwd=manifest).stdout
    plan = json.loads(prune(*asked, "--json", "--batch-size", "4", cwd=manifest).stdout)
    assert (plan["steps_per_epoch"], plan["batch_size"]) == (2, 4)
