"""Manifests and betons that somebody damaged or forged, and all that reads them: one error of ours, or a good answer.

python tests/support/mutating.py SEED COUNT FOLDER makes so many and prints the peak memory of the process in MiB.
"""

import hashlib
import io
import json
import random
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import small_beton

from manifests.betons.reader import Beton
from manifests.card.croissant import croissant
from manifests.card.readme import card, write_full_card
from manifests.errors import PruneError
from manifests.integrity import beton_problems, verify
from manifests.manifest import Manifest
from manifests.share.transfer import pull
from prune_toolkit.main import cli
from trainer.cli.console import run_cli

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FOLDERS = sorted(path.parent for path in GOLDEN.glob("*/*/manifest.json"))
EDGE_BYTES = 4096
"""How much of the beginning and the end of a file takes most of the damage: that is where its description is."""
SECONDS = 20
STRANGERS = (
    "local.json", "prune.toml", "README.md", "croissant.json", "manifest.json", "card/teacher.svg", "samples/x.parquet",
    "samples/part-00000.parquet.exe", "../up.parquet", "samples/../../up/part-00000.parquet",
)  # fmt: skip
"""Files that no header names, and that a pull must not bring."""
LINKS = ("card", "README.md", "local.json", "samples", "samples/part-00000.parquet", "train.beton")
EVIL = b'{"data": "/etc", "beton": "/etc/passwd"}'
REVISED = {
    "transform": "revise",
    "parameters": {"eta": 0.8, "scope": "all", "changed": 6, "wrong": 2, "loss": {"alpha": 0.5}},
}
NASTY: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, "", "..", "../../x", "/etc/passwd", "C:\\x",
    "a\0b", "\x1b[2J", "\u202e", "\ud800", "x" * 5000, "999999999.9", "2.0", [], {}, [[]], {"a": {}}, [1] * 50,
]  # fmt: skip


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes with one to four things done to them."""
    content = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        near = rng.choice([0, max(0, len(content) - EDGE_BYTES), rng.randrange(len(content) + 1)])
        at = min(near + rng.randrange(EDGE_BYTES), max(0, len(content) - 1))
        length = rng.choice([1, 2, 4, 8, 64, 1000])
        match rng.randrange(6):
            case 0 if content:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                del content[rng.randrange(len(content) + 1) :]
            case 2:
                content[at : at + length] = rng.randbytes(length)
            case 3:
                del content[at : at + length]
            case 4:
                content[at:at] = content[at : at + length]
            case _:
                content[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, b"\xff" * 7 + b"\x7f", b"\x80" * 8])
    return bytes(content)


def forged(header: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A header with one to three values replaced, removed, or put elsewhere."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        holder: Any = header
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.8:
                holder = holder[key]
                continue
            match rng.randrange(4):
                case 0:
                    del holder[key]
                case 1 if isinstance(holder, list):
                    holder.extend([holder[key]] * 2)
                case _:
                    holder[key] = rng.choice(NASTY)
            break
    return header


@cache
def bombs() -> list[bytes]:
    """Parts of a few kilobytes that would take gigabytes: vectors that are null, and one long text in all rows."""
    vectors = pa.concat_tables([pa.table({"logits": pa.nulls(16, pa.list_(pa.float16(), 60_000))})] * 512)
    text = pa.DictionaryArray.from_arrays(np.zeros(8192, np.int32), ["x" * 50_000])
    texts = pa.table(dict.fromkeys(("key", "problem", "reason"), text))
    sinks = [io.BytesIO(), io.BytesIO()]
    for sink, table in zip(sinks, (vectors, texts), strict=True):
        # Without Arrow's schema texts are texts, whatever they were.
        pq.write_table(table, sink, store_schema=table is vectors)
    return [sink.getvalue() for sink in sinks]


def forge_manifest(folder: Path, rng: random.Random) -> None:
    """Make `folder` a golden manifest with its header, its files or one of its parts mutated.

    A link in it leads to `outside` beside it.
    """
    shutil.copytree(rng.choice(FOLDERS), folder)
    path = folder / "manifest.json"
    header = json.loads(path.read_bytes())
    if header.get("labels") and rng.random() < 0.5:
        header["labels"] |= REVISED
        path.write_text(json.dumps(header))
    entry = rng.choice(header["files"])
    match rng.randrange(8):
        case 0:
            path.write_bytes(damaged(path.read_bytes(), rng))
            return
        case 1:
            path.write_bytes(json.dumps(forged(header, rng)).encode(errors="surrogatepass"))
            return
        case 2:
            (folder / entry["path"]).write_bytes(damaged((folder / entry["path"]).read_bytes(), rng))
            if rng.random() < 0.2:
                return
        case 3:
            (folder / entry["path"]).write_bytes(rng.choice(bombs()))
            entry["rows"] = 8192
        case 4:
            name = rng.choice([*STRANGERS, entry["path"]])
            header["files"].append({**entry, "path": name, "bytes": len(EVIL), "sha256": sha256(EVIL)})
            if name not in ("manifest.json", entry["path"]) and ".." not in name:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(EVIL)
        case 5:
            name = rng.choice(LINKS)
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            (folder / name).unlink(missing_ok=True)
            outside = folder.parent / "outside"
            (folder / name).symlink_to(outside if name in ("card", "samples") else outside / "file")
            return
        case _:
            other = rng.choice(header["files"])
            (folder / entry["path"]).write_bytes((folder / other["path"]).read_bytes())
    # Whoever forges a part makes the header agree with it.
    data = (folder / entry["path"]).read_bytes()
    entry |= {"bytes": len(data), "sha256": sha256(data)}
    if rng.random() < 0.2:
        entry["rows"] = rng.choice([0, 1, 12, 8192])
    path.write_text(json.dumps(header))


def use_manifest(folder: Path, rng: random.Random) -> int:
    """Read all there is to read; returns how many tables could be read. Anything but a PruneError is a fault.

    What is pulled goes into `pulled` beside the folder.
    """
    verified = _attempt(lambda: verify(folder))
    manifest = _attempt(lambda: Manifest.open(folder))
    if manifest is None:
        return 0
    # Of files verify tells what is wrong; only a local.json that cannot be read ends it.
    assert verified is not None or (folder / "local.json").exists()
    header = manifest.header
    card(header)
    json.dumps(croissant(header, date="2026-01-01"))
    views = range(min(3, header.views.count if header.views is not None else 1))
    uses: list[Callable[[], Any]] = [
        manifest.samples,
        manifest.selection,
        *(lambda name=name: manifest.scores(name) for name in {spec.set for spec in header.scores}),
        *(lambda kind=kind, view=view: list(manifest.soft_labels(kind, view)) for kind in KINDS for view in views),
        lambda: list(manifest.logits()),
        lambda: list(manifest.features()),
    ]
    read = sum(_attempt(use) is not None for use in uses)
    if rng.random() < 0.02 or (folder / "card").is_symlink():
        _attempt(lambda: write_full_card(folder))
    if rng.random() < 0.5:
        # By its path, and as if it were on another machine.
        url = rng.choice([str(folder), f"file://{folder}", f"local://{folder}"])
        _attempt(lambda: pull(url, folder.parent / "pulled"))
        check_pulled(folder.parent / "pulled", url)
    if rng.random() < 0.25:
        use_command("select", str(folder), "--keep", "0.5", "--dry-run")
        use_command("cut", str(folder), "--data", str(GOLDEN / "images"), "--dry-run")
    return read


def use_command(*words: str) -> int:
    """Exit code of a command; a fault is any other exception, and a code that is none of ours."""
    code: Any = None
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as told:
        try:
            run_cli(cli, list(words))
        except SystemExit as done:
            code = done.code
    assert code in (0, 2, 3, 4, 5), told.getvalue()
    return int(code)


def check_pulled(folder: Path, url: str) -> None:
    """AssertionError for a file that is none of a manifest, and where somebody else says where the images are."""
    for path in folder.rglob("*"):
        assert not path.is_symlink()
        name = path.relative_to(folder).as_posix()
        known = name in ("manifest.json", "README.md", "local.json") or name.endswith(".parquet")
        assert path.is_dir() or known, f"{name} was pulled"
        assert path.is_dir() or path.read_bytes() != EVIL, f"{name} is what somebody else wrote"
    if (folder / "local.json").exists():
        assert json.loads((folder / "local.json").read_bytes()).keys() <= {"pulled_from", "not_pulled"}


KINDS = ("logits", "targets")


def use_beton(path: Path) -> int:
    """Read a beton to its last pixel; returns 1 where it could be opened."""
    beton = _attempt(lambda: Beton.open(path))
    if beton is None:
        return 0
    list(beton_problems(beton))
    for row in range(beton.count):
        _attempt(lambda row=row: beton.pixels(row))
    if beton.view_count:
        beton.targets(beton.allocations["sample_id"][:1].astype("int64") * 0)
    return 1


def _attempt(use: Callable[[], Any]) -> Any:
    try:
        return use()
    except PruneError as error:
        if error.exit_code == 1 or not str(error):
            raise
        return None


def one(seed: int, folder: Path, beton: bytes) -> int:
    """One mutation of one thing, made in `folder`, which is empty again afterwards; returns what could be read.

    AssertionError where something was written beside it.
    """
    rng = random.Random(seed)
    place, outside = folder / "m", folder / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "file").write_text("{}")
    try:
        return _used(place, rng, beton)
    finally:
        for used in (place, folder / "pulled"):
            shutil.rmtree(used, ignore_errors=True)
        assert {path.name for path in folder.iterdir()} <= {"outside", "last"}
        names = [path.name for path in outside.iterdir()]
        assert names == ["file"], f"written through a link: {names}"
        assert (outside / "file").read_text() == "{}"


def _used(place: Path, rng: random.Random, beton: bytes) -> int:
    if rng.random() < 0.25:
        place.mkdir()
        (place / "train.beton").write_bytes(damaged(beton, rng))
        return use_beton(place / "train.beton")
    forge_manifest(place, rng)
    return use_manifest(place, rng)


def main(seed: int, count: int, folder: Path) -> None:
    def give_up(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, give_up)
    beton = small_beton.write(folder / "whole.beton").read_bytes()
    (folder / "whole.beton").unlink()
    read = 0
    for number in range(seed, seed + count):
        (folder / "last").write_text(str(number))
        signal.alarm(SECONDS)
        try:
            read += one(number, folder, beton) > 0
        except BaseException as error:
            error.add_note(f"mutation {number}")
            raise
        signal.alarm(0)
    (folder / "last").unlink()
    # Not ru_maxrss: a process inherits it from the one that started it.
    peak_mib = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) >> 10
    sys.stdout.write(json.dumps({"read": read, "peak_mib": peak_mib}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
