"""Which image of a copy is which sample: by path, by name within the class, by content."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.copies.matching import STAGES, DataMatch, Listing, match_samples, parse_stages, shared_folders
from manifests.errors import UsageError

Images = Sequence[tuple[str, int, str]]
"""(key, label, content) of each image."""


def hash_of(content: str) -> bytes:
    """Content "" is an image that cannot be read."""
    return hashlib.sha256(content.encode()).digest()[:16] if content else bytes(16)


def side(images: Images) -> tuple[Listing, np.ndarray]:
    images = sorted(images)
    keys = pa.array([key for key, _, _ in images], pa.string())
    label_N = np.array([label for _, label, _ in images], np.int64)
    hashes = b"".join(hash_of(content) for _, _, content in images)
    return Listing(keys=keys, label_N=label_N), np.frombuffer(hashes, np.uint8).reshape(-1, 16)


def matched(
    ours: Images,
    theirs: Images,
    stages: Sequence[str] = STAGES,
    hide: Callable[[pa.Array], pa.Array] | None = None,
    *,
    are_rows: bool = False,
) -> tuple[DataMatch, dict[str, tuple[str, str]], set[int]]:
    """What was found, {our key: (their key, stage)} of it, and the rows that were hashed."""
    (here, hash_N16), (there, hash_M16) = side(ours), side(theirs)
    hashed: set[int] = set()

    def hash_rows(row_n: np.ndarray) -> np.ndarray:
        hashed.update(row_n.tolist())
        return hash_M16[row_n]

    match = match_samples(here, hash_N16, there, hash_rows, stages, are_rows=are_rows, hide=hide, split="train")
    pairs = {
        here.keys[n].as_py(): (there.keys[int(row)].as_py(), STAGES[match.stage_N[n]])
        for n, row in enumerate(match.row_N)
        if row >= 0
    }
    return match, pairs, hashed


def test_paths_come_first_then_names_then_contents() -> None:
    ours = [("cat/1.jpg", 0, "a"), ("cat/2.jpg", 0, "b"), ("dog/1.jpg", 1, "c"), ("dog/2.jpg", 1, "d")]
    theirs = [
        ("cat/1.jpg", 0, "other bytes"),
        ("hound/1.jpg", 1, "other bytes too"),
        ("cat/renamed.jpg", 0, "b"),
        ("cat/new.jpg", 0, "new"),
    ]
    match, pairs, hashed = matched(ours, theirs)
    assert pairs == {
        "cat/1.jpg": ("cat/1.jpg", "path"),
        "dog/1.jpg": ("hound/1.jpg", "name"),
        "cat/2.jpg": ("cat/renamed.jpg", "content"),
    }
    # Sorted: cat/1, cat/new, cat/renamed, hound/1. Only what neither path nor name found is hashed.
    assert hashed == {1, 2}
    assert match.counts(np.ones(4, bool)) == {"path": 1, "name": 1, "content": 1}
    assert match.counts(np.array([True, False, False, False])) == {"path": 1, "name": 0, "content": 0}


@pytest.mark.parametrize(
    ("here", "there"),
    [("train/", ""), ("", "train/"), ("train/", "data/train/"), ("a/b/", "c/"), ("train/", "train/")],
)
def test_leading_folders_that_all_keys_share_do_not_matter(here: str, there: str) -> None:
    keys = ["cat/1.jpg", "cat/x/2.jpg", "dog/1.jpg"]
    ours = [(here + key, key.startswith("dog"), key) for key in keys]
    theirs = [(there + key, key.startswith("dog"), "other") for key in keys]
    _, pairs, _ = matched(ours, theirs, ["path"])
    assert pairs == {here + key: (there + key, "path") for key in keys}


def test_a_manifest_of_one_class_keeps_its_class_folder() -> None:
    ours = [("train/cat/1.jpg", 0, "a"), ("train/cat/2.jpg", 0, "b")]
    theirs = [("cat/1.jpg", 0, "x"), ("cat/2.jpg", 0, "y"), ("dog/1.jpg", 1, "z")]
    _, pairs, _ = matched(ours, theirs, ["path"])
    assert pairs == {"train/cat/1.jpg": ("cat/1.jpg", "path"), "train/cat/2.jpg": ("cat/2.jpg", "path")}


@pytest.mark.parametrize(
    ("here", "there", "same"),
    [
        ("val/", "train/", False),
        ("train/", "data/test/", False),
        ("val/", "test/", False),
        ("val/", "validation/", True),
        ("training/", "data/train/", True),
        ("val/", "", True),
        ("val/", "photos/", True),
    ],
)
def test_an_image_of_another_split_is_another_image(here: str, there: str, *, same: bool) -> None:
    keys = ["cat/1.jpg", "dog/1.jpg"]
    for shown in (keys, keys[:1]):
        ours = [(here + key, key.startswith("dog"), key) for key in shown]
        theirs = [(there + key, key.startswith("dog"), "other") for key in keys]
        assert len(matched(ours, theirs, ["path"])[1]) == same * len(shown)
        assert len(matched(theirs, ours, ["path"])[1]) == same * len(shown)


def test_another_format_changes_an_extension_and_no_name() -> None:
    ours = [("train/cat/1.jpg", 0, "a"), ("train/cat/2.JPEG", 0, "b"), ("train/cat/3.1", 0, "c")]
    theirs = [("cat/1.png", 0, "x"), ("cat/2.JPEG", 0, "y"), ("cat/3.2", 0, "z")]
    _, pairs, _ = matched(ours, theirs, ["path"])
    assert pairs == {"train/cat/1.jpg": ("cat/1.png", "path"), "train/cat/2.JPEG": ("cat/2.JPEG", "path")}
    _, pairs, _ = matched(ours, [("tom/a/1.webp", 0, "x"), ("tom/b/2.JPEG", 0, "y"), ("tom/c/3.2", 0, "z")])
    assert pairs == {"train/cat/1.jpg": ("tom/a/1.webp", "name"), "train/cat/2.JPEG": ("tom/b/2.JPEG", "name")}


def test_a_name_without_extension_that_is_not_unique_is_not_guessed() -> None:
    ours = [("cat/1.jpg", 0, "a"), ("cat/1.png", 0, "b"), ("cat/2.jpg", 0, "c")]
    match, pairs, _ = matched(ours, [("cat/1.webp", 0, "x"), ("cat/2.gif", 0, "y"), ("cat/2.bmp", 0, "z")])
    assert pairs == {}
    assert match.ambiguous_N.tolist() == [True, True, True]
    # The one that is there as it was leaves the other alone.
    _, pairs, _ = matched(ours, [("cat/1.webp", 0, "x"), ("cat/1.png", 0, "y")])
    assert pairs == {"cat/1.png": ("cat/1.png", "path"), "cat/1.jpg": ("cat/1.webp", "path")}


def test_shared_folders_are_whole_names() -> None:
    for keys, shared in (
        (["train/a/1", "train/b/1"], "train/"),
        (["x/y/a/1", "x/y/b/2"], "x/y/"),
        (["train/1", "train2/1"], ""),
        (["ab/1"], "ab/"),
        (["1"], ""),
        ([], ""),
    ):
        assert shared_folders(pa.array(keys, pa.string())) == shared


def test_a_name_that_is_not_unique_in_its_class_is_not_guessed() -> None:
    ours = [("cat/x/1.jpg", 0, "a"), ("cat/y/1.jpg", 0, "b"), ("dog/y/1.jpg", 1, "c"), ("dog/y/2.jpg", 1, "d")]
    theirs = [("cat/z/1.jpg", 0, "p"), ("dog/p/1.jpg", 1, "q"), ("dog/q/1.jpg", 1, "r"), ("dog/q/2.jpg", 1, "s")]
    match, pairs, _ = matched(ours, theirs)
    assert pairs == {"dog/y/2.jpg": ("dog/q/2.jpg", "name")}
    assert match.ambiguous_N.tolist() == [True, True, True, False]
    # By its content one of them is known after all.
    match, pairs, _ = matched(ours, [("cat/z/1.jpg", 0, "b"), *theirs[1:]])
    assert pairs["cat/y/1.jpg"] == ("cat/z/1.jpg", "content")
    assert match.ambiguous_N.tolist() == [True, False, True, False]


def test_the_same_name_in_another_class_is_another_name() -> None:
    _, pairs, _ = matched([("cat/1.jpg", 0, "a")], [("b/1.jpg", 1, "x"), ("c/2.jpg", 0, "y")])
    assert pairs == {}


def test_equal_images_are_given_out_once_each_those_of_the_class_first() -> None:
    ours = [("a/1", 0, "same"), ("a/2", 0, "same"), ("b/1", 1, "same"), ("b/2", 1, "alone")]
    theirs = [("p/7", 1, "same"), ("p/8", 0, "same"), ("p/9", 1, "alone")]
    _, pairs, _ = matched(ours, theirs, ["content"])
    assert pairs == {"a/1": ("p/8", "content"), "b/1": ("p/7", "content"), "b/2": ("p/9", "content")}
    _, pairs, _ = matched(ours[:2], theirs, ["content"])
    assert pairs == {"a/1": ("p/8", "content"), "a/2": ("p/7", "content")}


def test_images_that_cannot_be_read_are_like_no_other() -> None:
    _, pairs, _ = matched([("a/1", 0, ""), ("a/2", 0, "x")], [("b/3", 0, ""), ("b/4", 0, "x")], ["content"])
    assert pairs == {"a/2": ("b/4", "content")}


def test_hidden_keys_are_found_below_the_split_and_names_are_not_compared() -> None:
    def hide(keys: pa.Array) -> pa.Array:
        return pa.array([hashlib.sha256(key.encode()).hexdigest() for key in keys.to_pylist()], pa.string())

    names = ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"]
    ours = [(hide(pa.array([f"train/{name}"]))[0].as_py(), 0, name) for name in names]
    for prefix in ("", "train/", "photos/", "data/train/"):
        theirs = [(prefix + name, 0, "other") for name in names]
        _, pairs, _ = matched(ours, theirs, ["path", "name"], hide)
        assert pairs == {key: (prefix + name, "path") for key, _, name in ours}
    assert matched(ours, [("val/" + name, 0, "other") for name in names], ["path", "name"], hide)[1] == {}
    _, pairs, _ = matched(ours, [("elsewhere/1.jpg", 0, "other")], hide=hide)
    assert pairs == {}


def test_rows_are_known_by_content_before_their_place_is_taken_for_a_name() -> None:
    ours = [(f"train/{row}", 0, content) for row, content in enumerate("abcde")]
    theirs = [(f"row/{row}", 0, content) for row, content in enumerate("bacxy")]
    rows = [f"train/{row}" for row in range(5)]
    _, pairs, _ = matched(ours, theirs, are_rows=True)
    # d and e are nowhere, and the rows with their numbers hold nothing else that was found.
    expected = [("row/1", "content"), ("row/0", "content"), ("row/2", "content"), ("row/3", "path"), ("row/4", "path")]
    assert pairs == dict(zip(rows, expected, strict=True))
    # e is found in place of d, so that the row of number 3 is not free.
    _, pairs, _ = matched(ours, [*theirs[:3], ("row/3", 0, "e"), theirs[4]], are_rows=True)
    assert pairs["train/4"] == ("row/3", "content")
    assert "train/3" not in pairs
    _, pairs, _ = matched(ours, theirs, ["path"], are_rows=True)
    assert set(pairs.values()) == {(f"row/{row}", "path") for row in range(5)}


def test_nothing_matches_nothing() -> None:
    assert matched([], [("a/1", 0, "x")])[1] == {}
    assert matched([("a/1", 0, "x")], [])[1] == {}


def test_ways_to_match_have_one_order() -> None:
    assert parse_stages([]) == STAGES
    assert parse_stages(["content, path"]) == ("path", "content")
    assert parse_stages(["name", "path"]) == ("path", "name")
    with pytest.raises(UsageError, match="'pixels'"):
        parse_stages(["path,pixels"])


IMAGES = st.lists(
    st.tuples(
        st.builds("{}/{}".format, st.sampled_from(["a", "b", "b/c"]), st.integers(0, 5)),
        st.integers(0, 1),
        st.sampled_from(["", "p", "q", "r"]),
    ),
    max_size=12,
    unique_by=lambda image: image[0],
)


@settings(max_examples=150, deadline=None)
@given(IMAGES, IMAGES)
def test_no_image_is_given_out_twice_and_each_stage_keeps_its_word(ours: Images, theirs: Images) -> None:
    match, pairs, hashed = matched(ours, theirs)
    assert len({there for there, _ in pairs.values()}) == len(pairs)
    label_here, label_there = ({key: label for key, label, _ in images} for images in (ours, theirs))
    content_here, content_there = ({key: content for key, _, content in images} for images in (ours, theirs))
    for key, (there, stage) in pairs.items():
        if stage == "path":
            assert key.endswith(there) or there.endswith(key) or key.split("/")[-1] == there.split("/")[-1]
        elif stage == "name":
            assert (key.split("/")[-1], label_here[key]) == (there.split("/")[-1], label_there[there])
        else:
            assert content_here[key] == content_there[there] != ""
    by_content = matched(ours, theirs, ["content"])[0]
    counts = [Counter(content for _, _, content in images if content) for images in (ours, theirs)]
    assert int((by_content.row_N >= 0).sum()) == (counts[0] & counts[1]).total()
    assert hashed.isdisjoint(row for n, row in enumerate(match.row_N) if match.stage_N[n] in (0, 1))
