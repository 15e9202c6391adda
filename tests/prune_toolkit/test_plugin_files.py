"""Methods of one's own in a file: --plugin, prune.toml, and the children of a process that loaded one."""

import json
import os
import re
import subprocess
import sys

import pytest

SCORES = """
from prune_toolkit.scoring.logit_scores import score

@score("first_logit", harder="low", formula="z_0", source="mine")
def first_logit(rows):
    return rows.z_nC[:, 0]
"""
PRUNE = (sys.executable, "-m", "prune_toolkit")
TRAIN = (sys.executable, "-m", "trainer")


@pytest.fixture
def run(tmp_path):
    (tmp_path / "mine.py").write_text(SCORES)

    def run(*words, code=0, **environment):
        child = subprocess.run(
            words, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        assert child.returncode == code, child.stderr
        assert "Traceback" not in child.stderr
        return child

    return run


def origins(listed):
    return {entry["name"]: entry.get("from") for entry in json.loads(listed.stdout)}


def test_a_file_brings_a_score(run, tmp_path):
    listed = origins(run(*PRUNE, "--plugin", "mine.py", "list", "scores", "--json"))
    assert re.fullmatch(r"mine\.py [0-9a-f]{12}", listed["first_logit"])
    assert listed["loss"] is None
    (tmp_path / "mine.py").write_text(SCORES.replace("0]", "1]"))
    changed = origins(run(*PRUNE, "--plugin", "mine.py", "--plugin", "./mine.py", "list", "scores", "--json"))
    assert changed["first_logit"] != listed["first_logit"]
    assert "first_logit" not in origins(run(*PRUNE, "list", "scores", "--json"))


def test_prune_toml_may_name_it_and_children_know_it(run, tmp_path):
    known = origins(run(*PRUNE, "list", "scores", "--json", PRUNE_PLUGIN_FILES=str(tmp_path / "mine.py")))
    (tmp_path / "prune.toml").write_text('plugin = "mine.py"\n')
    assert origins(run(*PRUNE, "list", "scores", "--json")) == known
    assert "first_logit" in known


@pytest.mark.parametrize("words", [(*PRUNE, "--plugin", "bad.py", "list"), (*TRAIN, "--plugin", "bad.py")])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "import a_module_that_is_not_there\n",
            "the plug-in bad.py cannot be imported: ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
        ),
        (
            SCORES.replace("first_logit", "loss"),
            "the plug-in bad.py cannot be imported: ValueError: score 'loss' is registered already",
        ),
        (None, "bad.py is not a Python file"),
    ],
)
def test_a_file_that_fails_stops_the_command_and_is_named(run, tmp_path, words, text, reason):
    if text is not None:
        (tmp_path / "bad.py").write_text(text)
    child = run(*words, code=2)
    assert reason in child.stderr
