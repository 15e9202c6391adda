"""`prune eval`: figures worked by hand, against scikit-learn, and a network whose answers are known."""

import csv
import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score

import prune_toolkit as pt
from manifests.errors import InputError, UsageError
from prune_toolkit.evaluation import evaluate as evaluation_module
from prune_toolkit.evaluation import tables as tables_module
from prune_toolkit.evaluation.figures import Confused, Figures, figures_of

Run = Callable[..., subprocess.CompletedProcess[str]]
COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture(autouse=True)
def short_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_module, "TRIAL_S", 0.0)


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    exp_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return exp_NC / exp_NC.sum(axis=1, keepdims=True)


def ece_by_hand(logits_NC: np.ndarray, label_N: np.ndarray) -> float:
    p_NC, total = softmax(logits_NC), 0.0
    confidence_N, right_N = p_NC.max(axis=1), p_NC.argmax(axis=1) == label_N
    for low in range(15):
        inside_N = (confidence_N > low / 15) & (confidence_N <= (low + 1) / 15)
        if inside_N.any():
            total += inside_N.sum() * abs(right_N[inside_N].mean() - confidence_N[inside_N].mean())
    return total / len(label_N)


def test_four_samples_by_hand() -> None:
    # Probabilities 3/4 and 1/4: log 3 apart. Right, wrong, right, and a tie, where the lower class comes first.
    three = np.log(3)
    figures = figures_of(np.array([[three, 0], [three, 0], [0, three], [0, 0]]), np.array([0, 1, 1, 1]))
    assert figures.count == 4
    assert figures.top1 == 0.5
    assert figures.top5 is None
    assert figures.nll == pytest.approx((np.log(4 / 3) + np.log(4) + np.log(4 / 3) + np.log(2)) / 4)
    # Bin (11/15, 12/15]: 2 of 3 are right at 0.75. Bin (7/15, 8/15]: 0 of 1 at 0.5.
    assert figures.ece == pytest.approx((3 * (0.75 - 2 / 3) + 0.5) / 4)
    assert figures.counts().tolist() == [1, 3]
    assert figures.hits().tolist() == [1, 1]
    assert figures.confusions() == [Confused(1, 0, 2)]


def test_the_label_in_sixth_place_is_no_hit_and_ties_count_from_the_lowest_class() -> None:
    logits_NC = np.array([[9.0, 8, 7, 6, 5, 4, 3], [0] * 7, [0] * 7])
    assert figures_of(logits_NC[:1], np.array([4])).top5 == 1
    assert figures_of(logits_NC[:1], np.array([5])).top5 == 0
    assert figures_of(logits_NC[1:], np.array([4, 5])).top5 == 0.5


@pytest.mark.parametrize("class_count", [2, 5, 6, 23])
def test_figures_are_those_of_scikit_learn_however_the_batches_are_cut(class_count: int) -> None:
    generator = np.random.default_rng(class_count)
    logits_NC = generator.normal(0, 3, (400, class_count)).astype(np.float32)
    label_N = generator.integers(0, class_count, 400)
    logits_NC[np.arange(400), label_N] += 2
    figures, classes = Figures(class_count), np.arange(class_count)
    for rows in np.split(np.arange(400), [1, 90, 333]):
        answers = figures.add(logits_NC[rows], label_N[rows])
        others_nC = logits_NC[rows].copy()
        others_nC[np.arange(len(rows)), label_N[rows]] = -np.inf
        margin_n = logits_NC[rows, label_N[rows]] - others_nC.max(axis=1)
        np.testing.assert_allclose(answers.margin_n, margin_n, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(answers.confidence_n, softmax(logits_NC[rows]).max(axis=1), rtol=1e-5)
    predicted_N = logits_NC.argmax(axis=1)
    assert figures.top1 == pytest.approx(accuracy_score(label_N, predicted_N))
    if class_count > 5:
        assert figures.top5 == pytest.approx(top_k_accuracy_score(label_N, logits_NC, k=5, labels=classes))
    p_NC = softmax(logits_NC.astype(np.float64))
    assert figures.nll == pytest.approx(log_loss(label_N, p_NC, labels=classes), rel=1e-6)
    assert figures.ece == pytest.approx(ece_by_hand(logits_NC.astype(np.float64), label_N), abs=1e-6)
    expected_CC = confusion_matrix(label_N, predicted_N, labels=classes)
    assert figures.counts().tolist() == expected_CC.sum(axis=1).tolist()
    assert figures.hits().tolist() == np.diag(expected_CC).tolist()
    found = {(pair.label, pair.predicted): pair.samples for pair in figures.confusions()}
    np.fill_diagonal(expected_CC, 0)
    assert found == {(i, j): expected_CC[i, j] for i, j in np.argwhere(expected_CC)}
    counts = [pair.samples for pair in figures.confusions()]
    assert counts == sorted(counts, reverse=True)


class Colours(torch.nn.Module):
    """The mean of each channel, in the order of the names of the colours."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3)).flip(1)


PLAIN = pt.Preprocessing(image_px=8, resize_px=8, mean=[0.5] * 3, std=[0.5] * 3)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images of each colour in val/, of which one in blue/ is green and one in red/ is torn."""
    for split in ("train", "val", "test"):
        for name, colour in COLOURS.items():
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (8, 8), colour).save(folder / f"{number}.png")
    Image.new("RGB", (8, 8), COLOURS["green"]).save(tmp_path / "photos" / "val" / "blue" / "3.png")
    torn = tmp_path / "photos" / "val" / "red" / "0.png"
    torn.write_bytes(torn.read_bytes()[:40])
    return tmp_path / "photos"


def test_a_network_whose_answers_are_known(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / f"{name}.csv" for name in ("out", "per_class", "confusion")}
    found = pt.evaluate(Colours(), photos, preprocessing=PLAIN, batch_size=2, workers=1, **files)
    assert (found.split, found.count, found.of, found.unreadable) == ("val", 11, 12, 1)
    assert found.top1 == pytest.approx(10 / 11)
    assert found.top5 is None
    assert found.classes == [("blue", 4, 0.75), ("green", 4, 1.0), ("red", 3, 1.0)]
    assert found.worst_classes[0].name == "blue"
    assert found.confusions == [Confused(0, 1, 1)]
    assert found.confusion_CC.tolist() == [[3, 1, 0], [0, 4, 0], [0, 0, 3]]
    # The logits are 1, -1, -1: p = e / (e + 2 / e).
    sure = np.e / (np.e + 2 / np.e)
    assert found.nll == pytest.approx(-np.log(sure) + 2 / 11)
    assert found.ece == pytest.approx(abs(10 / 11 - sure))
    assert "1 of 12 images cannot be read and are left out; the first: val/red/0.png" in capsys.readouterr().err
    rows = list(csv.DictReader(files["out"].read_text().splitlines()))
    assert [row["key"] for row in rows] == [f"val/{c}/{n}.png" for c in COLOURS for n in range(4)][:8] + [
        f"val/red/{n}.png" for n in (1, 2, 3)
    ]
    assert rows[3] == {
        "key": "val/blue/3.png",
        "label": "blue",
        "predicted": "green",
        "confidence": f"{sure:.6g}",
        "margin": "-2",
    }
    assert files["per_class"].read_text() == "class,samples,top1\nblue,4,0.75\ngreen,4,1\nred,3,1\n"
    assert files["confusion"].read_text() == "label,blue,green,red\nblue,3,1,0\ngreen,0,4,0\nred,0,0,3\n"
    assert repr(found).startswith(f"<Evaluation of {__name__}:Colours on 11 images of photos: top-1 90.91 %, NLL ")


def test_an_index_of_the_same_images_gives_the_same_figures(photos: Path, tmp_path: Path) -> None:
    index = pt.index(photos, split="val", out=tmp_path / "index", beton=True)
    of_files = pt.evaluate(Colours(), photos, preprocessing=PLAIN, workers=1)
    for data in (index, tmp_path / "index"):
        of_index = pt.evaluate(Colours(), data, preprocessing=PLAIN, loader="torch", workers=1)
        assert of_index.unreadable == 1
        for name in ("top1", "nll", "ece", "classes", "confusions", "count", "of", "split"):
            assert getattr(of_index, name) == getattr(of_files, name), name
    with pytest.raises(UsageError, match="--split cannot be used with the manifest"):
        pt.evaluate(Colours(), tmp_path / "index", split="test", preprocessing=PLAIN)


def test_a_split_that_is_named_is_read_and_a_limit_spreads_over_it(photos: Path) -> None:
    assert pt.evaluate(Colours(), photos, split="train", preprocessing=PLAIN).top1 == 1
    limited = pt.evaluate(Colours(), photos, split="test", preprocessing=PLAIN, limit=3)
    assert (limited.count, limited.of) == (3, 12)
    assert [row.samples for row in limited.classes] == [1, 1, 1]


def test_what_makes_no_sense_is_refused_and_leaves_no_file(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "answers.csv"

    def full(_rows: object) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def broken(images: torch.Tensor) -> torch.Tensor:
        return Colours()(images) * (float("nan") if images.amax() < 0.99 or len(images) == 2 else 1)

    module = Colours()
    module.forward = broken  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"val/blue/0.png: the network's logits are not finite"):
        pt.evaluate(module, photos, preprocessing=PLAIN, out=out, batch_size=2)
    assert list(tmp_path.iterdir()) == [photos]
    with monkeypatch.context() as patch:
        patch.setattr(tables_module, "_csv", full)
        with pytest.raises(OSError, match="No space"):
            pt.evaluate(Colours(), photos, preprocessing=PLAIN, out=out, per_class=tmp_path / "classes.csv")
    assert list(tmp_path.iterdir()) == [photos]
    out.write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        pt.evaluate(Colours(), photos, preprocessing=PLAIN, out=out)
    with pytest.raises(UsageError, match="same name"):
        pt.evaluate(Colours(), photos, preprocessing=PLAIN, out=tmp_path / "a", confusion=tmp_path / "a")
    with pytest.raises(UsageError, match="has no labels: there is nothing to compare"):
        pt.evaluate(Colours(), pt.DataSpec(data=str(photos), unlabelled=True), preprocessing=PLAIN)
    index = pt.index(pt.DataSpec(data=str(photos), unlabelled=True), out=tmp_path / "index")
    with pytest.raises(UsageError, match="index has no labels"):
        pt.evaluate(Colours(), index, preprocessing=PLAIN)
    for path in (photos / "val").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="none of the 12 images can be read"):
        pt.evaluate(Colours(), photos, preprocessing=PLAIN)


def test_the_command_prints_what_json_holds(prune: Run, tmp_path: Path) -> None:
    words = ("eval", "teachers:linear", "--data", "demo:digits", "--image-size", 8, "--workers", 1)
    printed, told = prune(*words), json.loads(prune(*words, "--json").stdout)
    assert "digits (digits): 499 images, split test" in printed.stderr
    line, shown, *rest = printed.stdout.splitlines()
    assert line == (
        f"teachers:linear on 499 of 499 images of digits, split test: top-1 {100 * told['top1']:.2f} %, "
        f"top-5 {100 * told['top5']:.2f} %, NLL {told['nll']:.4f}, ECE {told['ece']:.4f}"
    )
    assert shown.startswith("shown: shorter side to 8 px")
    assert rest[0].split() == ["worst", "classes", "images", "top-1"]
    worst = min(told["classes"], key=lambda row: (row["top1"], -row["samples"]))
    assert rest[1].split() == [worst["class"], str(worst["samples"]), f"{100 * worst['top1']:.2f}", "%"]
    assert rest[6].split() == ["most", "confused", "taken", "for", "images"]
    assert rest[7].split() == [str(told["confusions"][0][name]) for name in ("label", "predicted", "samples")]
    assert "the network alone: " in rest[-1]
    right = sum(row["samples"] * row["top1"] for row in told["classes"])
    assert right + sum(row["samples"] for row in told["confusions"]) == pytest.approx(told["samples"])


def test_a_command_without_data_or_with_a_folder_that_is_no_run_says_what_is_missing(
    prune: Run, tmp_path: Path
) -> None:
    assert "--data is missing" in prune("eval", "resnet8", code=2, cwd=tmp_path).stderr
    assert "holds no student.safetensors" in prune("eval", tmp_path, "--data", "demo:digits", code=3).stderr
    assert "is untrained" in prune("eval", "resnet8", "--data", "demo:digits", code=2).stderr


def test_the_teacher_of_prune_toml_is_not_what_is_evaluated(prune: Run, tmp_path: Path) -> None:
    (tmp_path / "prune.toml").write_text('teacher = "resnet8"\ndata = "demo:digits"\nsplit = "train"\n')
    assert "Missing argument 'MODEL'" in prune("eval", cwd=tmp_path, code=2).stderr
    told = prune("eval", "teachers:linear", "--image-size", 8, "--json", cwd=tmp_path)
    assert json.loads(told.stdout)["split"] == "test"
