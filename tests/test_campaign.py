"""The campaign of faults itself (`make campaign`): it knows every command, and reports each kind of broken promise."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from campaign.checks import not_whole, problem_of, resumes
from campaign.commands import NOT_WRITING, WRITING
from campaign.equal import difference, tree
from campaign.lab import Command, Done, Lab
from campaign.making import empty_lab
from campaign.outcomes import FAULTS, Outcome, fault, table

from prune_toolkit.main import COMMANDS

GOOD = """
import sys
from pathlib import Path
out = Path(sys.argv[1])
out.mkdir(exist_ok=True)
(out / "result").write_text("1")
"""
Fake = Callable[[str], Command]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return empty_lab(tmp_path)


@pytest.fixture
def fake(lab: Lab) -> Fake:
    """A command of some code, which has OUT as its argument and made undisturbed what GOOD makes."""

    def make(code: str) -> Command:
        (lab.inputs / "fake.py").write_text(code)
        lab.made["fake"] = {"out": "folder", "out/result": b"1"}
        return Command("fake", ("OUT",), program="fake")

    return make


def test_every_command_is_in_the_campaign_or_writes_nothing() -> None:
    tried = {command.words[0] for command in WRITING if command.program == "prune_toolkit"}
    assert tried | NOT_WRITING.keys() == set(COMMANDS)
    assert not tried & NOT_WRITING.keys()
    assert {command.program for command in WRITING} == {"prune_toolkit", "trainer"}
    assert len({command.name for command in WRITING}) == len(WRITING)
    assert all(any("OUT" in word for word in command.words) for command in WRITING)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (GOOD, ""),
        (GOOD + "(out / '.result.host.7.tmp').touch()", "left over: out/.result.host.7.tmp"),
        (GOOD + "(out / '.times').mkdir()", "left over: out/.times"),
        (GOOD + "(out / 'result').write_text('2')", "other content: out/result"),
        (GOOD + "(out / 'result').unlink()", "missing: out/result"),
        (GOOD + "(out / 'result').unlink(); (out / 'result').symlink_to('x')", "other content: out/result"),
        (GOOD + "raise ValueError('torn')", "a traceback: ValueError: torn"),
        (GOOD + "print('no'); sys.exit(3)", "code 3, not 0: no"),
    ],
)
def test_a_command_that_does_not_do_as_it_did_undisturbed_is_reported(
    lab: Lab, fake: Fake, code: str, problem: str
) -> None:
    assert resumes(lab, fake(code), lab.out("trial")) == problem


def test_a_command_that_hangs_is_ended_with_what_it_started(lab: Lab, fake: Fake) -> None:
    command = fake("import subprocess, sys\nsubprocess.run(['sleep', '600'])")
    done = lab.start(command, lab.out("trial")).finish(timeout_s=0.5)
    assert (done.hung, done.code) == (True, -signal.SIGKILL)
    assert problem_of(done, {0, -signal.SIGKILL}) == "hung"


def test_an_error_without_a_word_is_reported() -> None:
    assert problem_of(Done(5, " \n", 1.0), {5}) == "code 5 without a word"
    assert problem_of(Done(5, "prune: the disk is full\n", 1.0), {5}) == ""
    assert problem_of(Done(0, "Exception ignored in: <f>\n", 1.0), {0}).startswith("a traceback")


def test_a_header_before_its_files_is_reported(lab: Lab, fake: Fake) -> None:
    command, out = fake(GOOD), lab.out("trial")
    header = b'{"files": [{"path": "result"}], "run": {"seconds": 1}}'
    whole = {"out/manifest.json": {"files": [{"path": "result"}], "run": {}}}
    lab.made["fake"] |= whole
    out.mkdir()
    assert not_whole(lab, command, out) == ""
    (out / "manifest.json").write_bytes(header)
    assert not_whole(lab, command, out) == "out/manifest.json is there, but result is not whole"
    (out / "result").write_bytes(b"1")
    assert not_whole(lab, command, out) == ""
    (out / "manifest.json").write_bytes(header.replace(b"files", b"filed"))
    assert not_whole(lab, command, out) == "out/manifest.json is there, and not the undisturbed one"


def test_times_and_places_do_not_count_and_all_else_does(tmp_path: Path) -> None:
    trees = []
    for name, seconds, epoch in (("a", 1.5, 1), ("b", 2.5, 1), ("c", 1.5, 2)):
        out = tmp_path / name / "out"
        out.mkdir(parents=True)
        (out / "run.json").write_text(f'{{"time": {{"total_s": {seconds}}}, "epoch": {epoch}, "out": "{out}"}}')
        (out / "metrics.csv").write_text(f"epoch,total_s\n{epoch},{seconds}\n")
        trees.append(tree(out))
    assert difference(trees[1], trees[0]) == ""
    assert difference(trees[2], trees[0]) == "other content: out/metrics.csv, out/run.json"


def test_the_table_counts_what_was_tried_and_says_what_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FAULTS, "none", raising=False)
    fault("none", tried="nothing", promise="all is well")(lambda lab, generator, moments: iter(()))
    outcomes = [
        Outcome("a", "1"),
        Outcome("a", "2", "broken"),
        Outcome("b", "1"),
        Outcome("all", "", skipped="needs root"),
    ]
    told = table(("none", outcome) for outcome in outcomes)
    assert told.splitlines()[-1] == "| nothing (skipped: needs root) | 2 | 3 | 2 | all is well |"
    del FAULTS["none"]
