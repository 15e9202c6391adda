"""Run the campaign: `python -m campaign --seed 0`, with tests/ on the path. Exit code 1: a broken promise."""

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import click

from campaign import faults  # noqa: F401  (each module there registers its faults)
from campaign.lab import ROOT
from campaign.making import make_lab
from campaign.outcomes import FAULTS, Outcome, table
from campaign.undisturbed import UNDISTURBED

DOCS = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- campaign: begin -->\n", "<!-- campaign: end -->\n"
OWN_MOUNTS = "CAMPAIGN_OWN_MOUNTS"
TELL_S = 20.0
"""Progress is told this often."""


@click.command()
@click.option("--seed", default=0, show_default=True, help="Seed of the moments and of the mutations.")
@click.option("--moments", default=15, show_default=True, help="Trials of each fault for each command.")
@click.option("--only", multiple=True, type=click.Choice(sorted(FAULTS)), help="Try these faults; repeatable.")
@click.option("--command", "commands", multiple=True, help="Try these commands; repeatable.")
@click.option("--jobs", default=len(os.sched_getaffinity(0)), show_default="the cores", help="Trials at a time.")
@click.option("--record", type=click.Path(dir_okay=False), help="Write every trial there, one JSON object per line.")
@click.option("--write-docs", is_flag=True, help="Put the table into docs/reliability.md.")
def main(
    seed: int,
    moments: int,
    only: tuple[str, ...],
    commands: tuple[str, ...],
    jobs: int,
    record: str | None,
    write_docs: bool,
) -> None:
    """Try faults against the commands; print each broken promise, and the table of all."""
    own_mounts()
    # So that the folder is removed then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    found: list[tuple[str, Outcome]] = []
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {what}", file=sys.stderr, flush=True)

    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    try:
        lab = make_lab(folder, jobs=jobs)
        say("the inputs are made")
        lab.commands = tuple(each for each in lab.commands if not commands or each.name in commands)
        before = digest(lab.inputs)
        names = [name for name in only or FAULTS if name != UNDISTURBED]
        if any(FAULTS[name].compares for name in names):
            names.insert(0, UNDISTURBED)
        for name in names:
            told = time.monotonic()
            for outcome in FAULTS[name].trials(lab, Random(f"{seed} {name}"), moments):
                found.append((name, outcome))
                if outcome.problem:
                    print(f"{name}: {outcome.command}, {outcome.moment}: {outcome.problem}", flush=True)
                if time.monotonic() - told > TELL_S:
                    told = time.monotonic()
                    say(f"{name}: {sum(n == name for n, _ in found)} trials, now {outcome.command}")
            say(f"{name}: {sum(n == name for n, _ in found)} trials in all")
        if digest(lab.inputs) != before:
            found.append((name, Outcome("all", "at the end", "the inputs were changed")))
            print("the inputs were changed", flush=True)
    finally:
        if sys.exc_info()[0] is None and any(outcome.problem for _, outcome in found):
            say(f"what broken promises left is in {folder}")
        else:
            shutil.rmtree(folder)
    if record is not None:
        lines = (json.dumps({"fault": name, **vars(outcome)}) + "\n" for name, outcome in found)
        Path(record).write_text("".join(lines))
    print(table(found))
    if write_docs:
        before_, _, rest = DOCS.read_text().partition(BEGIN)
        DOCS.write_text(before_ + BEGIN + table(found) + "\n" + END + rest.partition(END)[2])
    sys.exit(any(outcome.problem for _, outcome in found))


def digest(folder: Path) -> str:
    """Return a digest of all files in a folder, and of their names."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(bytes(path.relative_to(folder)) + b"\0" + (path.read_bytes() if path.is_file() else b""))
    return found.hexdigest()


def own_mounts() -> None:
    """As root, go on in a mount namespace of our own: what faults mount is gone with the campaign, also if killed."""
    unshare = shutil.which("unshare")
    if os.geteuid() or unshare is None or OWN_MOUNTS in os.environ:
        return
    os.environ[OWN_MOUNTS] = "1"
    words = [unshare, "--mount", "--propagation", "private", sys.executable, "-m", "campaign", *sys.argv[1:]]
    os.execv(unshare, words)


if __name__ == "__main__":
    main()
