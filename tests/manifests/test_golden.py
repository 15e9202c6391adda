"""Manifests of every released schema version, opened by this one and compared with values worked out by hand."""

import hashlib
import hmac
import json
from pathlib import Path

import numpy as np
import pytest

from manifests.format.codes import Codes
from manifests.format.parts import SAMPLES_SCHEMA, SELECTION_SCHEMA
from manifests.format.top_k import TopK
from manifests.integrity import verify
from manifests.manifest import Manifest

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CLASSES = ["a-red", "b-green", "c-blue"]
OWN_CHANNEL = [120, 160, 200, 25]
"""Of image 0 to 3 of a class, in the channel of that class; the others are 20, 30 and 40 in red, green and blue."""
MEAN, STD = np.array([0.5071, 0.4867, 0.4408]), np.array([0.2675, 0.2565, 0.2761])
IDS = {
    "1.0/index": "89f5f936f3cb",
    "1.0/scores": "69fbdd2b7bfe",
    "1.0/selection": "dad52b944306",
    "1.1/index": "3e9a94fa34da",
    "1.1/scores": "6d7d3638546f",
    "1.1/selection": "e6b13d285aac",
    "1.2/index": "3e9a94fa34da",
    "1.2/scores": "cc6132b6cf7d",
    "1.2/selection": "61eb78bdff63",
    "1.3/index": "be6bdcaeb704",
    "1.3/scores": "776e4f0ac908",
    "1.3/selection": "97a49a69c24c",
    "1.3/hidden": "214689ebba1b",
    "1.3/part": "02da6cee9212",
    "1.4/index": "508e35384e40",
    "1.4/scores": "7301d0741a49",
    "1.4/selection": "6aeae9bbe928",
    "1.4/hidden": "3b4d47195a7b",
    "1.4/part": "e42f1cfc30ed",
    "1.5/index": "508e35384e40",
    "1.5/scores": "7301d0741a49",
    "1.5/selection": "c2ab5dd46879",
    "1.5/labelled": "b9aeb28dbeab",
    "1.5/hidden": "3b4d47195a7b",
    "1.5/part": "e42f1cfc30ed",
}
"""As the commands printed them when the manifests were made."""
VERSIONS = ["1.0", "1.1", "1.2", "1.3", "1.4", "1.5"]
FOLDERS = [GOLDEN / version / kind for version in VERSIONS for kind in ("index", "scores", "selection")]
PUSHED = [GOLDEN / version / kind for version in ("1.3", "1.4", "1.5") for kind in ("hidden", "part")]
LABELLED = GOLDEN / "1.5" / "labelled"


def colours() -> np.ndarray:
    """(12, 3) pixel values of the readable images, in the order of their keys."""
    rows = []
    for channel in range(3):
        for value in OWN_CHANNEL:
            row = [20, 30, 40]
            row[channel] = value
            rows.append(row)
    return np.array(rows)


LABELS = np.repeat([0, 1, 2], 4)
LOGITS = (colours() / 255 - MEAN) / STD
LOSS = np.log(np.exp(LOGITS).sum(axis=1)) - LOGITS[np.arange(12), LABELS]
READABLE_IDS = np.array([0, 1, 2, 3, *range(5, 13)])
"""Row 4 is a-red/broken.png."""


@pytest.fixture(params=FOLDERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def golden(request: pytest.FixtureRequest) -> Manifest:
    return Manifest.open(request.param)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_manifest_that_is_there_is_tested() -> None:
    assert sorted(path.parent for path in GOLDEN.glob("*/*/manifest.json")) == sorted([*FOLDERS, *PUSHED, LABELLED])


@pytest.mark.parametrize("folder", [*FOLDERS, *PUSHED, LABELLED], ids=lambda path: f"{path.parent.name}-{path.name}")
def test_its_header_is_read_with_the_id_it_had(folder: Path) -> None:
    golden = Manifest.open(folder)
    header = json.loads((folder / "manifest.json").read_bytes())
    header.pop("run")
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert golden.id == hashlib.sha256(text.encode()).hexdigest()
    name = f"{folder.parent.name}/{folder.name}"
    assert golden.id[:12] == IDS[name]
    # A header has the first version that knows its fields: those without new ones stay at 1.1, and from 1.4 on there.
    assert golden.header.schema_version in (folder.parent.name, "1.1", "1.4")
    assert golden.kind == (folder.name if folder in FOLDERS else "selection" if folder == LABELLED else "scores")


@pytest.mark.parametrize("folder", [*FOLDERS, *PUSHED, LABELLED], ids=lambda path: f"{path.parent.name}-{path.name}")
def test_it_is_whole(folder: Path) -> None:
    report = verify(folder)
    assert report.findings == []
    assert report.files == len(Manifest.open(folder).header.files) > 0


def test_its_samples_are_the_images(golden: Manifest) -> None:
    table = golden.samples()
    assert table.schema.equals(SAMPLES_SCHEMA, check_metadata=False)
    paths = sorted((path for path in (GOLDEN / "images").rglob("*.png")), key=lambda path: path.as_posix().encode())
    keys = [path.relative_to(GOLDEN / "images").as_posix() for path in paths]
    digests = [hashlib.sha256(path.read_bytes()).digest()[:16] for path in paths]
    is_image = [path.name != "broken.png" for path in paths]
    assert table.column("sample_id").to_pylist() == list(range(13))
    assert table.column("key").to_pylist() == keys
    assert table.column("label").to_pylist() == [CLASSES.index(key.split("/")[0]) for key in keys]
    assert table.column("size_bytes").to_pylist() == [path.stat().st_size for path in paths]
    assert table.column("content_hash").to_pylist() == digests
    assert table.column("view_id").to_pylist() == [int.from_bytes(digest[:8], "little") for digest in digests]
    assert table.column("width").to_pylist() == table.column("height").to_pylist() == [8 * ok for ok in is_image]
    assert [problem is None for problem in table.column("problem").to_pylist()] == is_image
    lines = sorted(
        hashlib.sha256(b"\0".join((key.encode(), key.split("/")[0].encode(), digest))).digest()[:16]
        for key, digest in zip(keys, digests, strict=True)
    )
    assert golden.header.data.fingerprint == hashlib.sha256(b"".join(lines)).hexdigest()
    assert (golden.header.data.count, golden.header.data.readable, golden.class_names) == (13, 12, CLASSES)


def test_its_logits_are_those_of_the_colours(version: str) -> None:
    manifest = Manifest.open(GOLDEN / version / "scores")
    [(ids, stored)] = manifest.soft_labels("logits", 0)
    assert ids.tolist() == READABLE_IDS.tolist()
    if version != "1.1":
        np.testing.assert_allclose(stored.logits(), LOGITS, rtol=1e-3)
        return
    # Version 1.1 came with views and with the largest logits.
    assert isinstance(stored, TopK)
    assert stored.class_nK.tolist() == np.argsort(-LOGITS, axis=1)[:, :2].tolist()
    np.testing.assert_allclose(stored.logit_nK, -np.sort(-LOGITS, axis=1)[:, :2], rtol=1e-3)
    np.testing.assert_allclose(stored.label_logit_n, LOGITS[np.arange(12), LABELS], rtol=1e-3)
    assert manifest.header.views is not None
    assert (manifest.header.views.count, manifest.header.views.top_k) == (3, 2)
    assert [len(next(manifest.logits(view))[0]) for view in range(3)] == [12, 12, 12]


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.3", "1.4", "1.5"])
def test_its_scores_are_those_of_the_logits(version: str) -> None:
    table = Manifest.open(GOLDEN / version / "scores").scores()
    np.testing.assert_allclose(table.column("loss"), LOSS, rtol=2e-3)
    # Both images of 25 in red and in green are bluest; the third of them is blue.
    assert table.column("correct").to_pylist() == [1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1]


def test_version_1_2_holds_features_and_their_scores() -> None:
    manifest = Manifest.open(GOLDEN / "1.2" / "scores")
    [(ids, features)] = manifest.features()
    assert ids.tolist() == READABLE_IDS.tolist()
    np.testing.assert_allclose(features, LOGITS, rtol=1e-3)
    median = np.stack([np.median(LOGITS[label == LABELS], axis=0) for label in range(3)])
    expected = np.linalg.norm(LOGITS - median[LABELS], axis=1)
    np.testing.assert_allclose(manifest.scores("features").column("moderate"), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.3", "1.4", "1.5"])
def test_its_selection_keeps_the_middle_of_each_class_with_the_logits_as_targets(version: str) -> None:
    manifest = Manifest.open(GOLDEN / version / "selection")
    table = manifest.selection()
    assert table.schema.equals(SELECTION_SCHEMA, check_metadata=False)
    expected = np.array(["unreadable"] * 13, object)
    for label in range(3):
        easy_to_hard = np.flatnonzero(label == LABELS)[np.argsort(LOSS[label == LABELS])]
        expected[READABLE_IDS[easy_to_hard]] = ["too easy", "kept", "kept", "too hard"]
    assert table.column("reason").to_pylist() == expected.tolist()
    assert table.column("keep").to_pylist() == (expected == "kept").tolist()
    assert set(table.column("weight").to_pylist()) == set(table.column("kd_weight").to_pylist()) == {1.0}
    [(ids, targets)] = manifest.targets()
    kept = np.flatnonzero(expected == "kept")
    assert ids.tolist() == kept.tolist()
    # Version 1.5 came with codes: half a step of 1/255 of a row's range, which is at most 2.3.
    atol = 2.3 / 510 if version == "1.5" else 0
    np.testing.assert_allclose(targets, LOGITS[np.searchsorted(READABLE_IDS, kept)], rtol=1e-3, atol=atol)


def test_version_1_5_stores_targets_as_codes() -> None:
    manifest = Manifest.open(GOLDEN / "1.5" / "selection")
    assert manifest.header.labels is not None
    assert (manifest.header.schema_version, manifest.header.labels.codec) == ("1.5", "int8")
    [(_, stored)] = manifest.soft_labels("targets")
    assert isinstance(stored, Codes)
    assert stored.code_nB.min(axis=1).tolist() == [0] * 6
    assert stored.code_nB.max(axis=1).tolist() == [255] * 6


def test_version_1_5_has_labels_of_different_views() -> None:
    """18 labels of 6 samples: a table holds those that have a label of its view; view 0 is that of the colours."""
    manifest, kept = Manifest.open(LABELLED), Manifest.open(GOLDEN / "1.5" / "selection")
    labels = manifest.header.labels
    assert labels is not None
    assert labels.budget is not None
    assert (labels.views, labels.policy, labels.budget.labels, labels.is_ragged) == (6, "replay", 18, True)
    ids_of_views = []
    for view in range(6):
        [(ids, targets)] = manifest.targets(view)
        ids_of_views.append(ids)
        assert targets.shape == (len(ids), 3)
        if view == 0:
            assert ids.tolist() == next(kept.targets())[0].tolist()
            np.testing.assert_allclose(targets, LOGITS[np.searchsorted(READABLE_IDS, ids)], rtol=1e-3)
    each = np.bincount(np.concatenate(ids_of_views))
    assert (each.sum(), each[each > 0].min(), each.max()) == (18, labels.budget.least, labels.budget.most)


def test_version_1_1_replays_targets_of_three_views() -> None:
    manifest = Manifest.open(GOLDEN / "1.1" / "selection")
    labels = manifest.header.labels
    assert labels is not None
    assert (labels.views, labels.policy, labels.top_k) == (3, "replay", 2)
    kept = np.flatnonzero(manifest.selection().column("keep").to_numpy(zero_copy_only=False))
    assert len(kept) == 6
    for view in range(3):
        [(ids, stored)] = manifest.soft_labels("targets", view)
        assert ids.tolist() == kept.tolist()
        assert isinstance(stored, TopK)


@pytest.mark.parametrize("kind", ["index", "scores", "selection"])
def test_version_1_3_holds_thumbnails(kind: str) -> None:
    manifest = Manifest.open(GOLDEN / "1.3" / kind)
    assert manifest.header.thumbnails is not None
    assert manifest.header.thumbnails.side_px == 8
    [entry] = manifest.files("thumbnails")
    table = manifest.part(entry)
    assert table.column("sample_id").to_pylist() == READABLE_IDS.tolist()
    # Every image is of one colour.
    expected = np.repeat(colours(), 64, axis=0).reshape(12, 192)
    assert table.column("pixels").to_pylist() == expected.tolist()


def test_version_1_3_says_how_labels_are_revised() -> None:
    labels = Manifest.open(GOLDEN / "1.3" / "selection").header.labels
    assert labels is not None
    # The two images that the teacher takes for another class are the hardest of theirs, and not kept.
    assert (labels.transform, labels.parameters) == (
        "revise",
        {"eta": 0.8, "scope": "all", "changed": 6, "wrong": 0},
    )


def test_version_1_3_hides_its_keys_by_hmacs() -> None:
    """Rows are in the order of the hidden keys; logits and scores went with them."""
    secret = (GOLDEN / "secret.txt").read_bytes().strip()

    def hidden_by(message: bytes) -> bytes:
        return hmac.new(secret, message, hashlib.sha256).digest()

    manifest, whole = Manifest.open(GOLDEN / "1.3" / "hidden"), Manifest.open(GOLDEN / "1.3" / "scores")
    assert manifest.header.hidden is not None
    assert manifest.header.hidden.method == "hmac-sha256"
    assert manifest.header.parents == [hidden_by(whole.id.encode()).hex()]
    keys = [hidden_by(key.encode()).hex() for key in whole.samples().column("key").to_pylist()]
    old_id_N = np.argsort(keys)
    table = manifest.samples()
    assert table.column("key").to_pylist() == sorted(keys)
    assert table.column("label").to_numpy().tolist() == whole.samples().column("label").to_numpy()[old_id_N].tolist()
    hashes = [whole.samples().column("content_hash")[int(old_id)].as_py() for old_id in old_id_N]
    assert table.column("content_hash").to_pylist() == [hidden_by(each)[:16] for each in hashes]
    pads = [int.from_bytes(hidden_by(key.encode())[:8], "little") for key in sorted(keys)]
    shown = [int.from_bytes(each[:8], "little") for each in hashes]
    assert table.column("view_id").to_pylist() == [pad ^ view_id for pad, view_id in zip(pads, shown, strict=True)]
    [(ids, stored)] = manifest.soft_labels("logits", 0)
    np.testing.assert_allclose(stored.logits(), LOGITS[np.searchsorted(READABLE_IDS, old_id_N[ids])], rtol=1e-3)
    np.testing.assert_allclose(
        manifest.scores().column("loss"), LOSS[np.searchsorted(READABLE_IDS, old_id_N[ids])], rtol=2e-3
    )


def test_version_1_3_says_what_a_part_lacks() -> None:
    part, whole = Manifest.open(GOLDEN / "1.3" / "part"), Manifest.open(GOLDEN / "1.3" / "scores")
    assert part.header.left_out == ["logits", "thumbnails"]
    assert part.header.parents == [whole.id]
    assert part.samples().equals(whole.samples())
    assert part.scores().equals(whole.scores())


@pytest.mark.parametrize("kind", ["index", "scores", "selection", "part"])
def test_version_1_4_says_how_the_data_was_read(kind: str) -> None:
    header = Manifest.open(GOLDEN / "1.4" / kind).header
    assert header.schema_version == "1.4"
    read_as = header.data.read_as
    assert read_as is not None
    assert (read_as.labels, read_as.split_found, read_as.images) == ("names of the folders", None, None)
    assert (read_as.other_splits, read_as.left_out, read_as.warnings) == ([], {}, [])
