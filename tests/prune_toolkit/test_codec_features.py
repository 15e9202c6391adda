"""`prune label --codec features`: features and the last layer in place of logits, and the logits that come back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests_support import write_idx
from trainer_support import trained, watched

from manifests.base.files import sha256_file
from manifests.betons.reader import Beton
from manifests.errors import InputError
from manifests.format.last_layer import FeatureLabels, LastLayer, mean_features
from manifests.format.stored_form import StoredForm
from manifests.integrity import verify
from manifests.manifest import Manifest
from trainer.data.dataset import PrunedDataset
from trainer.data.label_decoder import LabelDecoder
from trainer.data.loaders import ffcv_available, open_loader
from trainer.data.order import epoch_order
from trainer.data.task import open_task
from trainer.data.views import MEAN_VIEW

NARROW = '''
import torch


def narrow(num_classes, width=4, last=torch.nn.Identity):
    torch.manual_seed(3)
    body = [torch.nn.Flatten(), torch.nn.Linear(192, width), torch.nn.Tanh()]
    return torch.nn.Sequential(*body, torch.nn.Linear(width, num_classes), last())


def wide(num_classes):
    return narrow(num_classes, width=9)


class Unsteady(torch.nn.Linear):
    """Not what its weights say, except on noise around 0."""

    def forward(self, features):
        return super().forward(features) + 0.3 * (features.shape[0] > 2)


def unsteady(num_classes):
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4), Unsteady(4, num_classes))


def softmax(num_classes):
    return narrow(num_classes, last=lambda: torch.nn.Softmax(dim=1))
'''
PART = "targets/view-000/part-00000.parquet"
LAYER = "targets/last-layer/part-00000.parquet"


@pytest.fixture(scope="module")
def scored(tmp_path_factory, prune, teachers) -> Path:
    """A folder with `selection` of 40 images by `narrow`."""
    (teachers / "narrow.py").write_text(NARROW)
    folder = tmp_path_factory.mktemp("features")
    write_idx(folder / "images", np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 10)
    prune("index", "images", "--beton", "-o", "index", cwd=folder)
    prune("score", "index", "--teacher", "narrow:narrow", "--image-size", 8, "-o", "scores", cwd=folder)
    prune("select", "scores", "--keep", 0.5, "-o", "selection", cwd=folder)
    return folder


@pytest.fixture(params=["torch", "ffcv"])
def loader(request) -> str:
    if request.param == "ffcv" and not (found := ffcv_available())[0]:
        pytest.skip(found[1])
    return str(request.param)


def label(prune, folder: Path, out: Path, *flags: object) -> Manifest:
    prune("label", "selection", "--teacher", "narrow:narrow", "--views", 3, *flags, "-o", out, cwd=folder)
    return Manifest.open(out)


@pytest.fixture(scope="module")
def labelled(scored, prune) -> Manifest:
    return label(prune, scored, scored / "labelled", "--labels", "raw", "--codec", "features")


def targets(manifest: Manifest, view: int = 0) -> np.ndarray:
    return np.concatenate([values for _, values in manifest.targets(view)])


def test_by_hand() -> None:
    layer = LastLayer(np.array([[1, 0], [0, 2], [1, 1]], np.float32), np.array([0, 0, -1], np.float32))
    views = [
        FeatureLabels(3, np.array([feature], np.float16), np.array([factor], np.float32), layer)
        for feature, factor in (([1, 2], 2), ([4, -1], 1))
    ]
    assert [view.logits().tolist() for view in views] == [[[2, 8, 4]], [[4, -2, 2]]]
    # The mean of both rows.
    np.testing.assert_allclose(mean_features(views).logits(), [[3, 3, 3]], rtol=1e-3)
    assert views[0].scaled(np.array([0.5])).logits().tolist() == [[1, 4, 2]]
    words = views[0].words()
    assert words.astype("<i2").tobytes() == np.array(2, "<f4").tobytes() + np.array([1, 2], "<f2").tobytes()
    form = StoredForm(class_count=3, codec="features", width=2, layer=layer)
    assert (form.words, form.decode(words).tolist()) == (4, [[2, 8, 4]])
    decoded = LabelDecoder(form)(torch.from_numpy(words).view(torch.float16), 1.0)
    assert decoded.tolist() == [[2, 8, 4]]


@pytest.mark.parametrize(
    "flags", [("--labels", "raw"), ("--labels", "reshape"), ("--labels", "reshape", "--policy", "mean")]
)
def test_the_logits_come_back(scored, prune, tmp_path, flags) -> None:
    plain = label(prune, scored, tmp_path / "plain", *flags)
    stored = label(prune, scored, tmp_path / "features", *flags, "--codec", "features")
    assert verify(stored.path).ok
    labels = stored.header.labels
    assert (labels.codec, labels.feature_width, stored.header.schema_version) == ("features", 4, "1.5")
    words_nVW = Beton.open(stored.beton_path).targets(np.arange(20))
    assert words_nVW.shape == (20, plain.header.labels.views, 6)
    for view in range(plain.header.labels.views):
        np.testing.assert_allclose(targets(stored, view), targets(plain, view), atol=5e-3)
        np.testing.assert_array_equal(stored.label_form.decode(words_nVW[:, view]), targets(stored, view))
    assert "10 logits as 4 features" in prune("show", stored.path).stdout
    found = json.loads(prune("diff", plain.path, stored.path, "--json").stdout)
    assert all(view["kl_a_b"] < 1e-5 for view in found["labels"]["views"])


@pytest.mark.parametrize("view", [1, MEAN_VIEW])
def test_both_loaders_bring_the_same(labelled, view) -> None:
    task = open_task(labelled)
    want_nC = (
        np.mean([targets(labelled, each) for each in range(3)], axis=0) if view == MEAN_VIEW else targets(labelled, 1)
    )
    brought = set()
    for kind in ["torch", *(["ffcv"] if ffcv_available()[0] else [])]:
        loader = open_loader(task.beton, kind=kind, preprocessing=task.preprocessing(8), workers=1, form=task.form)
        [batch] = loader.batches(np.arange(20), target_view_n=view, batch_size=20)
        loader.close()
        np.testing.assert_allclose(LabelDecoder(task.form)(batch.target, 1.0), want_nC, atol=1e-5)
        brought.add(batch.target.numpy().tobytes())
    assert len(brought) == 1
    item = PrunedDataset(labelled, policy="single")[3]
    np.testing.assert_allclose(item[2], targets(labelled)[3], atol=1e-5)


def test_a_cut_a_push_and_a_hidden_push_take_the_layer_along(scored, labelled, prune, tmp_path) -> None:
    prune("push", labelled.path, tmp_path / "pushed")
    prune("pull", tmp_path / "pushed", tmp_path / "pulled")
    prune("cut", tmp_path / "pulled", "--data", scored / "images", "-o", tmp_path / "cut")
    assert (tmp_path / "cut" / "train.beton").read_bytes() == (labelled.path / "train.beton").read_bytes()
    (tmp_path / "secret").write_text("long enough to be a secret")
    prune("push", labelled.path, tmp_path / "hidden", "--secret", tmp_path / "secret")
    for name in ("pulled", "cut", "hidden"):
        manifest = Manifest.open(tmp_path / name)
        assert verify(manifest.path).ok
        np.testing.assert_allclose(sorted(targets(manifest).tolist()), sorted(targets(labelled).tolist()), atol=1e-6)
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 10
    ids, _ = next(labelled.targets())
    images[ids[3]] += np.uint8(1)
    write_idx(tmp_path / "others", images, labels)
    prune("cut", tmp_path / "pulled", "--data", tmp_path / "others", "--check", "hashes", "-o", tmp_path / "less")
    less = Manifest.open(tmp_path / "less")
    np.testing.assert_allclose(targets(less), np.delete(targets(labelled), 3, axis=0), atol=1e-6)
    assert verify(less.path).ok


def test_the_loss_is_taught_the_decoded_targets(labelled, loader, teachers, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(teachers)
    with watched(monkeypatch) as watch:
        trained(
            labelled, tmp_path / "run", loader=loader, student="narrow:narrow", batch_size=20, epochs=1, policy="single"
        )
    [step] = watch.steps
    rows = epoch_order(0, 0, 20)
    np.testing.assert_allclose(step.target, targets(labelled)[rows], atol=1e-5)


REFUSED = {
    "narrow:wide": "the 9 features of teacher narrow:wide take 22 bytes per label, and its 10 logits in float16",
    "narrow:unsteady": "features and last layer give a logit that is 0.30",
}


@pytest.mark.parametrize("teacher", REFUSED)
def test_what_would_not_be_smaller_or_exact_is_refused(scored, prune, tmp_path, teacher) -> None:
    words = ("--teacher", teacher, "--other-teacher", "--image-size", 8, "--codec", "features")
    told = prune(
        "label", "selection", *words, "-o", tmp_path / "out", cwd=scored, code=2 if "wide" in teacher else 3
    ).stderr
    assert REFUSED[teacher] in told
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_probabilities_and_a_selection_alone_have_no_such_features(scored, prune, tmp_path) -> None:
    words = ("--teacher", "narrow:softmax", "--probabilities", "--other-teacher", "--image-size", 8)
    told = prune("label", "selection", *words, "--codec", "features", "-o", tmp_path / "out", cwd=scored, code=2).stderr
    assert "makes its logits by more than a linear layer: it returns probabilities" in told
    told = prune("select", "scores", "--keep", 0.5, "--codec", "features", cwd=scored, code=2).stderr
    assert "--codec features needs the teacher" in told
    assert "prune label SELECTION --codec features" in told


def forged(labelled: Manifest, folder: Path, path: str, name: str, values: pa.Array) -> Path:
    """A copy with another column in a part, and its digest in the header."""
    shutil.copytree(labelled.path, folder)
    table = pq.read_table(folder / path)
    table = table.set_column(table.column_names.index(name), name, values)
    rewritten(folder, path, table)
    return folder


def rewritten(folder: Path, path: str, table: pa.Table) -> None:
    (folder / path).unlink()
    pq.write_table(table, folder / path)
    header = json.loads((folder / "manifest.json").read_bytes())
    [entry] = [entry for entry in header["files"] if entry["path"] == path]
    entry |= {"sha256": sha256_file(folder / path), "bytes": (folder / path).stat().st_size, "rows": len(table)}
    (folder / "manifest.json").write_text(json.dumps(header))


def vectors(values: np.ndarray) -> pa.Array:
    kind = pa.list_(pa.field("element", pa.from_numpy_dtype(values.dtype), nullable=False), values.shape[1])
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind)


FORGED = {
    "a layer of another width": (LAYER, "weight", vectors(np.ones((10, 5), np.float32)), "its weights are (10, 5)"),
    "a weight of nan": (LAYER, "weight", vectors(np.full((10, 4), np.nan, np.float32)), "is not finite"),
    "wide biases": (LAYER, "bias", pa.array(np.ones(10)), "no column bias with one value of float"),
    "another number of features": (PART, "feature", vectors(np.ones((20, 3), np.float16)), "does not hold 10 logits"),
    "a feature of inf": (PART, "feature", vectors(np.full((20, 4), np.inf, np.float16)), "is not finite"),
    "a factor of nan": (PART, "factor", pa.array(np.full(20, np.nan, np.float32)), "is not finite"),
}


def test_a_layer_of_fewer_classes_is_found(labelled, tmp_path) -> None:
    folder = tmp_path / "forged"
    shutil.copytree(labelled.path, folder)
    table = pq.read_table(folder / LAYER).slice(0, 7)
    rewritten(folder, LAYER, table)
    (folder / "train.beton").unlink()
    [finding] = verify(folder).findings
    assert "its weights are (7, 4), not (10, 4)" in finding.problem


@pytest.mark.parametrize("name", FORGED)
def test_forged_features_are_refused(labelled, tmp_path, name) -> None:
    path, column, values, why = FORGED[name]
    folder = forged(labelled, tmp_path / "forged", path, column, values)
    findings = [finding for finding in verify(folder).findings if finding.path == path]
    assert why in findings[0].problem
    with pytest.raises(InputError):
        list(Manifest.open(folder).targets())
