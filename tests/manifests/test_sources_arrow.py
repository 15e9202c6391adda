"""Arrow files as the package datasets saves them."""

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from manifests.errors import InputError
from manifests.images.decode import Encoded
from manifests.sources import open_held_out, open_source


def save(folder: Path, split: str | None, counts: tuple[int, ...] = (3, 2), **columns: Any) -> Path:
    """A data set of several streams, as save_to_disk writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    names, first = [], 0
    for number, count in enumerate(counts):
        rows = range(first, first + count)
        first += count
        images = [{"bytes": f"image {row}".encode(), "path": None} for row in rows]
        table = pa.table({"image": images, "label": [row % 2 for row in rows], **columns})
        names.append(f"data-{number:05d}-of-{len(counts):05d}.arrow")
        with pa.OSFile(str(folder / names[-1]), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": name} for name in names], "_split": split})
    )
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def test_a_saved_data_set_is_read_with_its_class_names(tmp_path: Path) -> None:
    source = open_source(str(save(tmp_path / "d", "train")))
    assert (source.kind, source.split, source.class_names) == ("arrow", "train", ("cat", "dog"))
    assert source.labels_N.tolist() == [0, 1, 0, 1, 0]
    assert source.read([4, 0]) == [Encoded(b"image 4"), Encoded(b"image 0")]
    assert pickle.loads(pickle.dumps(source)).read([3]) == [Encoded(b"image 3")]


def test_a_saved_dictionary_of_splits_is_read_by_split(tmp_path: Path) -> None:
    for split, counts in (("train", (3,)), ("validation", (2,))):
        save(tmp_path / "d" / split, split, counts)
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    assert len(open_source(str(tmp_path / "d")).keys) == 3
    assert open_held_out(str(tmp_path / "d")).split == "validation"


def test_one_arrow_file_is_read_alone(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", None, (4,))
    source = open_source(str(folder / "data-00000-of-00001.arrow"))
    assert (source.split, source.class_names, len(source.keys)) == (None, ("cat", "dog"), 4)


def test_what_is_missing_or_damaged_is_told(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", "train")
    (folder / "data-00001-of-00002.arrow").write_bytes(b"ARROW1")
    with pytest.raises(InputError, match="is not a whole Arrow file"):
        open_source(str(folder))
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(InputError, match=r"lacks data-00001-of-00002\.arrow"):
        open_source(str(folder))
    (folder / "state.json").write_text("[")
    with pytest.raises(InputError, match="cannot be read"):
        open_source(str(folder))
