"""Weights, checkpoints and runs that lie, or would run code."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from campaign.commands import STUDENT, TEACHER
from campaign.forging import weights
from campaign.forging.tables import FORGES as OF_PARTS
from campaign.lab import Lab
from campaign.outcomes import Outcome, fault
from campaign.received import CODES, Reader, copied, use
from campaign.trials import Trial, tried

PER_MOMENT = 2
TEACHER_FILE, TORCH_FILE = "student.safetensors", "weights.pth"
TOUCHED = "fired"
AS_TEACHER = ("--image-size", "8", *TEACHER[4:])
RECORDED = ("--manifest", "index", "--loss", "ce", "--record-dynamics", "--record-grand", "1", "--val", "val", *STUDENT)
SHORT = ("--manifest", "selection", "--epochs", "1", *STUDENT)
DYNAMICS = (
    "dynamics/dynamics.json",
    "dynamics/epoch-0000/part-00000.parquet",
    "dynamics/epoch-0002/part-00000.parquet",
)
METRICS = ("metrics.csv", "metrics.jsonl")


def _reader(
    name: str, words: tuple[str, ...], program: str = "prune_toolkit", part: int = 1, *, changes: bool = False
) -> Reader:
    return Reader(name, words, ("recorded",), program, part, changes)


READERS: tuple[tuple[Reader, tuple[str, ...]], ...] = (
    (_reader("eval", ("eval", "IN", "--data", "val", "--loader", "torch", "--device", "cpu")),
     (TEACHER_FILE, "run.json", *METRICS)),
    (_reader("eval of a file", ("eval", f"IN/{TEACHER_FILE}", "--data", "val", "--loader", "torch", "--device", "cpu")),
     (TEACHER_FILE,)),
    (_reader("export-model", ("export-model", "IN", "--to", "torchscript", "-o", "OUT.pt"), part=2),
     (TEACHER_FILE, "run.json")),
    (_reader("score --teacher", ("score", "index", "--teacher", f"IN/{TEACHER_FILE}", "-o", "OUT", *AS_TEACHER)),
     (TEACHER_FILE,)),
    (_reader("score --checkpoint", ("score", "index", "--teacher", "resnet8", "--checkpoint", f"IN/{TORCH_FILE}",
             "-o", "OUT", *AS_TEACHER)), (TORCH_FILE,)),
    (_reader("label --teacher", ("label", "selection", "--teacher", f"IN/{TEACHER_FILE}", "--other-teacher",
             "-o", "OUT", *AS_TEACHER)), (TEACHER_FILE,)),
    (_reader("score --dynamics", ("score", "manifest", "--dynamics", "IN", "-o", "OUT")), (*DYNAMICS, "run.json")),
    (_reader("train-student --weights", (*SHORT, "--weights", f"IN/{TORCH_FILE}", "--out", "OUT"), "trainer", 2),
     (TORCH_FILE,)),
    (_reader("train-student --student", (*SHORT, "--student", f"IN/{TEACHER_FILE}", "--out", "OUT"), "trainer", 2),
     (TEACHER_FILE,)),
    (_reader("train-student --teacher", (*SHORT, "--teacher", f"IN/{TEACHER_FILE}", "--out", "OUT"), "trainer", 2),
     (TEACHER_FILE,)),
    (_reader("train-student --match-time", (*SHORT[:2], *STUDENT, "--match-time", "IN", "--out", "OUT"), "trainer", 2),
     ("run.json",)),
    (_reader("train-student, resumed", (*RECORDED, "--epochs", "3", "--out", "IN"), "trainer", 2, changes=True),
     ("checkpoint.pt", "checkpoint.pt", *METRICS, *DYNAMICS, "run.json", TEACHER_FILE, "best.safetensors")),
)  # fmt: skip


@fault(
    "checkpoints",
    tried="safetensors, torch files, checkpoints, dynamics and tables of a run that are cut, flipped, lie in lengths, "
    "shapes, specs and values, or hold a pickle that would make a file",
    promise="the same; no code of theirs is run",
    compares=False,
)
def checkpoints(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Give every reader of networks and runs forged ones."""
    trials: list[Trial] = []
    for reader, names in READERS:
        for _ in range(-(-moments * PER_MOMENT // reader.part)):
            name, seed = generator.choice(names), generator.getrandbits(64)
            row = generator.randrange(1000)
            make = _forges(name, lab.scratch)[row % len(_forges(name, lab.scratch))]
            said = f"{name}, {make.__name__}, seed {seed}"
            trials.append((reader.name, said, partial(_try, lab, reader, name, row, seed)))
    return tried(lab, trials)


def _forges(name: str, tripwire: Path) -> tuple[weights.Forge, ...]:
    of_suffix = {
        ".safetensors": weights.OF_SAFETENSORS,
        ".json": weights.OF_JSON,
        ".jsonl": weights.OF_JSON,
        ".csv": weights.OF_CSV,
        ".parquet": OF_PARTS,
    }
    return of_suffix.get(Path(name).suffix) or weights.of_torch(tripwire)


def _try(lab: Lab, reader: Reader, name: str, row: int, seed: int, folder: str) -> str:
    given, out = copied(lab, "recorded", folder)
    touched = given.parent / TOUCHED
    forges = _forges(name, touched)
    data = weights.as_torch((given / TEACHER_FILE).read_bytes()) if name == TORCH_FILE else (given / name).read_bytes()
    (given / name).write_bytes(forges[row % len(forges)](data, Random(seed)))
    if "resumed" in reader.name and name != "run.json":
        (given / "run.json").unlink()
    problem = use(lab, reader, given, out, CODES)[1]
    return f"code of a stranger was run: {problem}" if touched.exists() else problem
