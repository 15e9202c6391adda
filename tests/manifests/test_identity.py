import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from manifests.images.decode import Encoded, Pixels
from manifests.images.identity import content_hash, fingerprint, hash_words, mix64, uniform, view_ids

MASK = (1 << 64) - 1
WORDS = st.integers(-(1 << 63), MASK)


def chain_in_plain_integers(*words: int) -> int:
    state = 0
    for word in words:
        z = ((state ^ (word & MASK)) + 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        state = z ^ (z >> 31)
    return state


def test_one_word_gives_the_published_splitmix64_sequence() -> None:
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    steps = [(1234567 + step * 0x9E3779B97F4A7C15) & MASK for step in range(5)]
    assert [int(mix64(state)) for state in steps] == published
    assert int(mix64(0)) == 0xE220A8397B1DCDAF


@given(st.lists(WORDS, min_size=1, max_size=4))
def test_a_chain_of_words_equals_plain_integer_arithmetic(words: list[int]) -> None:
    assert int(mix64(*words)) == chain_in_plain_integers(*words)


def test_arrays_are_hashed_as_their_elements_and_broadcast() -> None:
    ids = np.array([0, 1, -1, 1 << 62], np.int64)
    seeds = np.array([[3], [4]], np.uint64)
    table = mix64(seeds, ids, 7)
    assert table.shape == (2, 4)
    assert table.dtype == np.uint64
    expected = [[chain_in_plain_integers(seed, int(i), 7) for i in ids] for seed in (3, 4)]
    assert table.tolist() == expected


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_negative_numbers_hash_alike_in_every_width(dtype: type[np.signedinteger]) -> None:
    assert mix64(np.array([-5], dtype)).tolist() == [chain_in_plain_integers(-5)]


def test_the_order_of_words_matters() -> None:
    assert int(mix64(1, 2)) != int(mix64(2, 1))


def test_floats_are_refused_instead_of_cut() -> None:
    with pytest.raises(TypeError, match="integers expected"):
        mix64(np.array([0.25, 0.75]))


def test_uniform_is_the_upper_53_bits() -> None:
    words = np.arange(1000)
    expected = [(chain_in_plain_integers(9, int(i)) >> 11) / 2**53 for i in words]
    assert uniform(9, words).tolist() == expected


def test_uniform_fills_its_interval_evenly_for_counted_ids_and_seeds() -> None:
    draws = uniform(np.arange(100)[:, None], np.arange(1000)).ravel()
    assert 0 <= draws.min() < draws.max() < 1
    counts, _ = np.histogram(draws, bins=100, range=(0, 1))
    assert 1e-3 < chisquare(counts).pvalue < 1 - 1e-3


def test_the_hash_of_encoded_bytes_is_the_start_of_their_sha256() -> None:
    assert content_hash(Encoded(b"abc")).hex() == "ba7816bf8f01cfea414140de5dae2223"


@pytest.mark.parametrize(
    ("shape", "prefix"), [((2, 3), b"2x3x1"), ((2, 3, 1), b"2x3x1"), ((2, 3, 3), b"2x3x3"), ((3, 2), b"3x2x1")]
)
def test_the_hash_of_pixels_covers_shape_and_values(shape: tuple[int, ...], prefix: bytes) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    assert content_hash(Pixels(array)) == hashlib.sha256(prefix + bytes(range(array.size))).digest()[:16]


def test_the_hash_of_pixels_does_not_depend_on_their_memory_order() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert content_hash(Pixels(np.asfortranarray(array))) == content_hash(Pixels(array))
    assert content_hash(Pixels(array[:, ::-1][:, ::-1])) == content_hash(Pixels(array))


def test_view_ids_are_the_first_little_endian_half_of_the_hash() -> None:
    hashes = [bytes(range(16)), bytes(range(240, 256))]
    table = np.frombuffer(b"".join(hashes), np.uint8).reshape(2, 16)
    assert view_ids(table).tolist() == [int.from_bytes(h[:8], "little") for h in hashes]
    assert hash_words(table)[1].tolist() == [int.from_bytes(h[8:], "little") for h in hashes]
    assert view_ids(np.empty((0, 16), np.uint8)).shape == (0,)


ROWS = [("train/a.png", "cat", b"\1" * 16), ("train/b.png", "dog", b"\2" * 16), ("val/a.png", "cat", b"\3" * 16)]


def fingerprint_of(rows: list[tuple[str, str, bytes]]) -> str:
    return fingerprint(*zip(*rows, strict=True))


def test_the_fingerprint_is_the_hash_of_the_sorted_row_digests() -> None:
    digests = sorted(hashlib.sha256(f"{k}\0{c}\0".encode() + h).digest()[:16] for k, c, h in ROWS)
    assert fingerprint_of(ROWS) == hashlib.sha256(b"".join(digests)).hexdigest()


def test_the_fingerprint_does_not_depend_on_the_order_of_rows() -> None:
    assert fingerprint_of(ROWS[::-1]) == fingerprint_of(ROWS)


@pytest.mark.parametrize("row", [("train/c.png", "cat", b"\1" * 16), ("train/a.png", "cow", b"\1" * 16),
                                 ("train/a.png", "cat", b"\4" * 16)])  # fmt: skip
def test_the_fingerprint_sees_a_changed_key_class_or_image(row: tuple[str, str, bytes]) -> None:
    assert fingerprint_of([row, *ROWS[1:]]) != fingerprint_of(ROWS)


def test_a_fingerprint_needs_as_many_classes_and_hashes_as_keys() -> None:
    with pytest.raises(ValueError, match="zip"):
        fingerprint(["a", "b"], ["cat"], [b"\0" * 16])
