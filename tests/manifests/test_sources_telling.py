"""What is told of a source, by hand-worked examples."""

from pathlib import Path

import numpy as np
from PIL import Image

from manifests.sources import Source, open_source
from manifests.sources.telling import content_warnings, leak_warning, reading_lines

TEN = {f"{name}/{row}": 10 * row + len(name) for name in ("x", "yy") for row in range(5)}
"""Ten images of different content in two classes."""


def pictures(root: Path, values: dict[str, int]) -> Source:
    for key, value in values.items():
        path = root / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), value).save(path)
    return open_source(str(root))


def hashes(source: Source) -> np.ndarray:
    from manifests.images.identity import content_hash

    return np.frombuffer(b"".join(map(content_hash, source.read(range(len(source.keys))))), np.uint8).reshape(-1, 16)


def test_the_same_content_is_counted_once_per_repetition() -> None:
    a, b, unreadable = [1] * 16, [2] * 16, [0] * 16
    hash_N16 = np.array([a, b, a, a, unreadable, unreadable], np.uint8)
    assert content_warnings(list("abcdef"), np.array([0, 0, 0, 1, 0, 1], np.int32), hash_N16) == [
        "images of the same content in two classes: 1; the first: c and d",
        "images twice in one class: 1; the first: a and c",
    ]
    assert content_warnings(["a", "b"], np.array([0, 1], np.int32), np.array([a, b], np.uint8)) == []


def test_validation_images_that_are_training_images_are_told(tmp_path: Path) -> None:
    train = pictures(tmp_path / "train-set", TEN)
    apart = pictures(tmp_path / "apart", {"x/1": 200, "yy/1": 201})
    assert leak_warning(hashes(train), apart, 2) is None
    some = pictures(tmp_path / "some", {"x/1": 200, "yy/7": 22, "yy/8": 202})
    assert leak_warning(hashes(train), some, 2) == "1 of 3 validation images are training images too, such as yy/7.png"
    assert (
        leak_warning(hashes(train), train, 2) == "10 of 10 validation images are training images too, such as x/0.png"
    )


def test_many_validation_images_are_compared_by_a_sample(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("manifests.sources.telling.MOST_COMPARED", 4)
    train = pictures(tmp_path / "d", TEN)
    assert leak_warning(hashes(train), train, 2) == (
        "4 of 4 compared validation images (of 10) are training images too, such as x/0.png"
    )


def test_the_lines_name_the_smallest_and_the_largest_class(tmp_path: Path) -> None:
    assert reading_lines(pictures(tmp_path / "d", {"b/1": 1, "b/2": 2, "a/1": 3})) == [
        "d (folder): 3 images",
        "2 classes, names of the folders: a, b; a has the fewest (1), b the most (2)",
    ]
    assert reading_lines(pictures(tmp_path / "e", {"b/1": 1, "a/1": 3}))[1].endswith("a, b; 1 each")
