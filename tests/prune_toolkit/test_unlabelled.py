"""Images without labels: the index."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import prune_toolkit as pt
from manifests.errors import UsageError
from manifests.manifest import Manifest
from trainer.data.task import open_task

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 200 digits twice: in class folders (`classes`), and in one folder (`flat`)."""
    root, digits = tmp_path_factory.mktemp("unlabelled"), load_digits()
    for row in range(200):
        label = int(digits.target[row])
        image = Image.fromarray((digits.images[row] * 15).astype(np.uint8))
        for path in (root / "classes" / str(label) / f"{row:03d}.png", root / "flat" / f"{row:03d}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return root


@pytest.fixture(scope="module")
def indexes(folders: Path) -> dict[str, Manifest]:
    """An index of the flat folder, and one of the class folders with and without their labels."""
    out = folders / "indexes"
    return {
        "flat": pt.index(pt.DataSpec(data=str(folders / "flat"), unlabelled=True), out=out / "flat"),
        "ignored": pt.index(pt.DataSpec(data=str(folders / "classes"), unlabelled=True), out=out / "ignored"),
        "labelled": pt.index(folders / "classes", out=out / "labelled"),
    }


def test_an_index_without_labels_says_so_and_needs_format_1_4(indexes: dict[str, Manifest]) -> None:
    header = indexes["flat"].header
    assert (header.data.labels_from, header.data.class_names, header.schema_version) == ("none", ["unlabelled"], "1.4")
    assert "no labels" in repr(indexes["flat"])
    assert header.data.read_as is not None
    assert header.data.read_as.labels == "none, as --unlabelled says"


def test_the_same_images_have_the_same_keys_hashes_and_views_with_and_without_labels(
    indexes: dict[str, Manifest],
) -> None:
    columns = ["key", "content_hash", "view_id"]
    assert indexes["ignored"].samples(columns).equals(indexes["labelled"].samples(columns))
    assert indexes["ignored"].samples(["label"]).column("label").to_pylist() == [0] * 200
    assert indexes["labelled"].header.data.labels_from is None


def test_show_verify_diff_split_and_merge_take_it(prune: Run, tmp_path: Path, indexes: dict[str, Manifest]) -> None:
    flat, labelled = indexes["flat"].path, indexes["labelled"].path
    assert "200 readable of 200 samples, no labels" in prune("show", flat).stdout
    prune("verify", flat)
    prune("verify", indexes["ignored"].path, "--data", labelled.parents[1] / "classes")
    prune("verify", labelled, "--data", labelled.parents[1] / "flat", "--unlabelled")
    assert "matched by content" in prune("diff", flat, labelled).stdout
    prune("split", flat, "--prefix", "0", "-o", tmp_path / "a", "--rest", tmp_path / "b")
    prune("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "whole")
    whole = Manifest.open(tmp_path / "whole")
    assert whole.header.data.fingerprint == indexes["flat"].header.data.fingerprint
    assert whole.header.data.labels_from == "none"
    prune("merge", flat, labelled, "-o", tmp_path / "mixed", code=4)


def test_an_index_is_not_named_classes_without_labels(prune: Run, tmp_path: Path, folders: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\n")
    named = ("--classes", tmp_path / "names.txt")
    refused = prune("index", folders / "flat", "--unlabelled", *named, "-o", tmp_path / "i", code=2)
    assert "prune score --classes FILE" in refused.stderr
    planned = prune("index", folders / "flat", "--unlabelled", "--dry-run", "--json")
    assert json.loads(planned.stdout)["classes"] == 0


def test_an_index_is_no_task_for_a_student(prune: Run, folders: Path, tmp_path: Path) -> None:
    prune("index", folders / "flat", "--unlabelled", "--beton", "-o", tmp_path / "index")
    with pytest.raises(UsageError, match="no teacher has labelled them yet"):
        open_task(tmp_path / "index")
