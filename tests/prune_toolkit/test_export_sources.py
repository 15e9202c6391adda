"""`prune export --imagefolder` where the images are elsewhere now: in a beton, in a copy, altered or gone."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from beton_support import smooth
from export_support import TEACHER, files_below, kept_keys, make_photos, select
from PIL import Image

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


def test_without_the_source_the_images_come_from_the_beton(photos: Path, tmp_path: Path, prune: Run) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    selection = select(prune, tmp_path / "photos", tmp_path)
    shutil.rmtree(tmp_path / "photos")
    result = prune("export", selection, "--imagefolder", tmp_path / "tree")
    assert "taking the images from" in result.stderr
    found = files_below(tmp_path / "tree")
    as_written = {key: key if key.endswith(("jpeg", "png")) else f"{key}.png" for key in kept_keys(selection)}
    assert sorted(found) == sorted(as_written.values())
    for key, name in as_written.items():
        if key.endswith("jpeg"):
            assert found[name].read_bytes() == (photos / key).read_bytes()
        else:
            with Image.open(found[name]) as picture, Image.open(photos / key) as original:
                assert picture.format == "PNG"
                np.testing.assert_array_equal(picture, original.convert("RGB"))
    prune("export", selection, "--imagefolder", tmp_path / "again", "--data", tmp_path / "photos", code=3)
    (tmp_path / "moved").mkdir()
    shutil.copytree(photos, tmp_path / "moved" / "pictures")
    prune("export", selection, "--imagefolder", tmp_path / "again", "--data", tmp_path / "moved" / "pictures")
    assert sorted(files_below(tmp_path / "again")) == sorted(kept_keys(selection))
    with (selection / "train.beton").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\7")
    result = prune("export", selection, "--imagefolder", tmp_path / "altered", code=3)
    assert "was altered" in result.stderr
    assert not (tmp_path / "altered").exists()
    (selection / "train.beton").unlink()
    (selection / "local.json").unlink()
    assert "--data" in prune("export", selection, "--imagefolder", tmp_path / "nowhere", code=3).stderr


def test_a_selection_that_was_cut_from_a_copy_is_exported_from_it_or_from_its_beton(
    photos: Path, tmp_path: Path, prune: Run
) -> None:
    """Of a copy in another place all is there; of one that was encoded again, under other names, nothing is."""
    shutil.copytree(photos, tmp_path / "photos" / "train")
    prune("score", photos, *TEACHER, "--thumbnails", "-o", tmp_path / "manifest")
    base = ("select", tmp_path / "manifest", "--keep", "0.5", "--data")
    prune(*base, tmp_path / "photos", "-o", tmp_path / "moved")
    for file in (tmp_path / "photos").rglob("*.jpeg"):
        with Image.open(file) as picture:
            picture.save(file, quality=60)
    shutil.move(tmp_path / "photos", tmp_path / "again")
    prune(*base, tmp_path / "again" / "train", "--pixels", "-o", tmp_path / "same-names")
    prune(*base, tmp_path / "again", "--pixels", "-o", tmp_path / "other-names")
    for name in ("moved", "same-names", "other-names"):
        selection = tmp_path / name
        result = prune("export", selection, "--imagefolder", tmp_path / f"{name}-tree")
        assert f"taking the images from {selection}" in result.stderr
        found = files_below(tmp_path / f"{name}-tree")
        kept = kept_keys(selection)
        assert len(found) == len(kept) == 12
        source = photos if name == "moved" else tmp_path / "again" / "train"
        for key in kept:
            if key.endswith("jpeg"):
                assert found[key].read_bytes() == (source / key).read_bytes()
    with (tmp_path / "other-names" / "train.beton").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\7")
    refused = prune("export", tmp_path / "other-names", "--imagefolder", tmp_path / "altered", code=3)
    assert "was altered" in refused.stderr
    # Named by the user, the copy is what is meant.
    named = ("export", tmp_path / "same-names", "--imagefolder", tmp_path / "named", "--data")
    prune(*named, tmp_path / "again" / "train", code=4)


def test_only_data_of_its_own_table_in_prune_toml_is_where_the_images_are_now(
    photos: Path, tmp_path: Path, prune: Run
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    selection = select(prune, tmp_path / "photos", tmp_path)
    moved = (tmp_path / "photos").rename(tmp_path / "moved")
    (tmp_path / "prune.toml").write_text(f"data = '{moved}'\n[export]\ncopy = true\n")
    assert "taking the images from" in prune("export", selection, "--imagefolder", "beton", cwd=tmp_path).stderr
    prune("export", selection, "--filelist", "list.txt", cwd=tmp_path)
    (tmp_path / "prune.toml").write_text(f"data = 'nowhere'\n[export]\ndata = '{moved}'\n")
    prune("export", selection, "--imagefolder", "tree", cwd=tmp_path)
    assert all(path.samefile(moved / key) for key, path in files_below(tmp_path / "tree").items())


def test_pixels_of_a_beton_that_would_get_the_name_of_another_image_are_refused(tmp_path: Path, prune: Run) -> None:
    root = make_photos(tmp_path / "photos")
    twins = [file.with_name(f"{file.name}.png") for file in sorted(root.rglob("*.webp"))]
    for twin in twins:
        Image.fromarray(smooth(np.random.default_rng(1), 9, 9)).save(twin)
    prune("score", root, *TEACHER, "-o", tmp_path / "manifest")
    prune("select", tmp_path / "manifest", "--keep", "1", "-o", tmp_path / "selection")
    root.rename(tmp_path / "moved")
    arguments = ("export", tmp_path / "selection", "--imagefolder", tmp_path / "tree")
    stderr = prune(*arguments, code=3).stderr
    first = twins[0].relative_to(root).as_posix()
    assert f"{first.removesuffix('.png')} and {first} would both be written as {first}" in stderr
    assert "--data" in stderr
    assert not list(tmp_path.glob("*tree*"))
    prune(*arguments, "--data", tmp_path / "moved")
    assert len(files_below(tmp_path / "tree")) == 24 + len(twins)


def test_the_first_altered_image_is_named_and_nothing_is_left(photos: Path, tmp_path: Path, prune: Run) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    selection = select(prune, tmp_path / "photos", tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    altered = kept_keys(selection)[3:6]
    for key in altered:
        with (tmp_path / "photos" / key).open("ab") as stream:
            stream.write(b"\0")
    for extra in ((), ("--copy",)):
        result = prune("export", selection, "--imagefolder", tmp_path / "tree", *extra, code=4)
        assert f"{altered[0]} was altered since it was indexed" in result.stderr
    (tmp_path / "photos" / altered[0]).unlink()
    assert altered[0] in prune("export", selection, "--imagefolder", tmp_path / "tree", code=4).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
