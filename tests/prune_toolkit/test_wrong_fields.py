"""Wrong values in the fields of a header: every command refuses them with a code of ours, and takes no memory first."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from mutating import GOLDEN, sha256
from wrong_values import REFUSED, SHOWN

from manifests.errors import InputError
from prune_toolkit.main import cli
from trainer.cli.console import run_cli
from trainer.cli.train_student import train_student
from trainer.models.weights import STUDENT_KEYS, read_student_info

TEACHER = ("--teacher", "colour_teacher:colours", "--device", "cpu")
MOST_BYTES = 8 << 30
COMMANDS = {
    "index": [
        ("show", "M"), ("verify", "M"), ("card", "M"), ("diff", "M", "OTHER"), ("eval", *TEACHER[1:], "--data", "M"),
        ("score", "M", *TEACHER, "-o", "OUT", "--dry-run"), ("train", "M"),
    ],
    "scores": [
        ("show", "M"), ("verify", "M"), ("card", "M"), ("diff", "M", "OTHER"), ("merge", "M", "OTHER", "-o", "OUT"),
        ("select", "M", "--keep", "0.5", "--labels", "reshape", "--no-beton", "-o", "OUT"), ("suspects", "M"),
    ],
    "selection": [
        ("show", "M"), ("verify", "M"), ("card", "M"), ("diff", "M", "OTHER"), ("train", "M"),
        ("label", "M", *TEACHER, "--dry-run"), ("label", "M", *TEACHER, "--labels", "reshape", "--dry-run"),
        ("cut", "M", "--data", str(GOLDEN / "images"), "-o", "OUT", "--dry-run"),
    ],
}  # fmt: skip


@contextmanager
def little_memory() -> Iterator[None]:
    """Let what takes gigabytes fail with a MemoryError, which is a fault."""
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def code_of(words: tuple[str, ...], places: dict[str, Path]) -> int:
    """Exit code of a command; a fault is any other exception."""
    shutil.rmtree(places["OUT"], ignore_errors=True)
    given = [str(places.get(word, word)) for word in words]
    command, arguments = (cli, given)
    if words[0] == "train":
        plain = ("--student", "resnet8x4", "--epochs", "1", "--device", "cpu", "--dry-run")
        command, arguments = train_student, ["--manifest", given[1], *plain]
    with pytest.raises(SystemExit) as done, little_memory():
        run_cli(command, arguments)
    return int(done.value.code or 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with a beton, its scores in two views, and a selection with reshaped labels."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(GOLDEN)
        for words in (
            ("index", "--data", GOLDEN / "images", "--beton", "-o", folder / "index"),
            ("score", folder / "index", *TEACHER, "--image-size", "8", "--views", "2", "--augment", "pad_crop_flip",
             "--loader", "torch", "-o", folder / "scores"),
            ("select", folder / "scores", "--keep", "0.5", "--labels", "reshape", "-o", folder / "selection"),
        ):  # fmt: skip
            with pytest.raises(SystemExit) as done:
                run_cli(cli, list(map(str, words)))
            assert not done.value.code
    return folder


@pytest.fixture
def forge(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make M a manifest of a kind with one field set; returns where it and others lie, or None without such a block."""
    monkeypatch.syspath_prepend(GOLDEN)

    def forged(kind: str, field: str, value: Any) -> dict[str, Path] | None:
        header = json.loads((made / kind / "manifest.json").read_bytes())
        *blocks, name = field.split(".")
        holder = header
        for block in blocks:
            holder = holder.get(block)
            if holder is None:
                return None
        holder[name] = value
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        shutil.copytree(made / kind, tmp_path / "m")
        (tmp_path / "m" / "manifest.json").write_text(json.dumps(header))
        return {"M": tmp_path / "m", "OTHER": made / kind, "OUT": tmp_path / "out"}

    return forged


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("field", REFUSED)
def test_no_command_takes_a_wrong_value(kind: str, field: str, forge: Any) -> None:
    for value in REFUSED[field]:
        if (places := forge(kind, field, value)) is not None:
            codes = {words[0]: code_of(words, places) for words in COMMANDS[kind]}
            assert set(codes.values()) == {3}, f"{field} of {str(value)[:40]}: {codes}"


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("field", SHOWN)
def test_a_value_against_the_tables_is_shown_or_refused(kind: str, field: str, forge: Any) -> None:
    for value in SHOWN[field]:
        if (places := forge(kind, field, value)) is not None:
            codes = {words[0]: code_of(words, places) for words in COMMANDS[kind] if words[0] != "card"}
            assert set(codes.values()) <= {0, 2, 3, 4}, f"{field} of {str(value)[:40]}: {codes}"


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("change", ["int32", "uint64", "float64", "string", "nulls"])
def test_sample_ids_of_another_type_are_refused(kind: str, change: str, forge: Any) -> None:
    places = forge(kind, "parents", [])
    path = places["M"] / "samples" / "part-00000.parquet"
    table = pq.read_table(path)
    ids = table.column("sample_id").combine_chunks()
    column = pa.nulls(len(ids), pa.int64()) if change == "nulls" else ids.cast(change)
    pq.write_table(table.set_column(0, "sample_id", column), path)
    header = json.loads((places["M"] / "manifest.json").read_bytes())
    data = path.read_bytes()
    header["files"][0] |= {"bytes": len(data), "sha256": sha256(data)}
    (places["M"] / "manifest.json").write_text(json.dumps(header))
    codes = {words[0]: code_of(words, places) for words in COMMANDS[kind]}
    assert codes.pop("verify") == 3
    assert set(codes.values()) <= {0, 2, 3, 4}, codes


@pytest.mark.parametrize(("field", "values"), [(f, v) for f, v in REFUSED.items() if "preprocessing" in f])
def test_a_student_file_says_what_a_header_may(field: str, values: list[Any], tmp_path: Path) -> None:
    whole = {"image_px": 8, "resize_px": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
    path = tmp_path / "student.safetensors"

    def written(preprocessing: dict[str, Any]) -> Path:
        texts = ("1.0", "resnet8x4", '["a", "b"]', json.dumps(preprocessing))
        metadata = dict(zip(STUDENT_KEYS, texts, strict=True))
        safetensors.torch.save_file({"weight": torch.zeros(1)}, path, metadata)
        return path

    assert read_student_info(written(whole)).preprocessing.image_px == 8
    name = field.rpartition(".")[2]
    for value in values:
        # What is cut out of a smaller image is refused where views are planned.
        if (name, value) not in (("image_px", 9), ("resize_px", 7)):
            with pytest.raises(InputError, match="malformed metadata"):
                read_student_info(written(whole | {name: value}))


def test_grey_and_colour_are_both_taken(tmp_path: Path) -> None:
    for channels in (1, 3):
        preprocessing = {"image_px": 8, "resize_px": 8, "mean": [0.5] * channels, "std": list(np.full(channels, 0.5))}
        texts = ("1.0", "resnet8x4", '["a", "b"]', json.dumps(preprocessing))
        path = tmp_path / f"{channels}.safetensors"
        safetensors.torch.save_file({"weight": torch.zeros(1)}, path, dict(zip(STUDENT_KEYS, texts, strict=True)))
        assert len(read_student_info(path).preprocessing.std) == channels
