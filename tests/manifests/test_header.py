import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from manifests.base.layout import HEADER_NAME
from manifests.errors import InputError
from manifests.format.header import (
    DataSet,
    Distill,
    Features,
    FileEntry,
    Header,
    Preprocessing,
    Selection,
    Tool,
    canonical_json,
)
from manifests.format.header_file import read_header, write_header

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("header")


def header(**changes: Any) -> Header:
    content: dict[str, Any] = {
        "kind": "index",
        "data": DataSet(
            name="café", source="folder", count=2, readable=1, class_names=["cat", "dog"], fingerprint="f" * 64
        ),
        "tool": Tool(name="prune-toolkit", version="0.1.0"),
        "config": {"max_side": None, "scale": 0.25},
        "files": [FileEntry(path="samples/part-00000.parquet", rows=2, bytes=10, sha256="0" * 64)],
        "run": {"seconds": 1.5},
    }
    return Header(**(content | changes))


def written(folder: Path, **changes: Any) -> dict[str, Any]:
    """The content of a header as written, with some of its top-level fields replaced."""
    write_header(folder, header())
    content: dict[str, Any] = json.loads((folder / HEADER_NAME).read_text())
    (folder / HEADER_NAME).write_text(json.dumps(content | changes))
    return content | changes


def test_the_id_is_the_sha256_of_the_sorted_json_without_run_and_unset_fields() -> None:
    expected = {
        "schema_version": "1.1",
        "kind": "index",
        "data": {
            "name": "café",
            "source": "folder",
            "count": 2,
            "readable": 1,
            "class_names": ["cat", "dog"],
            "fingerprint": "f" * 64,
        },
        "scores": [],
        "parents": [],
        "tool": {"name": "prune-toolkit", "version": "0.1.0"},
        "config": {"max_side": None, "scale": 0.25},
        "files": [{"path": "samples/part-00000.parquet", "rows": 2, "bytes": 10, "sha256": "0" * 64}],
    }
    text = json.dumps(expected, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical_json(header()) == text
    assert header().id == hashlib.sha256(text.encode()).hexdigest()


def test_the_id_does_not_depend_on_run() -> None:
    assert header(run={"host": "a", "seconds": 9}).id == header().id


def test_the_id_does_not_depend_on_the_order_of_fields(tmp_path: Path) -> None:
    content = written(tmp_path)
    shuffled = {key: content[key] for key in sorted(content, reverse=True)}
    shuffled["data"] = dict(reversed(content["data"].items()))
    (tmp_path / HEADER_NAME).write_text(json.dumps(shuffled, indent=4))
    assert read_header(tmp_path).id == header().id


@pytest.mark.parametrize(
    "changes", [{"kind": "scores"}, {"config": {"scale": 0.5}}, {"parents": ["a"]}, {"files": []}, {"later": 1}]
)
def test_the_id_depends_on_everything_else(changes: dict[str, Any]) -> None:
    assert header(**changes).id != header().id


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4))
def test_free_values_and_the_id_survive_writing_and_reading(scratch: Path, config: dict[str, Any]) -> None:
    original = header(config=config)
    write_header(scratch, original)
    back = read_header(scratch)
    assert back.config == config
    assert back.id == original.id


def test_a_header_has_the_first_version_that_knows_its_fields(tmp_path: Path) -> None:
    chosen = {"method": "random", "parameters": {}, "quota": "none", "keep_asked": "1", "keep_got": 1.0, "count": 1}
    chosen |= {"seed": 0}
    distill = {"fraction": "1/2", "by": "loss", "count": 1}
    assert header(selection=Selection(**chosen)).schema_version == "1.1"
    for changes in (
        {"features": Features(layer="fc", width=64)},
        {"selection": Selection(**chosen, distill=Distill(**distill))},
        {"selection": chosen | {"distill": distill}},
        {"selection": Selection(**chosen, without="a" * 64)},
        {"selection": Selection(**chosen, per_class_min=3)},
    ):
        made = header(**changes)
        assert made.schema_version == "1.2"
        write_header(tmp_path, made)
        assert read_header(tmp_path).id == made.id
    # What was written stays as it was written.
    written(tmp_path, features={"layer": "fc", "width": 64})
    assert read_header(tmp_path).schema_version == "1.1"


def test_an_unknown_field_of_a_later_minor_version_is_kept_and_in_the_id(tmp_path: Path) -> None:
    content = written(tmp_path, schema_version="1.7", provenance={"camera": "x", "none": None})
    content["data"]["collected"] = 2031
    (tmp_path / HEADER_NAME).write_text(json.dumps(content))
    back = read_header(tmp_path)
    dumped = back.model_dump(mode="json")
    assert dumped["provenance"] == {"camera": "x", "none": None}
    assert dumped["data"]["collected"] == 2031
    assert '"collected":2031' in canonical_json(back)
    write_header(tmp_path, back)
    assert read_header(tmp_path).id == back.id


@pytest.mark.parametrize("version", ["2.0", "0.9", "10.0", "999999999.0"])
def test_another_major_version_is_refused_with_the_next_step(tmp_path: Path, version: str) -> None:
    written(tmp_path, schema_version=version)
    with pytest.raises(InputError, match=f"schema version {version}; this tool reads 1.x") as caught:
        read_header(tmp_path)
    assert caught.value.hint == "upgrade prune-toolkit to read it"


@pytest.mark.parametrize("version", [None, 1.0, 1, "", "1", "one", "²", "1.0.0", "1.0\n", "9" * 5000 + ".0", ["1.0"]])
def test_a_header_without_a_proper_version_is_no_manifest(tmp_path: Path, version: object) -> None:
    written(tmp_path, schema_version=version)
    with pytest.raises(InputError, match="no schema_version"):
        read_header(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "nonsense", "[" * 100_000, '{"a": NaN}', '{"a": Infinity}', '{"a": -Infinity}', "9" * 9999],
)
def test_what_is_not_json_is_an_input_error(tmp_path: Path, text: str) -> None:
    (tmp_path / HEADER_NAME).write_text(text)
    with pytest.raises(InputError, match="is not valid JSON"):
        read_header(tmp_path)


def test_bytes_that_are_no_text_are_an_input_error(tmp_path: Path) -> None:
    (tmp_path / HEADER_NAME).write_bytes(b'{"a": "\xff\xfe\x80"}')
    with pytest.raises(InputError, match="is not valid JSON"):
        read_header(tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"1.0"', "{}"])
def test_json_that_is_no_header_is_an_input_error(tmp_path: Path, text: str) -> None:
    (tmp_path / HEADER_NAME).write_text(text)
    with pytest.raises(InputError, match="no schema_version"):
        read_header(tmp_path)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"kind": "photo"}, "kind: Input should be 'index', 'scores' or 'selection'"),
        ({"data": {"name": "x"}}, "data.source: Field required"),
        ({"files": [{"path": "a", "rows": "many", "bytes": 1, "sha256": ""}]}, "files.0.rows: "),
        ({"scores": None}, "scores: "),
    ],
)
def test_a_malformed_field_is_named(tmp_path: Path, changes: dict[str, Any], where: str) -> None:
    written(tmp_path, **changes)
    with pytest.raises(InputError, match=where):
        read_header(tmp_path)


@pytest.mark.parametrize("later", ['"later": 1e999', '"later": "\\ud800"', '"config": {"x": -1e999}'])
def test_a_header_that_can_have_no_id_is_refused_when_it_is_read(tmp_path: Path, later: str) -> None:
    content = written(tmp_path)
    content.pop("config")
    text = json.dumps(content)
    (tmp_path / HEADER_NAME).write_text(text[:-1] + f", {later}" + "}")
    with pytest.raises(InputError, match=r"no canonical form|config"):
        read_header(tmp_path)


def test_nan_is_refused_in_fields_and_in_free_values(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Preprocessing(image_px=32, resize_px=32, mean=[math.nan], std=[1.0])
    for free in ({"config": {"deep": [{"x": math.nan}]}}, {"later": math.inf}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_header(tmp_path, header(**free))
        with pytest.raises(ValueError, match="not JSON compliant"):
            _ = header(**free).id
    assert not (tmp_path / HEADER_NAME).exists()


def test_a_missing_folder_and_a_folder_without_header_tell_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_header(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no manifest\.json") as caught:
        read_header(tmp_path)
    assert caught.value.hint is not None
    assert "resumes where it stopped" in caught.value.hint


def test_a_header_larger_than_any_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / HEADER_NAME).open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InputError, match="larger than any header"):
        read_header(tmp_path)


def test_blocks_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        header().data.name = "other"


def test_a_file_is_found_by_its_path() -> None:
    entry = header().file("samples/part-00000.parquet")
    assert entry is not None
    assert entry.bytes == 10
    assert header().file("samples/part-00001.parquet") is None
