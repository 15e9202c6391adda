"""docs/own-loop.md as its reader would follow it: the script, the commands, the diff, the script again."""

import difflib
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import trainer.losses
from manifests.images.identity import mix64
from manifests.manifest import Manifest
from prune_toolkit.main import cli
from trainer import PrunedDataset, distillation_loss
from trainer.models.build import build_model
from trainer.models.weights import save_student

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "own-loop.md").read_text("utf-8")
IMAGES_A_CLASS = 12
EPOCHS = 2
HUNK = re.compile(r"@@ -(\d+),(\d+) \+(\d+),(\d+) @@\n")
# Python 3.12 and later warn of forks in a process with threads; a DataLoader forks all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def first_block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def blocks_with(text: str) -> list[str]:
    """The Python blocks of the page that hold a text."""
    return [block for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if text in block]


def patched(text: str, diff: str) -> str:
    """Apply a unified diff, as strictly as can be: every line it names must be where it says."""
    old, new = text.splitlines(keepends=True), []
    _, *hunks = HUNK.split(diff)
    done = 0
    for start, count, new_start, new_count, body in zip(*[iter(hunks)] * 5, strict=True):
        lines = body.splitlines(keepends=True)
        before = [line[1:] for line in lines if line[0] in " -"]
        after = [line[1:] for line in lines if line[0] in " +"]
        assert (len(before), len(after)) == (int(count), int(new_count))
        new += old[done : int(start) - 1]
        assert len(new) == int(new_start) - 1
        assert old[int(start) - 1 : int(start) - 1 + len(before)] == before
        new += after
        done = int(start) - 1 + len(before)
    return "".join(new + old[done:])


def changed_lines(old: str, new: str) -> int:
    """Lines added, replaced or removed."""
    changes = difflib.SequenceMatcher(a=old.splitlines(), b=new.splitlines(), autojunk=False).get_opcodes()
    return sum(max(a1 - a0, b1 - b0) for kind, a0, a1, b0, b1 in changes if kind != "equal")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos` and the student of another run as `teacher.safetensors`."""
    folder, generator = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for split, count in (("train", IMAGES_A_CLASS), ("val", 4)):
        for label, name in enumerate(("blue", "green", "red")):
            (folder / "photos" / split / name).mkdir(parents=True)
            for row in range(count):
                pixels = generator.integers(0, 160, (100, 120, 3), np.uint8)
                pixels[:, :, 2 - label] += 90
                Image.fromarray(pixels).save(folder / "photos" / split / name / f"{row:02d}.jpg")
    torch.manual_seed(0)
    model, info = build_model("resnet8", class_count=3, image_px=96, pretrained=False)
    save_student(folder / "teacher.safetensors", model, info, {})
    return folder


@pytest.fixture(scope="module")
def labelled(work: Path) -> Manifest:
    """What the commands of the page make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        for line in first_block("sh").splitlines():
            words = shlex.split(line)
            assert words.pop(0) == "prune"
            cli.main(words, prog_name="prune", standalone_mode=False)
    return Manifest.open(work / "labelled")


def run_script(text: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Run it as `python train.py photos` would; returns the student it saves."""
    (work / "train.py").write_text(text)
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "argv", ["train.py", "photos"])
    torch.manual_seed(0)
    runpy.run_path("train.py", run_name="__main__")
    return torch.load("student.pt", weights_only=True)


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Tensor]]:
    """The targets of each step that went through `trainer.distillation_loss`."""
    seen: list[torch.Tensor] = []
    loss = trainer.losses.distillation_loss

    def recorded(student, target, *arguments, **options):
        seen.append(target)
        return loss(student, target, *arguments, **options)

    monkeypatch.setattr(trainer.losses, "distillation_loss", recorded)
    return seen


def in_order(target_nC: np.ndarray) -> np.ndarray:
    return target_nC[np.lexsort(target_nC.T)]


def test_the_diff_applies_and_changes_at_most_ten_lines() -> None:
    before = first_block("python")
    after = patched(before, first_block("diff"))
    assert 0 < changed_lines(before, after) <= 10
    assert "set_epoch" in after
    assert len(before.splitlines()) <= 50


def test_the_script_trains_before_and_after_and_is_taught_the_stored_targets(
    work: Path, labelled: Manifest, taught: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = first_block("python")
    alone = run_script(before, work, monkeypatch)
    assert taught == []
    distilled = run_script(patched(before, first_block("diff")), work, monkeypatch)
    assert len(re.findall(r"^epoch [12]: top-1 [\d.]+ %$", capsys.readouterr().out, re.MULTILINE)) == 2 * EPOCHS
    assert alone.keys() == distilled.keys()
    assert not torch.equal(alone["fc.weight"], distilled["fc.weight"])
    samples, kept = labelled.samples().to_pandas(), labelled.selection().to_pandas().keep
    view_id_n, views = samples.view_id[kept].to_numpy(np.uint64), labelled.header.labels.views
    assert kept.sum() == 3 * IMAGES_A_CLASS // 2
    stored_VnC = np.stack([np.concatenate([block for _, block in labelled.targets(view)]) for view in range(views)])
    target_enC = torch.cat(taught).numpy().reshape(EPOCHS, kept.sum(), 3)
    for epoch, target_nC in enumerate(target_enC):
        # METHODS of views: 1 + (e + hash(view_id)) mod (V - 1).
        view_n = 1 + (epoch + (mix64(view_id_n) % np.uint64(views - 1)).astype(np.int64)) % (views - 1)
        wanted_nC = stored_VnC[view_n, np.arange(len(view_n))].astype(np.float32)
        np.testing.assert_array_equal(in_order(target_nC), in_order(wanted_nC))
    assert not np.array_equal(in_order(target_enC[0]), in_order(target_enC[1]))


N, C, T = 6, 5, 4.0


@pytest.fixture
def mixed() -> Callable[..., tuple[torch.Tensor, ...]]:
    """The function of the page."""
    [block] = blocks_with("def mixed(")
    names: dict[str, Any] = {}
    exec(block, names)
    return names["mixed"]


def a_batch(weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return torch.rand(N, 3, 8, 8), torch.arange(N) % C, 3 * torch.randn(N, C), weights, torch.ones(N)


def drawn(monkeypatch: pytest.MonkeyPatch, lam: float) -> torch.Tensor:
    """Let Beta and randperm give this lambda and the returned order."""
    other = torch.tensor([1, 2, 3, 4, 5, 0])
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda self: torch.tensor(lam, dtype=torch.float64))
    monkeypatch.setattr(torch, "randperm", lambda count, device=None: other)
    return other


@pytest.mark.parametrize("cut", [False, True])
def test_mixed_batches_teach_what_the_sum_of_both_losses_teaches(
    mixed: Callable, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CutMix with lambda .75 pastes a square of 4 x 4 of 8 x 8 pixels: a quarter."""
    batch, other = a_batch(torch.ones(N)), drawn(monkeypatch, 0.75)
    images, labels, targets, weights, kd_weights = mixed(*batch, class_count=C, temperature=T, cut=cut)
    assert labels[0].tolist() == [0.75, 0.25, 0, 0, 0]
    p_nC = torch.softmax(batch[2] / T, dim=1)
    torch.testing.assert_close(torch.softmax(targets / T, dim=1), 0.75 * p_nC + 0.25 * p_nC[other])
    if cut:
        from_other = (images == batch[0][other]).all(dim=1)
        assert from_other.sum(dim=(1, 2)).tolist() == [16] * N
        assert ((images == batch[0]).all(dim=1) | from_other).all()
    else:
        torch.testing.assert_close(images, 0.75 * batch[0] + 0.25 * batch[0][other])
    settings = {"alpha": 0.9, "temperature": T}
    logits = torch.randn(N, C, requires_grad=True)
    mixed_loss = distillation_loss(logits, targets, labels, weights, kd_weights, **settings)
    [block] = blocks_with("two = distillation_loss(")
    names = dict(zip(("labels", "targets", "weights", "kd_weights"), batch[1:], strict=True))
    names |= {"distillation_loss": distillation_loss, "outputs": logits, "other": other, "lam": 0.75}
    exec(block, names)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, logits)[0] for loss in (mixed_loss, names["loss"])), rtol=1e-4, atol=1e-7
    )


def test_certain_targets_and_whole_images_mix_to_finite_losses(
    mixed: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels, targets, *weights = a_batch(torch.ones(N))
    for lam in (0.0, 1.0):
        drawn(monkeypatch, lam)
        for cut in (False, True):
            batch = mixed(images, labels, 1e4 * targets, *weights, class_count=C, temperature=T, cut=cut)
            loss = distillation_loss(torch.zeros(N, C), batch[2], batch[1], *batch[3:], alpha=0.9, temperature=T)
            assert torch.isfinite(loss)


def test_class_weights_multiply_the_loss_of_each_sample() -> None:
    """Classes 0 to 4 weigh 1 to 5; of mixed labels, half of 0 and half of 2 weighs 2."""
    [block] = blocks_with("class_weights[labels]")
    names: dict[str, Any] = {"weights": torch.ones(3), "class_weights": torch.arange(1.0, 6.0)}
    names["labels"] = torch.tensor([0, 4, 2])
    exec(block, names)
    assert names["weights"].tolist() == [1, 5, 3]
    assert (torch.tensor([[0.5, 0, 0.5, 0, 0]]) @ names["class_weights"]).tolist() == [2]


def test_a_mixed_batch_of_a_selection_is_learned_from(labelled: Manifest, mixed: Callable) -> None:
    torch.manual_seed(0)
    train_set = PrunedDataset(labelled.folder, temperature=T)
    batch = next(iter(torch.utils.data.DataLoader(train_set, 8)))
    model, _ = build_model("resnet8", class_count=3, image_px=96, pretrained=False)
    [block] = blocks_with("batch = mixed(")
    names = {"mixed": mixed, "batch": batch, "train_set": train_set, "model": model}
    names["distillation_loss"] = distillation_loss
    exec(block, names)
    names["loss"].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
