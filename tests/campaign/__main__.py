"""Run the campaign: `python -m campaign --seed 0`, with tests/ on the path. Ends with code 1 if a promise was broken."""

import json
import sys
import tempfile
from pathlib import Path
from random import Random

import click

from campaign import faults  # noqa: F401  (each module there registers its faults)
from campaign.making import make_lab
from campaign.outcomes import FAULTS, table

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- campaign: begin -->\n", "<!-- campaign: end -->\n"


@click.command()
@click.option("--seed", default=0, show_default=True, help="Seed of the moments and of the mutations.")
@click.option("--moments", default=15, show_default=True, help="Trials of each fault for each command.")
@click.option("--only", multiple=True, type=click.Choice(sorted(FAULTS)), help="Try these faults; repeatable.")
@click.option("--record", type=click.Path(dir_okay=False), help="Write every trial there, one JSON object per line.")
@click.option("--write-docs", is_flag=True, help="Put the table into docs/reliability.md.")
def main(seed: int, moments: int, only: tuple[str, ...], record: str | None, write_docs: bool) -> None:
    """Try faults against the commands; print each broken promise, and the table of all."""
    found = []
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        lab = make_lab(Path(folder))
        for name in only or FAULTS:
            for outcome in FAULTS[name].trials(lab, Random(f"{seed} {name}"), moments):
                found.append((name, outcome))
                if outcome.problem:
                    print(f"{name}: {outcome.command}, {outcome.moment}: {outcome.problem}", flush=True)
            print(f"{name}: {sum(n == name for n, _ in found)} trials", file=sys.stderr, flush=True)
    if record is not None:
        lines = (json.dumps({"fault": name, **vars(outcome)}) + "\n" for name, outcome in found)
        Path(record).write_text("".join(lines))
    print(table(found))
    if write_docs:
        before, _, rest = DOCS.read_text().partition(BEGIN)
        DOCS.write_text(before + BEGIN + table(found) + "\n" + END + rest.partition(END)[2])
    sys.exit(any(outcome.problem for _, outcome in found))


main()
