"""Commands that read what somebody sent, and what they promise whatever it is."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

from campaign.checks import problem_of
from campaign.commands import STUDENT, TEACHER
from campaign.lab import Command, Done, Lab
from campaign.nursery import DATA_BYTES
from campaign.outcomes import Outcome
from campaign.trials import Trial, tried

CODES = (0, 2, 3, 4)
DAMAGED = "what was made is damaged: "
MOST_BYTES = 2 << 30
"""Memory that a command may take beside what the process held at its start."""
SECONDS = 90.0
UNPRINTABLE = ("\x1b", "\x9b", "\u202e", "\0", "\x07")
ANY = ("index", "manifest", "rich", "features", "dynamic", "selection", "rich-selection", "labelled")
SCORED = ("manifest", "rich", "features", "dynamic")
SELECTED = ("selection", "rich-selection", "labelled")

Forge = Callable[[Path], None]
"""Changes what lies in a folder, a copy of something of the lab's."""


@dataclass(frozen=True)
class Reader:
    """A command that reads IN, a copy of a folder of the lab that somebody forged."""

    name: str
    words: tuple[str, ...]
    reads: tuple[str, ...] = ("manifest",)
    program: str = "prune_toolkit"
    part: int = 1
    """As of `Command`: it takes longer than others."""
    changes: bool = False
    """It writes into what it reads."""

    def command(self, given: Path) -> Command:
        """Return the command that reads a folder."""
        return Command(self.name, tuple(word.replace("IN", str(given)) for word in self.words), self.program)


def _reader(words: str, reads: tuple[str, ...], *more: str, name: str = "", **facts: object) -> Reader:
    return Reader(name or words.partition(" ")[0], (*words.split(), *more), reads, **facts)  # type: ignore[arg-type]


READERS = (
    _reader("show IN", ANY),
    _reader("show IN --json", ANY, name="show --json"),
    _reader("verify IN", ANY),
    _reader("verify IN --data photos", ANY, name="verify --data"),
    _reader("diff IN manifest", ANY),
    _reader("merge IN high -o OUT", ("low",)),
    _reader("merge IN manifest-2 --average logits -o OUT", ("manifest",), name="merge --average"),
    _reader("split IN --classes cat,dog -o OUT --rest OUT-rest", ("index", *SCORED)),
    _reader("select IN --keep 0.5 -o OUT", SCORED),
    _reader("select IN --keep 0.3 --selector ccs --labels revise --data photos -o OUT", ("manifest", "rich"),
            name="select --data"),
    _reader("select IN --keep 0.5 --without-suspects --no-beton -o OUT", SCORED, name="select --without-suspects"),
    _reader("label IN --views 2 -o OUT", SELECTED, *TEACHER),
    _reader("cut IN --data photos -o OUT", SELECTED),
    _reader("export IN --indices OUT.npy", SELECTED, name="export --indices"),
    _reader("export IN --filelist OUT.txt", SELECTED, name="export --filelist"),
    _reader("export IN --imagefolder OUT", SELECTED, name="export --imagefolder"),
    _reader("card IN", ANY, changes=True),
    _reader("score IN -o OUT", ("index", "manifest"), *TEACHER),
    _reader("score IN --dynamics recorded -o OUT", SCORED, name="score --dynamics"),
    _reader("suspects IN --out OUT.csv", ("index", *SCORED)),
    _reader("push IN OUT", ANY),
    _reader("pull IN OUT", ANY),
    _reader("import scores.csv IN --key file --score hard --harder high -o OUT", ("manifest", "index"),
            name="import scores"),
    _reader("import coreset.npy IN --indices --order keys -o OUT", ("manifest", "index"), name="import --indices"),
    _reader("import logits.npy IN --logits --order keys --teacher-name far --image-size 8 -o OUT", ("index",),
            name="import --logits"),
    _reader("sweep IN --val val --keep 0.5 --select medium --student resnet8 --epochs 1 --dry-run -o OUT", SCORED,
            name="sweep --dry-run"),
    _reader("eval recorded --data IN --loader torch --device cpu", ("index", *SELECTED), name="eval --data", part=2),
    _reader("--manifest IN --epochs 1 --out OUT", SELECTED, *STUDENT, program="trainer", name="train-student", part=2),
)  # fmt: skip


def use(
    lab: Lab,
    reader: Reader,
    given: Path,
    out: Path,
    codes: tuple[int, ...] = CODES,
    data_bytes: int = MOST_BYTES,
) -> tuple[Done, str]:
    """Run a command on what lies at `given`, beside `out`, and return how it ended and what is wrong."""
    before = everything(out.parent)
    running = lab.start(reader.command(given), out, **{DATA_BYTES: str(data_bytes)})
    done = running.finish(SECONDS)
    if problem := problem_of(done, codes):
        return done, problem
    if unprintable := [ascii(each) for each in UNPRINTABLE if each in done.said]:
        return done, f"printed {', '.join(unprintable)}"
    own = ("out", f"{given.name}/") if reader.changes else ("out",)
    after = everything(out.parent)
    changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    if elsewhere := sorted(key for key in changed if not key.startswith(own)):
        return done, f"written elsewhere: {', '.join(elsewhere[:5])}"
    return done, result_problem(lab, done, out, given)


def result_problem(lab: Lab, done: Done, out: Path, given: Path | None = None) -> str:
    """Check that a manifest made is whole, and that there is none after an error.

    Files that were taken over from `given` unchanged, under their own sha256, may be as damaged there as here.
    """
    if not (out / "manifest.json").exists():
        return ""
    if done.code:
        return f"code {done.code}, but a manifest was made: {done.said.strip()[-200:]}"
    found = findings(lab, out)
    if found and given is not None:
        # What the header says of its tables, and what files hold, may be as wrong there.
        known = findings(lab, given)
        found = [each for each in found if each not in known and not _is_taken_over(each["path"], given, out)]
    return f"{DAMAGED}{found[0]['path']} {found[0]['problem']}" if found else ""


def findings(lab: Lab, folder: Path) -> list[dict[str, str]]:
    """Return what `prune verify` finds wrong in a manifest; paths in it are relative."""
    checked = lab.run(Command("verify", ("verify", "OUT", "--json")), folder)
    if checked.code not in (0, 3) or "{" not in checked.said:
        return [{"path": "manifest.json", "problem": f"prune verify: {checked.said.strip()[-200:]}"}]
    text = checked.said[checked.said.index("{") : checked.said.rindex("}") + 1]
    found: list[dict[str, str]] = json.loads(text)["findings"]
    return [each | {"problem": each["problem"].replace(str(folder), "")} for each in found]


def _is_taken_over(path: str, given: Path, out: Path) -> bool:
    """Return whether a file or table is, byte by byte, that of another manifest, and named with the sha256 it has."""
    entries = {entry["path"]: entry["sha256"] for entry in json.loads((out / "manifest.json").read_bytes())["files"]}
    names = [name for name in entries if name == path or name.startswith(f"{path}/")]
    return bool(names) and all(
        (given / name).is_file()
        and (given / name).read_bytes() == (out / name).read_bytes()
        and hashlib.sha256((out / name).read_bytes()).hexdigest() == entries[name]
        for name in names
    )


def everything(folder: Path) -> dict[str, object]:
    """Return size and time of all files below a folder, by name."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        state = path.lstat()
        found[path.relative_to(folder).as_posix()] = "folder" if path.is_dir() else (state.st_size, state.st_mtime_ns)
    return found


def copied(lab: Lab, kind: str, folder: str) -> tuple[Path, Path]:
    """Return (IN, OUT): a copy of a folder of the lab, and a path beside it."""
    out = lab.out(folder)
    given = out.parent / "in"
    shutil.copytree(lab.inputs / kind, given, symlinks=True)
    return given, out


def readings(
    lab: Lab,
    readers: tuple[Reader, ...],
    generator: Random,
    trials: int,
    draw: Callable[[Path, Random], tuple[str, Forge]],
) -> Iterator[Outcome]:
    """Try every reader `trials` times, each time on something else; `draw` returns words and what to do with a copy."""
    drawn: list[Trial] = []
    for reader in readers:
        for _ in range(-(-trials // reader.part)):
            kind = generator.choice(reader.reads)
            said, forge = draw(lab.inputs / kind, Random(generator.getrandbits(64)))
            drawn.append((reader.name, f"{kind}/{said}", partial(_read, lab, reader, kind, forge)))
    return tried(lab, drawn)


def _read(lab: Lab, reader: Reader, kind: str, forge: Forge, folder: str) -> str:
    given, out = copied(lab, kind, folder)
    forge(given)
    return use(lab, reader, given, out)[1]


def through(readers: tuple[Reader, ...], *names: str, **facts: object) -> tuple[Reader, ...]:
    """Return the readers of these names, changed."""
    return tuple(replace(each, **facts) for each in readers if each.name in names)  # type: ignore[arg-type]
