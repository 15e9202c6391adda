"""Parts that are damaged, or forged by somebody who makes the header agree with them."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from campaign.forging.tables import FORGES
from campaign.lab import Lab
from campaign.outcomes import Outcome, fault
from campaign.received import READERS, Forge, readings

PER_MOMENT = 2
AGREES = 0.75
"""How often the header is made to agree."""
COUNTS = (0, 1, 239, 241, 8192)


@fault(
    "parts",
    tried="a part that is cut, flipped, a bomb, of other columns, types, rows, ids or values; mostly with a header "
    "that agrees",
    promise="the same",
    compares=False,
)
def parts(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Give every reader forged parts."""
    return readings(lab, READERS, generator, moments * PER_MOMENT, _draw)


def _draw(folder: Path, rng: Random) -> tuple[str, Forge]:
    entries = json.loads((folder / "manifest.json").read_bytes())["files"]
    name = rng.choice([entry["path"] for entry in entries if entry["path"].endswith(".parquet")])
    make = rng.choice(FORGES)
    agrees = rng.random() < AGREES
    rows = rng.choice(COUNTS) if agrees and rng.random() < 0.15 else None

    def forge(given: Path) -> None:
        data = make((given / name).read_bytes(), rng)
        (given / name).unlink()
        (given / name).write_bytes(data)
        if agrees:
            agree(given, name, rows)

    return (
        f"{name}, {make.__name__}{', the header agrees' * agrees}{f', {rows} rows' if rows is not None else ''}",
        forge,
    )


def agree(folder: Path, name: str, rows: int | None = None) -> None:
    """Make the header name a file as it is."""
    header = json.loads((folder / "manifest.json").read_bytes())
    data = (folder / name).read_bytes()
    facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} | ({} if rows is None else {"rows": rows})
    header["files"] = [entry | facts if entry["path"] == name else entry for entry in header["files"]]
    (folder / "manifest.json").write_text(json.dumps(header))
