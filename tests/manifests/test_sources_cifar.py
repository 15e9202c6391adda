import contextlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from manifests.images.decode import Pixels
from manifests.sources import open_source

RNG = np.random.default_rng(0)


def python2_batch(data: NDArray[np.uint8], lists: dict[bytes, list[int]]) -> bytes:
    """The opcodes Python 2 wrote: protocol 2, every text a byte string, an array as _reconstruct + state."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR("
    dtype += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR("
    array += number(1) + b"(" + b"".join(number(size) for size in data.shape) + b"t" + dtype + b"\x89"
    array += text(data.tobytes()) + b"tb"
    body = text(b"data") + array
    for name, values in lists.items():
        body += text(name) + b"](" + b"".join(number(value) for value in values) + b"e"
    return b"\x80\x02}(" + body + b"u."


def cifar10(folder: Path, rows: int = 4, *, protocol: int | None = None) -> tuple[NDArray[np.uint8], list[int]]:
    """Write a small cifar-10-batches-py; returns the train pixels (N, 3072) and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, kept_labels = [], []
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        data = RNG.integers(0, 256, (rows, 3072), np.uint8)
        labels = RNG.permutation(10)[:rows].tolist()
        if protocol is None:
            content = python2_batch(data, {b"labels": labels})
        else:
            content = pickle.dumps({"data": data, "labels": labels}, protocol)
        (folder / name).write_bytes(content)
        kept.append(data)
        kept_labels.append(labels)
    names = [f"class {number}" for number in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol or 2))
    return np.concatenate(kept[:5]), [label for labels in kept_labels[:5] for label in labels]


@pytest.mark.parametrize("protocol", [None, 2, 3, 4])
def test_cifar10_batches_of_any_pickle_protocol_become_pixels(tmp_path: Path, protocol: int | None) -> None:
    data, labels = cifar10(tmp_path / "cifar-10-batches-py", protocol=protocol)
    for spec in (tmp_path, tmp_path / "cifar-10-batches-py"):
        source = open_source(str(spec))
        assert (source.kind, source.name, source.split) == ("cifar", "cifar-10-batches-py", "train")
        assert source.labels_N.tolist() == labels
        assert source.class_names[9] == "class 9"
        assert source.keys[19] == "train/00000019"
        for row, image in enumerate(source.read(range(20))):
            assert isinstance(image, Pixels)
            np.testing.assert_array_equal(image.array, data[row].reshape(3, 32, 32).transpose(1, 2, 0))


def test_cifar10_is_what_torchvision_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    cifar10(tmp_path / "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    for split in ("train", "test"):
        oracle = CIFAR10(tmp_path, train=split == "train")
        source = open_source(str(tmp_path), split=split)
        assert source.labels_N.tolist() == oracle.targets
        assert list(source.class_names) == oracle.classes
        stored = [image.array for image in source.read(range(len(oracle))) if isinstance(image, Pixels)]
        np.testing.assert_array_equal(np.stack(stored), oracle.data)


def cifar100(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        lists = {b"fine_labels": [3, 0, 2, 1], b"coarse_labels": [1, 0, 1, 0]}
        (folder / name).write_bytes(python2_batch(np.zeros((4, 3072), np.uint8), lists))
    names = {b"fine_label_names": [b"a", b"b", b"c", b"d"], b"coarse_label_names": [b"x", b"y"]}
    (folder / "meta").write_bytes(pickle.dumps(names, 2))


def test_cifar100_has_fine_and_coarse_labels(tmp_path: Path) -> None:
    cifar100(tmp_path / "cifar-100-python")
    fine = open_source(str(tmp_path), split="val")
    assert (fine.labels_N.tolist(), fine.class_names, fine.split) == ([3, 0, 2, 1], ("a", "b", "c", "d"), "test")
    coarse = open_source(str(tmp_path), label="coarse_label")
    assert (coarse.labels_N.tolist(), coarse.class_names) == ([1, 0, 1, 0], ("x", "y"))
    with pytest.raises(UsageError, match="no label column 'kind'"):
        open_source(str(tmp_path), label="kind")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("owned"),))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({b"data": Evil()}),
        b"cos\nsystem\n(S'touch owned'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
        b"\x80\x02]r\xff\xff\xff\x7f.",
    ],
)
def test_a_pickle_that_asks_for_anything_else_is_refused_and_not_run(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cifar10(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(content)
    with pytest.raises(InputError, match="data_batch_3 is not a CIFAR batch"):
        open_source(str(tmp_path))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1]), "is not a dictionary"),
        (pickle.dumps({b"labels": [1]}), "lacks a b'data' array"),
        (python2_batch(np.zeros((2, 3072), np.uint8), {b"labels": [0, 1, 2]}), "not 3 rows of 3072"),
        (python2_batch(np.zeros((2, 100), np.uint8), {b"labels": [0, 1]}), "not 2 rows of 3072"),
        (python2_batch(np.zeros((2, 3072), np.uint8), {b"labels": [0, -1]}), "not a class number"),
        (python2_batch(np.zeros((2, 3072), np.uint8), {b"labels": [0, 11]}), r"label 11, outside 0\.\.9"),
        (pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [0, 1]}, 2), "not 2 rows of 3072"),
        (b"", "pickle exhausted"),
    ],
)
def test_a_batch_that_is_not_cifar_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    cifar10(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path))


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    cifar10(tmp_path)
    (tmp_path / "data_batch_4").unlink()
    with pytest.raises(InputError, match=r"lacks data_batch_4, of 5 batches"):
        open_source(str(tmp_path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(data=st.data())
def test_a_damaged_batch_is_an_input_error_or_still_a_batch(tmp_path: Path, data: st.DataObject) -> None:
    if not (tmp_path / "batches.meta").exists():
        cifar10(tmp_path, rows=2)
    whole = python2_batch(np.zeros((2, 3072), np.uint8), {b"labels": [0, 1]})
    edges = st.one_of(st.integers(0, 200), st.integers(len(whole) - 60, len(whole) - 1))
    damaged = bytearray(whole)
    for position in data.draw(st.lists(edges, min_size=1, max_size=4)):
        damaged[position] = data.draw(st.integers(0, 255))
    (tmp_path / "data_batch_1").write_bytes(damaged)
    with contextlib.suppress(InputError):
        assert len(open_source(str(tmp_path)).keys) >= 8
