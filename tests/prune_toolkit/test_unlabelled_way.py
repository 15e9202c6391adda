"""The whole way on images without labels: the teacher's answers stand in for them, and a student learns by KD alone."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import prune_toolkit as pt
from manifests.errors import InputError, UsageError
from manifests.format.header import DataSet, Header, Tool
from manifests.manifest import Manifest
from prune_toolkit.scoring.logit_scores import compute_scores
from prune_toolkit.scoring.pseudo_labels import answers, part_labels
from trainer.data.order import epoch_batches
from trainer.data.task import open_task
from trainer.loop.recipes import resolve
from trainer.loop.run_report import opening_lines

Run = Callable[..., subprocess.CompletedProcess[str]]
ROWS, TEST = 200, 300
PREPROCESSING = pt.Preprocessing(image_px=8, resize_px=8, mean=[0.5] * 3, std=[0.5] * 3)
LABEL_FREE = ["confidence", "entropy", "top2_margin"]


class Nearest(nn.Module):
    """A teacher of digits: minus the distance to the mean image of each class, on digits that are not shown here."""

    def __init__(self) -> None:
        super().__init__()
        digits = load_digits()
        images = digits.images[TEST:] * 15 / 255
        means = np.stack([images[digits.target[TEST:] == label].mean(axis=0).ravel() for label in range(10)])
        self.linear = nn.Linear(64, 10)
        import torch

        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(4 * means))
            self.linear.bias.copy_(torch.from_numpy(-2 * (means**2).sum(axis=1)))

    def forward(self, images: Any) -> Any:
        # Normalised images are between -1 and 1.
        return self.linear((images.mean(dim=1).flatten(1) + 1) / 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits: 200 in class folders (`classes`), the same in one folder (`flat`), and 100 others (`val`)."""
    root, digits = tmp_path_factory.mktemp("way"), load_digits()
    for row in range(TEST):
        label, image = str(digits.target[row]), Image.fromarray((digits.images[row] * 15).astype(np.uint8))
        places = ("classes", "flat") if row < ROWS else ("val",)
        for place in places:
            path = root / place / ("." if place == "flat" else label) / f"{row:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    (root / "digits.txt").write_text("\n".join("0123456789"))
    return root


def score(root: Path, data: Any, out: str, **options: Any) -> Manifest:
    return pt.score(
        data, teacher=Nearest(), preprocessing=PREPROCESSING, out=root / out, index=root / "none", **options
    )


@pytest.fixture(scope="module")
def ignored(root: Path) -> pt.DataSpec:
    return pt.DataSpec(data=str(root / "classes"), unlabelled=True)


@pytest.fixture(scope="module")
def scored(root: Path, ignored: pt.DataSpec) -> Manifest:
    return score(root, ignored, "scored", views=3, features=True, val=root / "val", classes=root / "digits.txt")


@pytest.fixture(scope="module")
def labelled(root: Path) -> Manifest:
    return score(root, root / "classes", "labelled", views=3)


@pytest.fixture(scope="module")
def selection(root: Path, scored: Manifest) -> Manifest:
    return pt.select(scored, keep=0.5, labels="raw", out=root / "selection")


def test_the_answer_is_the_lowest_of_the_largest_logits() -> None:
    assert answers(np.array([[1, 3, 3], [2, 0, 1]], np.float16)).tolist() == [1, 0]
    assert part_labels(4, np.array([1, 3]), np.array([7, 2])).tolist() == [0, 7, 0, 2]


def test_scores_that_need_no_label_are_computed_without() -> None:
    logits = np.array([[0.0, np.log(3)], [0.0, 0.0]])
    found = compute_scores(logits, None)
    assert sorted(found) == LABEL_FREE
    np.testing.assert_allclose(found["confidence"], [0.75, 0.5])
    with pytest.raises(UsageError, match="reads labels"):
        compute_scores(logits, None, ["loss"])


def test_the_same_images_have_the_same_logits_and_hashes_with_and_without_labels(
    scored: Manifest, labelled: Manifest
) -> None:
    columns = ["key", "content_hash", "view_id"]
    assert scored.samples(columns).equals(labelled.samples(columns))
    for view in range(3):
        for (ids, ours), (other_ids, theirs) in zip(scored.logits(view), labelled.logits(view), strict=True):
            np.testing.assert_array_equal(ids, other_ids)
            np.testing.assert_array_equal(ours, theirs)
    for name in LABEL_FREE:
        np.testing.assert_array_equal(scored.scores().column(name), labelled.scores().column(name))


def test_labels_are_the_teachers_answers_for_view_0(scored: Manifest, labelled: Manifest) -> None:
    (_, logits_nC), *rest = list(scored.logits(0))
    assert not rest
    found_n = scored.samples(["label"]).column("label").to_numpy()
    np.testing.assert_array_equal(found_n, logits_nC.argmax(axis=1))
    true_n = labelled.samples(["label"]).column("label").to_numpy()
    top1 = labelled.header.teacher.train_top1  # type: ignore[union-attr]
    assert np.mean(found_n == true_n) == pytest.approx(top1)
    assert 0.8 < top1 < 1  # type: ignore[operator]


def test_the_header_records_it_and_claims_no_accuracy(scored: Manifest) -> None:
    data, teacher = scored.header.data, scored.header.teacher
    assert (data.labels_from, data.class_names) == ("teacher", list("0123456789"))
    assert teacher is not None
    assert (teacher.train_top1, teacher.train_ece, teacher.top1_text) == (None, None, "top-1 unknown without labels")
    assert teacher.val_top1 is not None
    assert teacher.val_top1 > 0.8
    names = [f"{spec.set}/{spec.name}" for spec in scored.header.scores]
    assert names == [f"teacher/{name}" for name in LABEL_FREE] + ["features/moderate", "features/prototypes"]


def test_an_index_and_the_images_give_the_same_labels_and_fingerprint(
    root: Path, ignored: pt.DataSpec, scored: Manifest
) -> None:
    index = pt.index(ignored, out=root / "index")
    again = score(root, index, "from-index", views=3)
    assert again.samples().equals(scored.samples())
    assert again.header.data.fingerprint == scored.header.data.fingerprint == index.header.data.fingerprint
    # Another teacher's answers replace those of the first.
    assert score(root, again, "again").samples().equals(scored.samples())
    assert again.class_names[9] == "output 9"


def test_class_names_can_be_given(root: Path) -> None:
    (root / "names.txt").write_text("\n".join("abcdefghij"))
    flat = pt.DataSpec(data=str(root / "flat"), unlabelled=True)
    assert score(root, flat, "named", classes=root / "names.txt").class_names == list("abcdefghij")
    (root / "few.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="10 outputs"):
        score(root, flat, "few", classes=root / "few.txt")


def test_val_without_labels_cannot_measure_a_teacher(root: Path, ignored: pt.DataSpec) -> None:
    with pytest.raises(UsageError, match="no labels to measure the teacher by"):
        score(root, ignored, "by-none", val=pt.DataSpec(data=str(root / "flat"), unlabelled=True))
    with pytest.raises(UsageError, match="influence, which needs labels"):
        score(root, ignored, "by-none", features=True, held_out=root / "val")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"score": "loss"}, "the score loss compares answers with labels"),
        ({"score": "dynamics/aum"}, "the score aum compares answers with labels"),
        ({"preset": "mdslr"}, "the score loss compares answers with labels"),
        ({"preset": "lr-ds"}, "label revision corrects a teacher by the labels"),
        ({"labels": "revise"}, "label revision corrects a teacher by the labels"),
        ({"distill_fraction": "0.5", "distill_by": "random"}, "learned from their labels alone"),
    ],
)
def test_a_choice_by_labels_is_refused(root: Path, scored: Manifest, options: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        pt.select(scored, keep=0.5, out=root / "refused", **options)


def test_selectors_rank_by_a_score_without_labels_and_say_so(
    root: Path, scored: Manifest, selection: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    pt.select(scored, keep=0.5, selector="ccs", out=root / "ccs")
    assert "ranked by top2_margin: margin needs labels, and the images have none" in capsys.readouterr().err
    chosen = selection.header.selection
    assert chosen is not None
    assert (chosen.method, chosen.score) == ("medium", "entropy")
    label_n = scored.samples(["label"]).column("label").to_numpy()
    kept_n = selection.selection().column("keep").to_numpy(zero_copy_only=False)
    sizes, kept = np.bincount(label_n, minlength=10), np.bincount(label_n[kept_n], minlength=10)
    assert kept_n.sum() == ROWS // 2
    assert (np.abs(kept - sizes / 2) <= 1).all()


def test_a_student_learns_by_kd_alone(root: Path, selection: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
    many = pt.label(selection, teacher=Nearest(), views=3, pad=1, flip=False, out=root / "many")
    assert many.header.data.labels_from == "teacher"
    assert many.samples().equals(selection.samples())
    run = pt.train_student(many, recipe="demo", epochs=15, batch_size=16, val=root / "val", out=root / "run")
    told = capsys.readouterr().err
    assert "agrees with the teacher" in told
    assert "train top-1" not in told
    assert (run.report["config"]["kd_weight"], run.report["config"]["ce_weight"]) == (1.0, 0.0)
    assert run.report["manifest"]["labels_from"] == "teacher"
    assert run.metrics["top1"] > 0.6
    task = open_task(many)
    config = resolve(task.loss_values({}), recipe="demo", stored=task.stored)
    opening = opening_lines(task, config, epoch_batches(config, task.beton.count, 1), None)
    assert any(line.startswith("no labels: the loss is KD alone") for line in opening)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss": "ce"}, "--loss ce needs labels"),
        ({"loss": "dkd"}, "--loss dkd needs labels"),
        ({"ce_weight": 0.1}, "--ce-weight needs labels"),
        ({"revise_eta": 0.8}, "--revise needs labels"),
        ({"record_dynamics": True}, "--record-dynamics needs labels"),
        ({"record_kl": True}, "--record-kl needs labels"),
    ],
)
def test_a_loss_of_labels_is_refused(selection: Manifest, options: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        open_task(selection).loss_values(options)


@pytest.mark.parametrize(("loss", "kd_weight"), [("kd", 1.0), ("dist", None), ("lskd", None)])
def test_other_losses_keep_their_published_weight(selection: Manifest, loss: str, kd_weight: float | None) -> None:
    given = open_task(selection).loss_values({"loss": loss})
    assert (given["ce_weight"], given.get("kd_weight")) == (0.0, kd_weight)


def test_a_preset_gives_its_temperature_but_no_weights_of_two_terms(root: Path, scored: Manifest) -> None:
    chosen = pt.select(scored, keep=0.5, preset="kd-pruning", out=root / "preset")
    assert open_task(chosen).loss_values({}) == {"kd_weight": 1.0, "ce_weight": 0.0, "temperature": 4.0}


def test_dynamics_are_refused(prune: Run, root: Path, scored: Manifest) -> None:
    refused = prune("score", scored.path, "--dynamics", root / "run", code=2)
    assert "scores of dynamics compare answers with labels" in refused.stderr


def test_a_preview_shows_the_least_certain_images(prune: Run, root: Path) -> None:
    flat, teacher = root / "flat", ("--teacher", "resnet8", "--image-size", 8, "--random-weights")
    refused = prune("score", flat, "--unlabelled", *teacher, "--limit", 20, code=2)
    assert "--classes FILE" in refused.stderr
    shown = prune("score", flat, "--unlabelled", "--classes", root / "digits.txt", *teacher, "--limit", 20).stdout
    assert "no labels on 20 of 200 images" in shown
    assert "entropy" in shown


def test_a_module_that_does_not_say_its_classes_needs_their_names(prune: Run, root: Path) -> None:
    refused = prune("score", root / "flat", "--unlabelled", "--teacher", "teachers:linear", "--image-size", 8, code=2)
    assert "it is not known how many classes the teacher teachers:linear has" in refused.stderr


def test_imported_logits_label_an_index_like_a_teacher(prune: Run, root: Path, scored: Manifest) -> None:
    pt.index(pt.DataSpec(data=str(root / "classes"), unlabelled=True), out=root / "bare")
    (_, logits_nC), *_ = list(scored.logits(0))
    np.save(root / "logits.npy", logits_nC)
    named = ("--logits", "--teacher-name", "theirs", "--image-size", 8)
    prune("import", root / "logits.npy", root / "bare", *named, "-o", root / "imported")
    imported = Manifest.open(root / "imported")
    assert imported.samples().equals(scored.samples())
    assert (imported.header.data.labels_from, imported.class_names[9]) == ("teacher", "output 9")
    prune("verify", root / "imported")


def test_show_verify_diff_export_split_and_merge_take_it(
    prune: Run, root: Path, scored: Manifest, labelled: Manifest, selection: Manifest
) -> None:
    assert "10 classes by the teacher, no labels" in prune("show", scored.path).stdout
    assert "top-1 unknown without labels" in prune("show", scored.path).stdout
    prune("verify", scored.path, "--data", root / "classes")
    prune("diff", scored.path, labelled.path)
    prune("card", scored.path)
    prune("export", selection.path, "--imagefolder", root / "exported")
    assert len(list((root / "exported").glob("*/*/*.png"))) == ROWS // 2
    prune("split", scored.path, "--prefix", "0", "-o", root / "a", "--rest", root / "b")
    prune("merge", root / "a", root / "b", "-o", root / "merged")
    merged = Manifest.open(root / "merged").header
    assert merged.data.fingerprint == scored.header.data.fingerprint
    assert merged.teacher is not None
    assert merged.teacher.train_top1 is None
    (root / "secret").write_text("a secret of more than 16 bytes")
    prune("push", scored.path, root / "hidden", "--secret", root / "secret", "--only", "scores")
    assert Manifest.open(root / "hidden").header.data.labels_from == "teacher"


def test_an_average_is_refused(prune: Run, root: Path, scored: Manifest) -> None:
    refused = prune("merge", scored.path, scored.path, "--average", "logits", "-o", root / "mean", code=2)
    assert "images without labels have a label from each teacher" in refused.stderr


def test_a_teacher_without_top1_is_refused_where_there_are_labels(scored: Manifest) -> None:
    data = DataSet(name="a", source="folder", count=1, readable=1, class_names=["a", "b"], fingerprint="0")
    with pytest.raises(ValueError, match="train_top1 is missing"):
        Header(kind="scores", data=data, teacher=scored.header.teacher, tool=Tool(name="t", version="1"))
