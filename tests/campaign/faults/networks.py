"""Web servers that lie, and such as say nothing."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from campaign.checks import problem_of
from campaign.commands import STUDENT
from campaign.lab import Command, Done, Lab
from campaign.nursery import DATA_BYTES
from campaign.outcomes import Outcome, fault
from campaign.received import MOST_BYTES, result_problem
from campaign.servers import LYING, SILENT, Answer, serving
from campaign.trials import Trial, tried

PER_MOMENT = 1
SILENT_EVERY = 5
"""One silent server for so many lying ones: whoever meets it waits."""
SECONDS = 60.0
TIMEOUT = ("--timeout", "2")
WORDS: tuple[tuple[str, str, str], ...] = (
    ("show", "show URL/manifest", "prune_toolkit"),
    ("show --json", "show URL/selection --json", "prune_toolkit"),
    ("verify", "verify URL/manifest", "prune_toolkit"),
    ("diff", "diff URL/manifest manifest-2", "prune_toolkit"),
    ("pull", "pull URL/selection OUT --with-images", "prune_toolkit"),
    ("select", "select URL/manifest --keep 0.5 --data photos -o OUT", "prune_toolkit"),
    ("merge", "merge URL/low high -o OUT", "prune_toolkit"),
    ("split", "split URL/manifest --classes cat,dog -o OUT", "prune_toolkit"),
    ("cut", "cut URL/selection --data photos -o OUT", "prune_toolkit"),
    ("export --indices", "export URL/selection --indices OUT.npy", "prune_toolkit"),
    ("suspects", "suspects URL/manifest --out OUT.csv", "prune_toolkit"),
    ("train-student", " ".join(("--manifest URL/selection --epochs 1 --out OUT", *STUDENT)), "trainer"),
)


@fault(
    "networks",
    tried="a web server that lies about lengths, sends other bytes, endless ones, bombs, pages, redirects, resets, "
    "drips or says nothing, for the header or for a part",
    promise="the same, within a minute; what a server sends is taken for whole only if it is",
    compares=False,
)
def networks(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Let every command that reads URLs meet each kind of server."""
    trials: list[Trial] = []
    patient = {name for name, _, program in WORDS if has_timeout(lab, name, program)}
    for name, words, program in WORDS:
        answers = generator.sample(LYING, len(LYING))
        for number in range(moments * PER_MOMENT):
            is_silent = number % SILENT_EVERY == SILENT_EVERY - 1
            if is_silent and name not in patient:
                continue
            answer = generator.choice(SILENT) if is_silent else answers[number % len(answers)]
            lies = generator.choice((_all, _header, _parts, _some))
            said = f"{answer.__name__}, {lies.__name__.lstrip('_')}"
            wait = TIMEOUT if name in patient else ()
            command = Command(name, (*words.split(), *wait), program)
            trials.append((name, said, partial(_meet, lab, command, lies, answer)))
    yield from tried(lab, trials)


def has_timeout(lab: Lab, name: str, program: str) -> bool:
    """Return whether a command has --timeout."""
    words = ("--help",) if program == "trainer" else (name.partition(" ")[0], "--help")
    return TIMEOUT[0] in lab.run(Command(name, words, program), lab.scratch / "none").said


def _meet(lab: Lab, command: Command, lies: Callable[[Path], bool], answer: Answer, folder: str) -> str:
    out = lab.out(folder)
    with serving(lab.inputs, lies, answer) as url:
        words = tuple(word.replace("URL", url) for word in command.words)
        done = lab.start(Command(command.name, words, command.program), out, **{DATA_BYTES: str(MOST_BYTES)}).finish(
            SECONDS
        )
    return (
        problem_of(done, (0, 2, 3, 4, 5) if command.name == "pull" else (0, 2, 3, 4))
        or _of_words(done)
        or result_problem(lab, done, out)
    )


def _of_words(done: Done) -> str:
    if "root:x:0" in done.said:
        return "a file of this machine was read for a server"
    return "printed an escape" if "\x1b" in done.said else ""


def _all(_path: Path) -> bool:
    return True


def _header(path: Path) -> bool:
    return path.name == "manifest.json"


def _parts(path: Path) -> bool:
    return path.name != "manifest.json"


def _some(path: Path) -> bool:
    return len(str(path.relative_to(path.parent.parent))) % 2 == 0
