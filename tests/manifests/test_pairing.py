from pathlib import Path

import pytest
from made_manifests import make

from manifests.compare.pairing import Side, labels_in, pair_samples

EMPTY = bytes(16)


def side(folder: Path, *keys: str, source: str = "folder", **contents: bytes) -> Side:
    return Side.of(make(folder, keys, [0] * len(keys), contents=contents, data={"source": source}))


def test_samples_are_paired_by_key(tmp_path: Path) -> None:
    pairs = pair_samples(side(tmp_path / "a", "k", "m", "p"), side(tmp_path / "b", "a", "m", "p", "z"))
    assert (pairs.by, pairs.a_n.tolist(), pairs.b_n.tolist()) == ("key", [1, 2], [1, 2])


def test_without_a_common_key_samples_are_paired_by_content_that_is_once_in_each(tmp_path: Path) -> None:
    """x and y are once in each; t is twice in A, u twice in B; nobody could read the zeros."""
    x, y, t, u = (bytes([n] * 16) for n in (9, 7, 5, 3))
    a = side(tmp_path / "a", "a0", "a1", "a2", "a3", "a4", "a5", a0=y, a1=t, a2=x, a3=t, a4=u, a5=EMPTY)
    b = side(tmp_path / "b", "b0", "b1", "b2", "b3", "b4", "b5", b0=t, b1=x, b2=u, b3=u, b4=y, b5=EMPTY)
    pairs = pair_samples(a, b)
    assert (pairs.by, pairs.a_n.tolist(), pairs.b_n.tolist()) == ("content hash", [0, 2], [4, 1])


def test_hashes_that_differ_in_one_half_are_no_pair(tmp_path: Path) -> None:
    a = side(tmp_path / "a", "a0", "a1", a0=bytes(8) + b"12345678", a1=b"12345678" + bytes(8))
    b = side(tmp_path / "b", "b0", "b1", b0=bytes(8) + b"12345679", b1=b"12345678" + bytes(8))
    pairs = pair_samples(a, b)
    assert (pairs.a_n.tolist(), pairs.b_n.tolist()) == ([1], [1])


@pytest.mark.parametrize("sources", [("idx", "idx"), ("parquet", "folder"), ("folder", "cifar")])
def test_row_numbers_are_compared_by_content_first(tmp_path: Path, sources: tuple[str, str]) -> None:
    """x is row 0 and row 2, y is row 1 and row 0; what is left of A is row 2, of B row 1."""
    x, y, s, t = (bytes([n] * 16) for n in (9, 7, 5, 3))
    one, other = sources
    a = side(tmp_path / "a", "r0", "r1", "r2", source=one, r0=x, r1=y, r2=s)
    b = side(tmp_path / "b", "r0", "r1", "r2", source=other, r0=y, r1=t, r2=x)
    pairs = pair_samples(a, b)
    assert (pairs.by, pairs.a_n.tolist(), pairs.b_n.tolist()) == ("content hash, then row number", [0, 1], [2, 0])


def test_what_content_does_not_tell_is_taken_by_row_number(tmp_path: Path) -> None:
    """t is twice, nobody could read row 3, row 4 was replaced: all are where they were."""
    t, u, v, w = (bytes([n] * 16) for n in (9, 7, 5, 3))
    a = side(tmp_path / "a", "r0", "r1", "r2", "r3", "r4", source="idx", r0=t, r1=u, r2=t, r3=EMPTY, r4=v)
    b = side(tmp_path / "b", "r0", "r1", "r2", "r3", "r4", source="idx", r0=t, r1=u, r2=t, r3=EMPTY, r4=w)
    pairs = pair_samples(a, b)
    assert (pairs.by, pairs.a_n.tolist(), pairs.b_n.tolist()) == ("key", [0, 1, 2, 3, 4], [0, 1, 2, 3, 4])


def test_nothing_in_common_is_no_pair(tmp_path: Path) -> None:
    pairs = pair_samples(side(tmp_path / "a", "a"), side(tmp_path / "b", "b"))
    assert len(pairs.a_n) == len(pairs.b_n) == 0


def test_labels_go_by_name() -> None:
    assert labels_in(["cat", "dog", "eel"], ["eel", "cat", "fox"]).tolist() == [1, -1, 0]
    # Names that two classes share mean nothing but in equal lists.
    assert labels_in(["crane", "crane"], ["crane", "crane"]).tolist() == [0, 1]
