"""docs/own-loop.md as its reader would follow it: the script, the commands, the diff, the script again."""

import difflib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import trainer.losses
from manifests.images.identity import mix64
from manifests.manifest import Manifest
from prune_toolkit.main import cli
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
