"""Data sets of pipes, links, bombs and names that break lines; archives, lists and class files that lead elsewhere."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from campaign.commands import STUDENT, TEACHER
from campaign.forging import images as forging
from campaign.lab import Lab
from campaign.outcomes import Outcome, fault
from campaign.received import Reader, use
from campaign.trials import Trial, tried

PER_MOMENT = 1
DATA_BYTES = 5 << 30
"""Documented: a packed archive or idx file may hold 4 GiB in memory."""
SEEN = ("--loader", "torch", "--device", "cpu")
SHORT = ("--manifest", "selection", "--epochs", "1", *STUDENT)


def _reader(name: str, *words: str, program: str = "prune_toolkit", part: int = 1) -> Reader:
    return Reader(name, tuple(" ".join(words).split()), (), program, part)


READERS = (
    _reader("index --beton", "index IN --beton --thumbnails -o OUT"),
    _reader("index --check header", "index IN --check header -o OUT"),
    _reader("score --data", "score --data IN -o OUT", *TEACHER),
    _reader("select --data", "select manifest --keep 0.5 --data IN -o OUT"),
    _reader("select --check pixels", "select manifest --keep 0.5 --data IN --check pixels -o OUT"),
    _reader("verify --data", "verify manifest --data IN"),
    _reader("cut", "cut selection --data IN -o OUT"),
    _reader("label --data", "label selection --data IN --views 2 -o OUT", *TEACHER),
    _reader("export --imagefolder", "export selection --data IN --imagefolder OUT"),
    _reader("suspects --val", "suspects manifest --val IN --out OUT.csv"),
    _reader("eval", "eval recorded --data IN", *SEEN),
    _reader("train-student --val", *SHORT, "--val IN --out OUT", program="trainer", part=2),
)
OTHERS: tuple[tuple[Reader, Callable[[Path, Random], str]], ...] = (
    (_reader("index of an archive", "index FILE --beton -o OUT"), forging.archived),
    (_reader("score of an archive", "score --data FILE -o OUT", *TEACHER), forging.archived),
    (_reader("index of idx files", "index FILE -o OUT"), forging.lying_idx),
    (_reader("index --list", "index IN --list FILE --beton -o OUT"), forging.listed),
    (_reader("index --classes", "index IN --classes FILE -o OUT"), forging.class_file),
    (_reader("eval --classes", "eval recorded --data IN --classes FILE", *SEEN), forging.class_file),
)


@fault(
    "images",
    tried="pipes, sockets, devices, links, bombs, damage and strange names among images; archives and lists that lead "
    "elsewhere; the same in place of `--list` and `--classes`",
    promise="the same; images that cannot be read are counted",
    compares=False,
)
def images(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Give every reader of images forged ones."""
    trials: list[Trial] = []
    for reader in READERS:
        for _ in range(-(-moments * PER_MOMENT // reader.part)):
            make, seed = generator.choice(forging.FORGES), generator.getrandbits(64)
            trials.append((reader.name, f"{make.__name__}, seed {seed}", partial(_images, lab, reader, make, seed)))
    for reader, make_file in OTHERS:
        for _ in range(moments * PER_MOMENT):
            seed = generator.getrandbits(64)
            trials.append((reader.name, f"seed {seed}", partial(_files, lab, reader, make_file, seed)))
    return tried(lab, trials)


def _images(lab: Lab, reader: Reader, make: forging.Forge, seed: int, folder: str) -> str:
    given, out = _copied(lab, folder)
    make(given, Random(seed))
    return use(lab, reader, given, out, data_bytes=DATA_BYTES)[1]


def _files(lab: Lab, reader: Reader, make: Callable[[Path, Random], str], seed: int, folder: str) -> str:
    given, out = _copied(lab, folder)
    file = given.parent / make(given, Random(seed))
    words = tuple(str(file) if word == "FILE" else word for word in reader.words)
    return use(lab, Reader(reader.name, words), given, out, data_bytes=DATA_BYTES)[1]


def _copied(lab: Lab, folder: str) -> tuple[Path, Path]:
    out = lab.out(folder)
    # A name as it is in the lab: manifests tell data by it.
    given = out.parent / "photos"
    shutil.copytree(lab.inputs / "photos", given)
    return given, out
