"""Tables that a sender forged, digests included: a sentence, where they are used without the checks of a reader."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests_support import write_idx

Run = Callable[..., Any]


@pytest.fixture
def digits(tmp_path: Path, prune: Run) -> Path:
    """A folder with images, an index of them and a selection without a beton."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    write_idx(tmp_path / "images", images, np.arange(40) % 10)
    prune("index", "images", "-o", "index", cwd=tmp_path)
    prune("score", "index", "--teacher", "teachers:linear", "--image-size", 8, "-o", "scores", cwd=tmp_path)
    prune("select", "scores", "--keep", 0.5, "--no-beton", "-o", "selection", cwd=tmp_path)
    return tmp_path


def forge(folder: Path, path: str, column: str, values: pa.Array) -> None:
    """Replace a column of a part, and its digest in the header."""
    table = pq.read_table(folder / path)
    table = table.set_column(table.column_names.index(column), column, values)
    (folder / path).unlink()
    pq.write_table(table, folder / path)
    header, data = json.loads((folder / "manifest.json").read_bytes()), (folder / path).read_bytes()
    [entry] = [entry for entry in header["files"] if entry["path"] == path]
    entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(header))


def test_an_index_without_a_readable_image_is_not_scored(digits: Path, prune: Run) -> None:
    forge(digits / "index", "samples/part-00000.parquet", "problem", pa.array(["no"] * 40))
    words = ("score", "index", "--teacher", "teachers:linear", "--image-size", 8, "-o", "again")
    assert "none of 40 images could be read: there is nothing to score" in prune(*words, cwd=digits, code=3).stderr


def test_targets_whose_ids_are_vectors_are_not_cut(digits: Path, prune: Run) -> None:
    part = "targets/view-000/part-00000.parquet"
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(200, np.float16)), 10)
    forge(digits / "selection", part, "sample_id", vectors)
    told = prune("cut", "selection", "--data", "images", "-o", "cut", cwd=digits, code=3).stderr
    assert f"selection/{part}: sample_id is of type fixed_size_list<element: halffloat>[10], not int64" in told
