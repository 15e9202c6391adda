"""Every block of a header against every command that makes a manifest: what is carried over, and what is not."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.errors import UsageError
from manifests.format.child_header import FATES, Blocks, Making, child_header
from manifests.format.dynamics import DynamicsInfo, write_epoch
from manifests.format.header import Header, Hidden
from manifests.integrity import verify
from manifests.manifest import Manifest, commit

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
NETWORKS = """
import torch


def network(num_classes, seed):
    head = torch.nn.Linear(12, num_classes, bias=False)
    head.weight.data = torch.randn(num_classes, 12, generator=torch.Generator().manual_seed(seed))
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), head)


def one(num_classes):
    return network(num_classes, 1)


def two(num_classes):
    return network(num_classes, 2)
"""
ONE, TWO = (("--teacher", f"seam_nets:{name}", "--image-size", 8, "--threads", 1) for name in ("one", "two"))
LATER = {"left_out": ["others"], "later": {"a": 1}, "schema_version": "1.9"}
"""What a part that somebody of a later version pushed would say, too."""
HIDDEN = Hidden(method="hmac-sha256", check="0" * 64)

TABLES = """
block           index  score  dynam. scores subset logits select cut
kind            index  scores scores scores select scores select select
data            new    =      =      =      =      =      =      =
teacher         .      new    =      =      =      new    =      =
compute         .      new    =      =      =      =      =      =
views           .      new    =      =      =      new    =      =
features        .      drop   =      =      drop   .      drop   .
thumbnails      new    =      =      =      =      =      =      =
scores          .      new    +      +      drop   new    drop   .
selection       .      .      .      .      new    .      new    =
labels          .      .      .      .      new    .      new    =
parents         .      new    new    new    new    new    new    new
hidden          .      no     =      no     no     no     =      =
left_out        .      drop   =      =      drop   =      drop   drop
tool            new    new    new    new    new    new    new    new
config          new    new    new    new    new    new    new    new
files           new    new    new    new    new    new    new    new
run             new    new    new    new    new    new    new    new
schema_version  new    new    =      =      new    =      new    new
later           .      drop   =      =      drop   =      drop   drop

block           label  other  split  merge  averag only   secret
kind            select select scores scores scores scores scores
data            =      =      new    new    =      =      new
teacher         =      new    new    new    new    =      =
compute         new    new    =      =      =      =      =
views           new    new    =      =      =      =      =
features        .      .      =      =      drop   =      =
thumbnails      =      =      =      =      =      =      drop
scores          .      new    =      =      new    =      =
selection       =      =      .      .      .      .      .
labels          new    new    .      .      .      .      .
parents         new    new    new    new    new    new    new
hidden          no     no     =      =      =      =      new
left_out        drop   drop   =      =      drop   new    =
tool            new    new    new    new    new    =      =
config          new    new    new    new    new    =      new
files           new    new    new    new    new    new    new
run             new    new    new    new    new    =      new
schema_version  new    new    new    new    new    =      =
later           drop   drop   drop   drop   drop   =      drop
"""
"""=: carried, +: carried, with more; new: made anew; drop: the parent alone has it; .: neither has it; no: hidden
manifests are refused. kind: which it is. `merge` is of shards, `averag` of two teachers, `other` of another teacher;
scores, subset and logits are imported; only and secret are pushed."""
Run = Callable[..., subprocess.CompletedProcess[str]]


def columns(tables: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Each command, and the fate of every block."""
    for table in tables.strip().split("\n\n"):
        (_, *commands), *rows = (line.split() for line in table.splitlines())
        for number, command in enumerate(commands, 1):
            yield command, {row[0]: row[number] for row in rows}


EXPECTED = dict(columns(TABLES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, teachers: Path, prune: Run) -> Path:
    """Images, and manifests that have every block they can have: each open, and with the mark of a hidden one."""
    folder = tmp_path_factory.mktemp("seam")
    (teachers / "seam_nets.py").write_text(NETWORKS)
    shutil.copytree(GOLDEN / "images", folder / "photos")
    (folder / "secret").write_bytes(b"a secret of 24 characters")
    (folder / "secret").chmod(0o600)

    def made(name: str, *words: object) -> None:
        prune(*words, "-o", f"{name}-plain", cwd=folder)
        for variant, hidden in ((name, None), (f"{name}-hidden", HIDDEN)):
            shutil.copytree(folder / f"{name}-plain", folder / variant)
            _say_more(folder / variant, hidden)

    made("index", "index", "photos", "--thumbnails")
    for name, teacher in (("scored", ONE), ("second", TWO)):
        made(name, "score", "index-plain", *teacher, "--features", "--views", 2)
    made("chosen", "select", "scored-plain", "--keep", 0.5, "--policy", "single", "--labels", "raw", "--no-beton")
    for variant in ("", "-hidden"):
        pieces = ("-o", f"red{variant}", "--rest", f"rest{variant}")
        prune("split", f"scored{variant}", "--classes", "a-red", *pieces, cwd=folder)
        for piece in ("red", "rest"):
            _say_more(folder / f"{piece}{variant}", Manifest.open(folder / f"{piece}{variant}").header.hidden)
    prune("push", "chosen-plain", "chosen-sent", "--secret", "secret", cwd=folder)
    _say_more(folder / "chosen-sent", Manifest.open(folder / "chosen-sent").header.hidden)
    keys = Manifest.open(folder / "index").samples(["key"]).column("key").to_pylist()
    (folder / "scores.csv").write_text("key,mine\n" + "".join(f"{key},{row}\n" for row, key in enumerate(keys)))
    np.save(folder / "subset.npy", np.arange(5))
    np.save(folder / "logits.npy", np.random.default_rng(0).normal(0, 3, (len(keys), 3)).astype(np.float32))
    _record(folder / "run", Manifest.open(folder / "scored"))
    return folder


def _say_more(path: Path, hidden: Hidden | None) -> None:
    """Give a manifest what none of its ancestors has, so that it can be told in its children."""
    header = Manifest.open(path).header
    fields: dict[str, Any] = {name: getattr(header, name) for name in Header.model_fields}
    fields |= {"hidden": hidden, "tool": {"name": "another", "version": "9"}, **LATER}
    fields["compute"] = {"device": "elsewhere", "dtype": "float32", "batch_size": 1, "threads": 1, "versions": {}}
    fields["run"] = {**header.run, "note": "of the parent"}
    commit(path, Header(**fields))


def _record(run: Path, manifest: Manifest) -> None:
    ids = np.flatnonzero(manifest.samples().column("problem").is_null().to_numpy(zero_copy_only=False))
    info = DynamicsInfo(
        fingerprint=manifest.header.data.fingerprint,
        manifest=manifest.id,
        count=manifest.header.data.count,
        rows=len(ids),
        student="resnet8",
        seed=0,
        run="0" * 64,
        grand_epochs=0,
        epochs_recorded=1,
    )
    values = {name: np.linspace(0, 1, len(ids), dtype=np.float32) for name in ("p_y", "margin", "el2n")}
    write_epoch(run, info, 0, ids, {**values, "correct": np.ones(len(ids), np.bool_)})


IMPORTED = ("--image-size", 8, "--teacher-name", "theirs")
COMMANDS: dict[str, tuple[list[str], Callable[..., tuple[object, ...]]]] = {
    "index": ([], lambda: ("index", "photos", "--thumbnails")),
    "score": (["scored"], lambda parent: ("score", parent, *TWO, "--views", 3)),
    "dynam.": (["scored"], lambda parent: ("score", parent, "--dynamics", "run")),
    "scores": (["scored"], lambda parent: ("import", "scores.csv", parent, "--key", "key", "--score", "mine",
                                           "--harder", "high")),
    "subset": (["scored"], lambda parent: ("import", "subset.npy", parent, "--indices", "--order", "keys",
                                           "--no-beton")),
    "logits": (["index"], lambda parent: ("import", "logits.npy", parent, "--logits", *IMPORTED)),
    "select": (["scored"], lambda parent: ("select", parent, "--keep", 0.5, "--no-beton")),
    "cut": (["chosen"], lambda parent: ("cut", parent, "--data", "photos")),
    "label": (["chosen"], lambda parent: ("label", parent, *ONE, "--views", 3, "--data", "photos")),
    "other": (["chosen"], lambda parent: ("label", parent, *TWO, "--views", 3, "--data", "photos",
                                          "--other-teacher", "--labels", "raw")),
    "split": (["scored"], lambda parent: ("split", parent, "--classes", "a-red")),
    "merge": (["red", "rest"], lambda *parents: ("merge", *parents)),
    "averag": (["scored", "second"], lambda *parents: ("merge", *parents, "--average", "logits")),
    "only": (["scored"], lambda parent: ("push", parent, "--only", "scores")),
    "secret": (["scored"], lambda parent: ("push", parent, "--secret", "secret")),
}  # fmt: skip
"""The manifests a command is given, and how it is called."""


def fate(block: str, parents: list[Header], child: Header) -> str:
    before = [value for parent in parents if (value := getattr(parent, block, None)) not in (None, [])]
    after = getattr(child, block, None)
    if block == "kind":
        return str(after)[:6]
    if after in (None, []):
        return "drop" if before else "."
    if after in before:
        return "="
    return "+" if block == "scores" and before and after[: len(before[0])] == before[0] else "new"


@pytest.mark.parametrize("command", EXPECTED)
def test_every_command_carries_over_what_the_table_says(command: str, folder: Path, tmp_path: Path, prune: Run) -> None:
    names, words = COMMANDS[command]

    def made(out: Path, *parents: str, code: int = 0, more: tuple[str, ...] = ()) -> str:
        called = words(*parents)
        place = (called[0], called[1], out, *called[2:]) if called[0] == "push" else (*called, "-o", out)
        return prune(*place, *more, cwd=folder, code=code).stderr

    def fates(out: Path, parents: list[str]) -> dict[str, str]:
        assert verify(out).findings == []
        headers, child = [Manifest.open(folder / name).header for name in parents], Manifest.open(out).header
        return {block: fate(block, headers, child) for block in EXPECTED[command]}

    made(tmp_path / "open", *names)
    found = fates(tmp_path / "open", names)
    hidden = ["chosen-sent"] if command == "cut" else [f"{name}-hidden" for name in names]
    if EXPECTED[command]["hidden"] == "no":
        assert "is hidden" in made(tmp_path / "hidden", *hidden, code=UsageError.exit_code)
        found["hidden"] = "no"
    elif command not in ("index", "secret"):
        made(tmp_path / "hidden", *hidden, more=("--secret", "secret") if command == "cut" else ())
        found["hidden"] = fates(tmp_path / "hidden", hidden)["hidden"]
    assert found == EXPECTED[command]


def test_every_block_has_a_fate_and_can_be_made_anew() -> None:
    assert list(FATES) == list(Header.model_fields)
    assert {*Blocks.__annotations__, "schema_version"} == Header.model_fields.keys()
    assert all(fates.keys() == {*Header.model_fields, "later"} for fates in EXPECTED.values())


def test_a_block_that_is_always_made_anew_must_be_given() -> None:
    header = Manifest.open(GOLDEN / "1.3" / "scores").header
    with pytest.raises(KeyError, match="parents"):
        child_header(Making.SENT, header, files=header.files)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3"])
def test_a_version_is_raised_by_new_fields_and_never_lowered(version: str) -> None:
    header = Manifest.open(GOLDEN / version / "scores").header
    own = header.schema_version
    kept = child_header(Making.SENT, header, files=header.files, parents=[])
    assert kept.schema_version == own
    assert child_header(Making.SENT, header, files=[], parents=[], left_out=[]).schema_version == "1.3"
