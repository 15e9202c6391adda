"""What `prune index` and `prune score` say of the data they read, and record in the header."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from manifests.manifest import Manifest

Run = Callable[..., subprocess.CompletedProcess[str]]


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 2 * value % 256, 3 * value % 256)).save(path)


def photos(root: Path) -> Path:
    """Train: three hats, two shoes; one validation image of each; files and folders that are no data."""
    for value, key in enumerate(["train/hat/1", "train/hat/2", "train/hat/3", "train/shoes/4", "train/shoes/5"]):
        picture(root / f"{key}.png", value)
    picture(root / "val/hat/1.png", 50)
    picture(root / "val/shoes/1.png", 51)
    (root / "train/hat/notes.txt").write_text("text")
    (root / "train/logs").mkdir()
    return root


def test_what_was_taken_is_said_shown_and_recorded(prune: Run, tmp_path: Path) -> None:
    said = prune("index", photos(tmp_path / "photos"), "-o", tmp_path / "index").stderr
    assert "photos (folder): 5 images, split train (by the name of its folder; also there: val)\n" in said
    assert "2 classes, names of the folders in train/: hat, shoes; shoes has the fewest (2), hat the most (3)\n" in said
    assert "left out: folders without images: 1 (logs); files ending in .txt: 1 (notes.txt)\n" in said
    assert "warning" not in said
    header = Manifest.open(tmp_path / "index").header
    assert header.schema_version == "1.4"
    assert header.data.read_as is not None
    assert header.data.read_as.model_dump() == {
        "labels": "names of the folders in train/",
        "split_found": "by the name of its folder",
        "other_splits": ["val"],
        "left_out": {"files ending in .txt": 1, "folders without images": 1},
        "images": None,
        "warnings": [],
    }
    shown = prune("show", tmp_path / "index").stdout
    assert "classes: names of the folders in train/; split: by the name of its folder, beside val" in shown
    assert "left out: files ending in .txt: 1" in shown


def doubled(root: Path) -> None:
    picture(root / "train/shoes/6.png", 0)


def twice(root: Path) -> None:
    picture(root / "train/hat/4.png", 0)


def beside(root: Path) -> None:
    picture(root / "train/cover.png", 9)


def misnamed(root: Path) -> None:
    picture(root / "train/hat/9.png", 9)
    (root / "train/hat/9.png").rename(root / "train/hat/9.png_large")


def numbered(root: Path) -> None:
    (root / "train/hat").rename(root / "train/3")
    (root / "train/shoes").rename(root / "train/7")


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (doubled, "images of the same content in two classes: 1; the first: train/hat/1.png and train/shoes/6.png"),
        (twice, "images twice in one class: 1; the first: train/hat/1.png and train/hat/4.png"),
        (beside, "1 images lie beside the class folders and have no class"),
        (misnamed, "files ending in .png_large hold images in spite of their names, such as 9.png_large; rename them"),
        (numbered, "the classes are called by numbers (3, 7): give names with --classes"),
    ],
)
def test_what_is_probably_not_meant_is_a_warning_or_with_strict_an_error(
    prune: Run, tmp_path: Path, change: Callable[[Path], None], warning: str
) -> None:
    change(photos(tmp_path / "photos"))
    listed = "; all of them: prune suspects" if change in (doubled, twice) else ""
    assert f"warning: {warning}{listed}\n" in prune("index", tmp_path / "photos", "-o", tmp_path / "index").stderr
    assert Manifest.open(tmp_path / "index").header.data.read_as.warnings == [warning]
    refused = prune("index", tmp_path / "photos", "--strict", "-o", tmp_path / "strict", code=3).stderr
    assert f"prune: {warning}\n  without --strict this is a warning" in refused
    assert not (tmp_path / "strict" / "manifest.json").exists()


def test_classes_without_samples_are_a_warning(prune: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "names.txt").write_text("shoes\nbelt\nhat\n")
    said = prune("index", tmp_path / "photos", "--classes", tmp_path / "names.txt", "-o", tmp_path / "index").stderr
    assert "3 classes, names of the folders in train/, named by names.txt: shoes, belt, hat" in said
    assert "warning: classes without samples: 1 of 3 (belt)\n" in said


def test_as_many_classes_as_samples_are_a_warning(prune: Run, tmp_path: Path) -> None:
    for value in range(12):
        picture(tmp_path / "photos" / f"class {value}" / "1.png", value)
    said = prune("index", tmp_path / "photos", "-o", tmp_path / "index").stderr
    assert "warning: each of the 12 samples is a class of its own: are these labels?\n" in said


def test_a_list_is_chosen_with_its_columns(prune: Run, tmp_path: Path) -> None:
    for value in range(4):
        picture(tmp_path / "photos" / f"{value}.png", value)
    (tmp_path / "all.csv").write_text("who,kind,part\n0,x,train\n1,y,train\n2,x,test\n3,y,test\n")
    options = (
        "--list",
        tmp_path / "all.csv",
        "--file-column",
        "who",
        "--label-column",
        "kind",
        "--split-column",
        "part",
    )
    said = prune("index", tmp_path / "photos", *options, "-o", tmp_path / "index").stderr
    assert "photos (folder): 2 images, split train (by the list; also there: test)" in said
    index = Manifest.open(tmp_path / "index")
    assert index.samples().column("key").to_pylist() == ["0.png", "1.png"]
    # The list is remembered for this machine: the images are found again without naming it.
    assert len(index.images([0, 1])) == 2


def test_a_configuration_is_chosen_by_name(prune: Run, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("one", "two"):
        picture(tmp_path / f"{name}.png", 1)
        (tmp_path / "repo" / name).mkdir(parents=True)
        data = (tmp_path / f"{name}.png").read_bytes()
        table = pa.table({"image": [data, data], "label": [name, "other"]})
        pq.write_table(table, tmp_path / "repo" / name / "train.parquet")
    refused = prune("index", tmp_path / "repo", "-o", tmp_path / "index", code=3).stderr
    assert "holds several configurations: one, two" in refused
    assert "choose one with --config" in refused
    prune("index", tmp_path / "repo", "--config", "two", "-o", tmp_path / "index")
    assert Manifest.open(tmp_path / "index").header.data.class_names == ["other", "two"]
    assert "has no configuration 'three'" in prune("index", tmp_path / "repo", "--config", "three", code=3).stderr
