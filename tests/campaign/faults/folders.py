"""Outputs that are already there, or lead elsewhere: files of the user's, links, loops, a file for a folder."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from campaign.checks import problem_of
from campaign.lab import Command, Lab
from campaign.outcomes import Outcome, fault
from campaign.trials import Trial, tried

MINE = b"# Mine\n"
NAMES = (
    "README.md",
    "local.json",
    "train.beton",
    "run.json",
    "student.safetensors",
    "metrics.csv",
    "checkpoint.pt",
    "sweep.json",
    "manifest.json",
    "config.json",
    "samples/part-00000.parquet",
    "notes/mine.txt",
)
REFUSED = (2, 3, 4)
LINKED_FILES = 2
"""Links in place of so many of the files of a result, for each command."""

Put = Callable[[Path, Path], None]
"""Puts something at or around OUT, and where links may lead to: (out, elsewhere)."""


@fault(
    "folders",
    tried="an output that is a folder or file of the user's, a link, a loop of links or below a file, or holds one",
    promise="code 2, 3 or 4 and a sentence; nothing of the user's is changed, and nothing is written through a link",
)
def folders(lab: Lab, generator: Random, _moments: int) -> Iterator[Outcome]:
    """Put each obstacle in the way of each command."""
    trials: list[Trial] = []
    for command in lab.commands:
        made = sorted(lab.made[command.name])
        files = [name for name in made if lab.made[command.name][name] != "folder"]
        if command.makes == "file":
            for name in files:
                trials += _each(lab, command, f"the user's {name}", partial(_put_file, name))
                trials += _each(lab, command, f"{name} is a link to nothing", partial(_link_to_nothing, name))
                trials += _each(lab, command, f"{name} is a link to a file", partial(_link_to_file, name))
                trials += _each(lab, command, f"{name} is a loop", partial(_loop, name))
                trials += _each(lab, command, f"{name} is a folder", partial(_put_file, f"{name}/mine.txt"))
            trials += _each(lab, command, "below a file", _below_a_file)
            continue
        for name in generator.sample([each for each in files if each.startswith("out/")], LINKED_FILES):
            trials += _each(lab, command, f"unfinished, {name} is a link", partial(_unfinished, lab, command, name))
        trials += _each(lab, command, "a loop", partial(_loop, "out"))
        trials += _each(lab, command, "a link to nothing", partial(_link_to_nothing, "out"))
        trials += _each(lab, command, "a file", partial(_put_file, "out"))
        trials += _each(lab, command, "below a file", _below_a_file)
        trials += _each(lab, command, "a link to a folder of the user's", _link_to_folder)
        if command.changes:
            continue
        trials += [
            trial for name in NAMES for trial in _each(lab, command, f"holds {name}", partial(_put_file, f"out/{name}"))
        ]
        top = sorted({name.split("/")[1] for name in made if name.startswith("out/")})
        for name in generator.sample(top, min(len(top), LINKED_FILES)):
            trials += _each(lab, command, f"holds {name}, a link to nothing", partial(_link_to_nothing, f"out/{name}"))
            trials += _each(lab, command, f"holds {name}, a link to a folder", partial(_link_within, f"out/{name}"))
    return tried(lab, trials)


def _each(lab: Lab, command: Command, what: str, put: Put) -> list[Trial]:
    return [(command.name, what, partial(_refused, lab, command, put))]


def _refused(lab: Lab, command: Command, put: Put, folder: str) -> str:
    out = lab.out(f"{folder}/place")
    elsewhere = lab.scratch / folder / "elsewhere"
    elsewhere.mkdir()
    put(out, elsewhere)
    before = _everything(lab.scratch / folder)
    # Commands that write beside a file name it by OUT.
    done = lab.run(command, out / "below" if put is _below_a_file else out)
    if problem := problem_of(done, (0, *REFUSED) if command.tolerates else REFUSED):
        return problem
    after = _everything(lab.scratch / folder)
    if not done.code:
        after = {name: content for name, content in after.items() if name in before}
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return f"changed: {', '.join(changed[:5])}" if changed else ""


def _everything(folder: Path) -> dict[str, object]:
    """Return all that is in a folder, links not followed."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else "folder"
    return found


def _put_file(name: str, out: Path, _elsewhere: Path) -> None:
    path = out.parent / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'{"mine": 1}\n' if path.suffix == ".json" else MINE)


def _link_to_nothing(name: str, out: Path, elsewhere: Path) -> None:
    path = out.parent / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(elsewhere / "nothing")


def _link_to_file(name: str, out: Path, elsewhere: Path) -> None:
    (elsewhere / "mine.txt").write_bytes(MINE)
    (out.parent / name).symlink_to(elsewhere / "mine.txt")


def _loop(name: str, out: Path, _elsewhere: Path) -> None:
    (out.parent / name).symlink_to(name)


def _link_to_folder(out: Path, elsewhere: Path) -> None:
    (elsewhere / "README.md").write_bytes(MINE)
    out.symlink_to(elsewhere)


def _link_within(name: str, out: Path, elsewhere: Path) -> None:
    path = out.parent / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(elsewhere)


def _below_a_file(out: Path, _elsewhere: Path) -> None:
    out.write_bytes(MINE)


def _unfinished(lab: Lab, command: Command, name: str, out: Path, elsewhere: Path) -> None:
    """What a killed command may leave, but one file leads elsewhere."""
    shutil.copytree(lab.undisturbed(command) / "out", out)
    for last in ("manifest.json", "run.json"):
        if not command.changes:
            (out / last).unlink(missing_ok=True)
    path = out.parent / name
    path.unlink(missing_ok=True)
    path.symlink_to(elsewhere / "nothing")
