"""Inputs that somebody changes while a command reads them."""

import hashlib
import io
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from campaign.checks import problem_of
from campaign.commands import STUDENT, TEACHER
from campaign.forging.tables import flipped
from campaign.lab import Command, Lab
from campaign.outcomes import Outcome, fault
from campaign.received import DAMAGED, result_problem
from campaign.trials import Trial, tried
from manifests.betons.reader import Beton

PER_MOMENT = 1
SECONDS = 90.0
SIGBUS = "SIGBUS"
CODES = (0, 2, 3, 4)
SEEN = ("--loader", "torch", "--device", "cpu")

Change = Callable[[Path, Random], None]
"""Changes what lies at or below a path."""


def cut_short(path: Path, rng: Random) -> None:
    """Cut a file short where it lies."""
    os.truncate(path, rng.choice([0, path.stat().st_size // 2, path.stat().st_size - 1]))


def overwritten(path: Path, rng: Random) -> None:
    """Write other bytes over a hundred places of a file where it lies."""
    size = path.stat().st_size
    with path.open("r+b") as stream:
        for _ in range(100):
            stream.seek(rng.randrange(size))
            stream.write(rng.randbytes(1))


def replaced(path: Path, rng: Random) -> None:
    """Put another file in the place of one, as `mv` does."""
    new = path.with_name(".new")
    new.write_bytes(flipped(path.read_bytes(), rng))
    new.rename(path)


def removed(path: Path, _rng: Random) -> None:
    """Remove a file."""
    path.unlink()


def on_some(change: Change, pattern: str) -> Change:
    """Return a change of up to forty files of a folder."""

    def changes(folder: Path, rng: Random) -> None:
        files = sorted(folder.rglob(pattern))
        for path in rng.sample(files, min(40, len(files))):
            change(path, rng)

    changes.__name__ = change.__name__
    return changes


def another_image(path: Path, rng: Random) -> None:
    """Put another image that can be read in the place of one."""
    stream = io.BytesIO()
    pixels = np.frombuffer(rng.randbytes(16 * 16 * 3), np.uint8).reshape(16, 16, 3)
    Image.fromarray(pixels).save(stream, "JPEG" if path.suffix == ".jpg" else "PNG")
    new = path.with_name(".new")
    new.write_bytes(stream.getvalue())
    new.rename(path)


def class_removed(folder: Path, rng: Random) -> None:
    """Remove the folder of a class."""
    shutil.rmtree(folder / rng.choice(["cat", "dog", "eel", "fox"]))


def other_places(path: Path, rng: Random) -> None:
    """Let local.json name another data set, or nothing."""
    path.write_bytes(rng.choice([b"", b"{}", b'{"data": "/nowhere"}', b'{"data": "/tmp", "beton": "/dev/null"}']))


FILES: tuple[Change, ...] = (overwritten, replaced, removed)
IMAGES: tuple[Change, ...] = (
    *(on_some(each, "*.*") for each in (overwritten, replaced, removed, cut_short, another_image)),
    class_removed,
)
PARTS: tuple[Change, ...] = tuple(
    on_some(each, "part-*.parquet") for each in (overwritten, replaced, removed, cut_short)
)


@dataclass(frozen=True)
class Reading:
    """A command that reads AT, a folder of copies of the lab's, and what of it is changed."""

    command: Command
    copies: tuple[str, ...]
    changes: Mapping[str, tuple[Change, ...]]
    """By path below AT."""


def _reading(name: str, words: str, copies: str, changes: Mapping[str, tuple[Change, ...]], *more: str, program: str =
             "prune_toolkit") -> Reading:  # fmt: skip
    return Reading(Command(name, (*words.split(), *more), program), tuple(copies.split()), changes)


OF_BETON = {"index/train.beton": FILES}
OF_KEPT = {"selection/train.beton": FILES}
OF_IMAGES = {"photos": IMAGES}
OF_PARTS = {
    "many-manifest": PARTS,
    "many-manifest/manifest.json": FILES,
    "many-manifest/local.json": (other_places, removed),
}
READINGS = (
    _reading("index --beton", "index AT/photos --beton -o OUT", "photos", OF_IMAGES),
    _reading("score --data", "score --data AT/photos -o OUT", "photos", OF_IMAGES, *TEACHER),
    _reading("select --data", "select AT/manifest --data AT/photos --keep 0.5 -o OUT", "manifest photos", OF_IMAGES),
    _reading("cut --data", "cut AT/selection --data AT/photos -o OUT", "selection photos", OF_IMAGES),
    _reading("verify --data", "verify AT/manifest --data AT/photos", "manifest photos", OF_IMAGES),
    _reading("export --imagefolder --copy", "export AT/selection --data AT/photos --imagefolder OUT --copy",
             "selection photos", OF_IMAGES),
    _reading("eval --data", "eval recorded --data AT/photos", "photos", OF_IMAGES, *SEEN),
    _reading("score", "score AT/index -o OUT", "index photos", OF_BETON, *TEACHER),
    _reading("select", "select AT/manifest --keep 0.5 -o OUT", "index manifest photos", OF_BETON),
    _reading("label", "label AT/selection --views 2 -o OUT", "selection index photos", OF_KEPT | OF_BETON, *TEACHER),
    _reading("eval of a beton", "eval recorded --data AT/index", "index", OF_BETON, *SEEN),
    _reading("train-student", "--manifest AT/selection --epochs 3 --out OUT", "selection", OF_KEPT, *STUDENT,
             program="trainer"),
    _reading("select of 3 parts", "select AT/many-manifest --keep 0.5 -o OUT", "many-manifest many-index", OF_PARTS),
    _reading("split of 3 parts", "split AT/many-manifest --classes 0,1 -o OUT", "many-manifest", OF_PARTS),
    _reading("merge of 3 parts", "merge AT/many-low many-high -o OUT", "many-low", {"many-low": PARTS}),
    _reading("label of 3 parts", "label AT/many-selection --views 2 -o OUT", "many-selection many-index",
             {"many-selection": PARTS}, *TEACHER),
    _reading("push of 3 parts", "push AT/many-manifest OUT", "many-manifest", OF_PARTS),
    _reading("pull of 3 parts", "pull AT/many-manifest OUT", "many-manifest", OF_PARTS),
)  # fmt: skip
CUTTING = tuple(
    replace(each, changes=dict.fromkeys(each.changes, (cut_short,)))
    for each in READINGS
    if {*each.changes} <= {*OF_BETON, *OF_KEPT}
)


@fault(
    "changing",
    tried="an input changed at a random moment: images, a beton, a part, a header or `local.json` overwritten, "
    "replaced or removed",
    promise="code 3 or 4 and a sentence, or code 0 and a valid result: every image in it is the one "
    "whose hash it names",
    compares=False,
)
def changing(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Change the inputs of every command that reads for long."""
    return tried(lab, _trials(lab, READINGS, generator, moments * PER_MOMENT))


@fault(
    "cutting",
    tried="a beton cut short where it lies, at a random moment",
    promise="the same; where the cut falls inside an epoch or part, the operating system may end the process (SIGBUS)",
    compares=False,
)
def cutting(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Cut betons short under the commands that map them."""
    for outcome in tried(lab, _trials(lab, CUTTING, generator, moments)):
        is_sigbus = outcome.problem.startswith(SIGBUS)
        yield replace(outcome, problem="", unpromised=SIGBUS) if is_sigbus else outcome


def _trials(lab: Lab, readings: tuple[Reading, ...], generator: Random, count: int) -> Iterator[Trial]:
    for reading in readings:
        takes_s = _undisturbed_s(lab, reading)
        for _ in range(count):
            path = generator.choice(list(reading.changes))
            change = generator.choice(reading.changes[path])
            after_s, seed = generator.uniform(0, takes_s), generator.getrandbits(64)
            trial = partial(_try, lab, reading, path, change, after_s, seed)
            yield reading.command.name, f"{path} {change.__name__} after {after_s:.2f} s, seed {seed}", trial


def _undisturbed_s(lab: Lab, reading: Reading) -> float:
    """Return the seconds that a command takes."""
    out = lab.out("measured")
    done = lab.run(_at(reading, _copied(lab, reading, out)), out)
    problem = problem_of(done, CODES)
    assert not problem, f"{reading.command.name}: {problem}"
    shutil.rmtree(out.parent)
    return done.seconds


def _copied(lab: Lab, reading: Reading, out: Path) -> Path:
    place = out.parent / "at"
    for name in reading.copies:
        shutil.copytree(lab.inputs / name, place / name)
        local = place / name / "local.json"
        if local.exists():
            text = local.read_text()
            for other in reading.copies:
                text = text.replace(f'"{lab.inputs / other}', f'"{place / other}')
            local.write_text(text)
    return place


def _at(reading: Reading, place: Path) -> Command:
    words = tuple(word.replace("AT", str(place)) if word.startswith("AT/") else word for word in reading.command.words)
    return replace(reading.command, words=words)


def _try(lab: Lab, reading: Reading, path: str, change: Change, after_s: float, seed: int, folder: str) -> str:
    out = lab.out(folder)
    place = _copied(lab, reading, out)
    running = lab.start(_at(reading, place), out)
    time.sleep(after_s)
    change(place / path, Random(seed))
    done = running.finish(SECONDS)
    if done.code == -signal.SIGBUS:
        return SIGBUS
    if problem := problem_of(done, CODES) or result_problem(lab, done, out):
        return "" if _is_of_the_parent(problem, out, place) else problem
    images = [lab.inputs / "photos", place / "photos"]
    return "" if done.code else _wrong_images(out, images, of_pixels=path.endswith(".beton"))


def _is_of_the_parent(problem: str, out: Path, place: Path) -> bool:
    """Return whether damage that `prune verify` finds is in a hard link to the parent's file, which was written to."""
    if not problem.startswith(DAMAGED):
        return False
    path = problem.removeprefix(DAMAGED).split(" ")[0]
    return any(other.samefile(out / path) for other in place.glob(f"*/{path}") if (out / path).exists())


def _wrong_images(out: Path, folders: list[Path], *, of_pixels: bool) -> str:
    """Check that every image in a beton made is the one whose content hash the samples name.

    of_pixels: pixels come from a changed beton, where they have no hash to compare.
    """
    if not (out / "train.beton").exists() or not (out / "manifest.json").exists():
        return ""
    if "many" in json.loads((out / "manifest.json").read_bytes())["data"]["name"]:
        return ""
    known = {hash_: pixels for folder in folders if folder.exists() for hash_, pixels in _pixels(folder)}
    samples = pq.read_table(out / "samples").sort_by("sample_id")
    hash_of = dict(zip(samples["sample_id"].to_pylist(), samples["content_hash"].to_pylist(), strict=True))
    beton = Beton.open(out / "train.beton")
    for row, sample_id in enumerate(beton.columns["sample_id"].tolist()):
        wanted = hash_of[sample_id]
        if not beton.modes_N[row]:
            is_right = hashlib.sha256(beton.image_bytes(row).tobytes()).digest()[:16] == wanted
        else:
            is_right = of_pixels or (wanted in known and np.array_equal(known[wanted], beton.pixels(row)))
        if not is_right:
            return f"sample {sample_id} in the beton is another image than the one whose hash is named"
    return ""


def _pixels(folder: Path) -> Iterator[tuple[bytes, NDArray[np.uint8]]]:
    for path in folder.rglob("*.png"):
        try:
            pixels = np.asarray(Image.open(path).convert("RGB"))
        except (OSError, SyntaxError, ValueError):
            continue
        yield hashlib.sha256(path.read_bytes()).digest()[:16], pixels
