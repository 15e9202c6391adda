"""Headers and local.json with one wrong value, read by every command that reads a manifest."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from campaign.forging.headers import forged
from campaign.lab import Lab
from campaign.outcomes import Outcome, fault
from campaign.received import READERS, Forge, readings

PER_MOMENT = 3
LOCAL = 0.1
"""How often it is not the header, but local.json."""


@fault(
    "headers",
    tried="a header or `local.json` with a wrong value: another type, huge, NaN, empty, long, a path, markup, control "
    "characters",
    promise="code 0, 2, 3 or 4 and a sentence; at most 2 GB of memory, nothing written elsewhere, no manifest after an "
    "error, and a valid one without",
    compares=False,
)
def headers(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Give every reader headers with a wrong value."""
    return readings(lab, READERS, generator, moments * PER_MOMENT, _draw)


def _draw(folder: Path, rng: Random) -> tuple[str, Forge]:
    name = "local.json" if rng.random() < LOCAL and (folder / "local.json").exists() else "manifest.json"
    said, data = forged(json.loads((folder / name).read_bytes()), rng)

    def forge(given: Path) -> None:
        (given / name).write_bytes(data)

    return f"{name}, {said}", forge
