"""Betons that lie, through both loaders."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from random import Random

from campaign.commands import STUDENT, TEACHER
from campaign.faults.parts import agree
from campaign.forging.betons import FORGES
from campaign.lab import Lab
from campaign.outcomes import Outcome, fault
from campaign.received import Forge, Reader, readings

PER_MOMENT = 1
AGREES = 0.8
KEPT = ("selection", "rich-selection", "labelled")
INDEXED = ("index", "rich-index")


def _read_by(loader: str, part: int) -> tuple[Reader, ...]:
    teacher = tuple(loader if word == "torch" else word for word in TEACHER)
    student = tuple(loader if word == "torch" else word for word in STUDENT)
    seen = ("eval", "recorded", "--loader", loader, "--device", "cpu", "--data", "IN")
    return (
        Reader(f"score ({loader})", ("score", "IN", "-o", "OUT", *teacher), INDEXED, part=part),
        Reader(f"label ({loader})", ("label", "IN", "--views", "2", "-o", "OUT", *teacher), KEPT, part=part),
        Reader(f"eval ({loader})", seen, (*INDEXED, *KEPT), part=part),
        Reader(f"train-student ({loader})", ("--manifest", "IN", "--epochs", "1", "--out", "OUT", *student), KEPT,
               "trainer", part),
    )  # fmt: skip


PLAIN = (
    Reader("verify", ("verify", "IN"), (*INDEXED, *KEPT)),
    Reader("select", ("select", "IN", "--keep", "0.5", "-o", "OUT"), ("manifest", "rich")),
    Reader("cut", ("cut", "IN", "-o", "OUT"), KEPT),
    Reader("export --imagefolder", ("export", "IN", "--imagefolder", "OUT"), KEPT),
    Reader("index of a beton", ("index", "IN/train.beton", "--beton", "-o", "OUT"), (*INDEXED, *KEPT)),
    Reader("push --with-images", ("push", "IN", "OUT", "--with-images"), KEPT),
    Reader("pull", ("pull", "IN", "OUT"), KEPT),
)


@fault(
    "betons",
    tried="a beton that is cut, flipped, or lies in its header, fields, sizes, pointers or images; mostly with a "
    "header that agrees; through both loaders",
    promise="the same; FFCV never ends the process",
    compares=False,
)
def betons(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Give every reader of images forged betons."""
    readers = PLAIN + _read_by("torch", 1)
    if find_spec("ffcv"):
        readers += _read_by("ffcv", 2)
    else:
        yield Outcome("ffcv", "", skipped="FFCV is not installed")
    yield from readings(lab, readers, generator, moments * PER_MOMENT, _draw)


def _draw(folder: Path, rng: Random) -> tuple[str, Forge]:
    make = rng.choice(FORGES)
    agrees, forgets = rng.random() < AGREES, rng.random() < 0.5
    is_own = (folder / "train.beton").exists()

    def forge(given: Path) -> None:
        local = json.loads((given / "local.json").read_bytes()) if (given / "local.json").exists() else {}
        beton = given / "train.beton" if is_own else given / "far.beton"
        beton.write_bytes(make(beton.read_bytes() if is_own else Path(local["beton"]).read_bytes(), rng))
        if not is_own:
            (given / "local.json").write_text(json.dumps({**local, "beton": str(beton)}))
        elif agrees:
            agree(given, "train.beton")
        if is_own and forgets:
            # Otherwise the images themselves are read where they are known.
            (given / "local.json").unlink(missing_ok=True)

    said = ", the header agrees" * (agrees and is_own) + ", local.json removed" * (forgets and is_own)
    return f"train.beton, {make.__name__}{said}", forge
