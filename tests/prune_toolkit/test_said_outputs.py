"""What is said of a teacher's outputs, at the commands: scored, recorded, and labelled again without saying it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_manifests import make
from scipy.special import log_softmax, logsumexp

import prune_toolkit as pt
from manifests.integrity import verify
from manifests.manifest import Manifest

TEACHER = ("--teacher", "teachers:linear", "--image-size", 8, "--threads", 1)
Run = Callable[..., subprocess.CompletedProcess[str]]
ORDER = [3, 1, 2, 0, 4, 5, 6, 7, 9, 8]


@pytest.fixture(scope="module")
def index(prune: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("said") / "index"
    prune("index", "demo:digits", "-o", folder)
    return folder


@pytest.fixture(scope="module")
def plain(prune: Run, index: Path) -> Manifest:
    prune("score", index, *TEACHER, "-o", index.parent / "plain")
    return Manifest.open(index.parent / "plain")


def logits_of(manifest: Manifest) -> np.ndarray:
    return np.concatenate([logits for _, logits in manifest.logits()]).astype(np.float32)


def floored_log_softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities below the smallest normal number of float32 count as that."""
    return np.maximum(log_softmax(logits, axis=1), -126 * np.log(2))


def test_swapped_outputs_are_mended_by_their_names_and_labelled_without_them(
    prune: Run, index: Path, plain: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "outputs.txt").write_text("\n".join(map(str, ORDER)))
    said = ("--teacher", "teachers:swapped", "--image-size", 8, "--threads", 1)
    prune("score", index, *said, "--outputs", tmp_path / "outputs.txt", "-o", tmp_path / "m")
    scored = Manifest.open(tmp_path / "m")
    np.testing.assert_array_equal(logits_of(scored), logits_of(plain))
    assert scored.header.teacher is not None
    assert scored.header.teacher.output_map == [ORDER.index(label) for label in range(10)]
    assert scored.header.schema_version == plain.header.schema_version
    prune("select", tmp_path / "m", "--keep", "0.1", "--no-beton", "--labels", "raw", "-o", tmp_path / "s")
    label = ("label", tmp_path / "s", *said[:2], "--threads", 1, "--views", 1, "--no-beton")
    prune(*label, "-o", tmp_path / "l")
    [(ids, targets)] = Manifest.open(tmp_path / "l").targets()
    np.testing.assert_array_equal(targets.astype(np.float32), logits_of(plain)[ids])
    (tmp_path / "outputs.txt").write_text("\n".join(map(str, range(10))))
    told = prune(*label, "--outputs", tmp_path / "outputs.txt", "-o", tmp_path / "x", code=4).stderr
    assert "with other outputs of the teacher as the classes" in told


def test_coarse_classes_are_unions_of_outputs(prune: Run, plain: Manifest, tmp_path: Path) -> None:
    """Digits below 5 are low, the others high: of ten outputs, five are each."""
    rows = "".join(f"{output},{'low' if output < 5 else 'high'}\n" for output in range(10))
    (tmp_path / "outputs.csv").write_text("output,class\n" + rows)
    make(tmp_path / "index", "abcdefgh", [0, 1] * 4, classes=("high", "low"))
    logits = logits_of(plain)[:8]
    np.save(tmp_path / "fine.npy", logits)
    words = ("import", tmp_path / "fine.npy", tmp_path / "index", "--logits", "--teacher-name", "t", "--image-size", 8)
    told = prune(*words, "--outputs", tmp_path / "outputs.csv", "-o", tmp_path / "m").stderr
    assert "the logsumexp of 5 outputs is high, 5 outputs is low" in told
    coarse = Manifest.open(tmp_path / "m")
    assert coarse.header.teacher is not None
    assert coarse.header.schema_version == "1.4"
    assert coarse.header.teacher.output_map is None
    assert coarse.header.teacher.output_groups == [[5, 6, 7, 8, 9], [0, 1, 2, 3, 4]]
    by_hand = np.stack([logsumexp(logits[:, 5:], axis=1), logsumexp(logits[:, :5], axis=1)], axis=1)
    np.testing.assert_allclose(logits_of(coarse), by_hand, rtol=1e-3)
    assert verify(tmp_path / "m").ok


def test_probabilities_in_a_tuple_are_scored_and_labelled(
    prune: Run, index: Path, plain: Manifest, tmp_path: Path
) -> None:
    said = ("--teacher", "teachers:pair", "--image-size", 8, "--threads", 1)
    told = prune("score", index, *said, "--limit", 20, code=3).stderr
    assert "choose with --output KEY; it returns 0 (1, 10), 1 (1, 10)" in told
    told = prune("score", index, *said, "--output", 1, "--limit", 20, code=3).stderr
    assert "teachers:pair returns probabilities, not logits" in told
    assert "--probabilities" in told
    prune("score", index, *said, "--output", 1, "--probabilities", "-o", tmp_path / "m")
    scored = Manifest.open(tmp_path / "m")
    np.testing.assert_allclose(logits_of(scored), floored_log_softmax(logits_of(plain)), atol=0.1)
    card = scored.header.teacher
    assert card is not None
    assert (card.output_key, card.probabilities, scored.header.schema_version) == ("1", "softmax", "1.4")
    prune("select", tmp_path / "m", "--keep", "0.1", "--no-beton", "--labels", "raw", "-o", tmp_path / "s")
    prune("label", tmp_path / "s", *said[:2], "--threads", 1, "--views", 1, "--no-beton", "-o", tmp_path / "l")
    [(ids, targets)] = Manifest.open(tmp_path / "l").targets()
    np.testing.assert_array_equal(targets.astype(np.float32), logits_of(scored)[ids])
    logits = tmp_path / "logits"
    prune("score", index, *said, "--output", 0, "-o", logits)
    prune("select", logits, "--keep", "0.1", "--no-beton", "-o", tmp_path / "s0")
    told = prune("label", tmp_path / "s0", *said[:2], "--output", 1, "--probabilities", "-o", tmp_path / "x", code=4)
    assert "from the logits at --output 0 of the teacher; now it is from the softmax probabilities at" in told.stderr


def test_the_python_interface_takes_names_and_positions(index: Path, plain: Manifest, tmp_path: Path) -> None:
    import torch

    class Swapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(3)
            self.weight = torch.nn.Parameter(torch.randn(192, 10, generator=generator))

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = images.reshape(len(images), -1) @ self.weight
            return logits.flip(0), logits[:, ORDER]

    assert plain.header.teacher is not None
    manifest = pt.score(
        index,
        teacher=Swapped(),
        preprocessing=plain.header.teacher.preprocessing,
        outputs=[str(label) for label in ORDER],
        output=1,
        out=tmp_path / "m",
        device="cpu",
    )
    np.testing.assert_allclose(logits_of(manifest), logits_of(plain), rtol=1e-3, atol=0.05)
    chosen = pt.select(manifest, keep=0.1, beton=False, labels="raw", out=tmp_path / "s")
    labelled = pt.label(chosen, teacher=Swapped(), views=1, beton=False, out=tmp_path / "l", device="cpu")
    [(ids, targets)] = labelled.targets()
    np.testing.assert_array_equal(targets.astype(np.float32), logits_of(manifest)[ids])


def test_a_live_teacher_is_named_before_its_outputs(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from manifests.errors import UsageError
    from trainer.cli.train_student import train_student

    names = tmp_path / "o.txt"
    names.write_text("cat\n")
    for flags in (["--outputs", str(names)], ["--probabilities"], ["--output", "0"]):
        result = CliRunner().invoke(train_student, ["--manifest", str(tmp_path), *flags])
        assert isinstance(result.exception, UsageError)
        assert flags[0] in str(result.exception)


def test_a_file_of_names_that_fits_nothing_is_told(prune: Run, index: Path, tmp_path: Path) -> None:
    (tmp_path / "outputs.json").write_text(json.dumps([str(label) for label in range(9)]))
    words = ("score", index, *TEACHER, "--outputs", tmp_path / "outputs.json", "-o", tmp_path / "x")
    assert "the teacher has 10 outputs" in prune(*words, code=4).stderr
