"""Where a manifest's images are, and how each sample's image is found there."""

from pathlib import Path

import numpy as np
import pytest
from copies_support import manifest_of, photos, write_tree

from manifests.errors import InputError, MismatchError
from manifests.images.decode import beton_form
from manifests.manifest import Manifest, write_local
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.images.sample_images import SourceImages, rows_by_key
from prune_toolkit.images.train_beton import write_train_beton
from prune_toolkit.images.where import find_images, place_of, source_images

CLASSES = ("cat", "dog", "eel")


@pytest.fixture
def index(tmp_path: Path) -> Manifest:
    """An index of photos in `data/`, which its local.json names."""
    write_tree(tmp_path / "data", photos())
    manifest = manifest_of(tmp_path / "index", photos(), CLASSES)
    write_local(manifest.folder, {"data": str(tmp_path / "data")})
    return manifest


def test_images_that_are_named_come_before_a_beton_and_a_beton_before_the_source(
    index: Manifest, tmp_path: Path
) -> None:
    spec = DataSpec(data=str(tmp_path / "data"), of_local=True)
    assert (place_of(index).beton, place_of(index).spec) == (None, spec)
    beton = tmp_path / "all.beton"
    images = find_images(index)
    assert images.source is not None
    assert images.local == index.local
    assert write_train_beton(beton, index.samples(), images=images, workers=1) == 12
    write_local(index.folder, {**index.local, "beton": str(beton)})
    index = Manifest.open(index.folder)
    assert (place_of(index).beton, place_of(index).spec) == (beton, spec)
    copied = find_images(index)
    assert copied.source is None
    assert copied.local == index.local
    some = index.samples().take([7, 2])
    for image, same in zip(copied.stored(some, 1, None), images.stored(some, 1, None), strict=True):
        assert bytes(image.data) == bytes(same.data)
    elsewhere = DataSpec(data=str(write_tree(tmp_path / "elsewhere", photos())))
    assert place_of(index, elsewhere).beton is None
    assert find_images(index, elsewhere).local == {"data": str(tmp_path / "elsewhere")}


def test_a_manifest_whose_images_are_nowhere_says_how_to_name_them(tmp_path: Path) -> None:
    index = manifest_of(tmp_path / "index", photos(), CLASSES)
    assert not place_of(index).is_known
    assert source_images(index) is None
    with pytest.raises(InputError, match="does not know where its images are") as refused:
        find_images(index)
    assert "--data" in str(refused.value)


def test_a_sample_that_is_gone_is_named(index: Manifest, tmp_path: Path) -> None:
    (tmp_path / "data" / "dog" / "02.jpg").unlink()
    images = source_images(index)
    assert images is not None
    with pytest.raises(MismatchError, match=r"1 of 12 samples are not in .*; the first: dog/02\.jpg"):
        rows_by_key(images.source, index.samples().column("key"))
    # Told before the first image is read.
    with pytest.raises(MismatchError, match=r"the first: dog/02\.jpg"):
        images.stored(index.samples(), 1, None)


def test_of_a_copy_images_are_found_by_its_rows_and_compared_as_it_says(index: Manifest, tmp_path: Path) -> None:
    found = source_images(index)
    assert found is not None
    backwards = np.arange(12)[::-1]
    some = index.samples().slice(3, 2)
    strict = SourceImages(source=found.source, local={}, row_N=backwards)
    assert strict.rows(some).tolist() == [8, 7]
    with pytest.raises(MismatchError, match=r"eel/00\.jpg was altered"):
        list(strict.stored(some, 1, None))
    loose = SourceImages(source=found.source, local={}, row_N=backwards, hash_of=None)
    [first, second] = loose.stored(some, 1, None)
    assert [bytes(first.data), bytes(second.data)] == [
        bytes(beton_form(image, None).data) for image in found.source.read([8, 7])
    ]
