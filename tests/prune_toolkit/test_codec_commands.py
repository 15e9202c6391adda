"""`--codec` of `prune select` and `prune label`: the same targets in fewer bytes, and what the other commands do."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests_support import write_idx

from manifests.betons.reader import Beton
from manifests.format.codes import Codes, encode
from manifests.format.stored_form import StoredForm
from manifests.integrity import verify
from manifests.manifest import Manifest

TEACHER = ("--teacher", "teachers:linear", "--image-size", 8)
FLAGS = ("--keep", 0.5)


@pytest.fixture(scope="module")
def scored(tmp_path_factory, prune) -> Path:
    """A folder with `scores` of 40 images in three views."""
    folder = tmp_path_factory.mktemp("codecs")
    write_idx(folder / "images", np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 10)
    prune("index", "images", "--beton", "-o", "index", cwd=folder)
    prune("score", "index", *TEACHER, "--views", 3, "-o", "scores", cwd=folder)
    prune("select", "scores", *FLAGS, "-o", "plain", cwd=folder)
    return folder


def targets(folder: Path, view: int = 0) -> np.ndarray:
    return np.concatenate([values for _, values in Manifest.open(folder).targets(view)])


@pytest.mark.parametrize("codec", ["int8", "int4"])
@pytest.mark.parametrize("flags", [(), ("--policy", "mean"), ("--policy", "single", "--labels", "revise")])
def test_targets_are_those_of_float16_encoded_last(scored, prune, codec, flags, tmp_path) -> None:
    prune("select", "scores", *FLAGS, *flags, "-o", tmp_path / "float16", cwd=scored)
    said = prune("select", "scores", *FLAGS, *flags, "--codec", codec, "-o", tmp_path / "codes", cwd=scored).stdout
    assert f", 10 logits as {codec}; train.beton" in said
    codes, plain = (Manifest.open(tmp_path / name) for name in ("codes", "float16"))
    assert (codes.header.labels.codec, codes.header.config["codec"], codes.header.schema_version) == (
        codec,
        codec,
        "1.5",
    )
    words_nVW = Beton.open(codes.beton_path).targets(np.arange(20))
    for view in range(plain.header.labels.views):
        want = encode(targets(plain.path, view), codec)
        assert np.array_equal(targets(codes.path, view), want.logits())
        form = StoredForm.of(codes.header.labels, 10)
        assert np.array_equal(form.decode(words_nVW[:, view]), want.logits())
    assert verify(codes.path).ok


def test_float16_is_the_default_and_keeps_its_id(scored, prune) -> None:
    prune("select", "scores", *FLAGS, "--codec", "float16", "-o", "float16", cwd=scored)
    assert Manifest.open(scored / "float16").id == Manifest.open(scored / "plain").id


def test_label_encodes_what_it_labels(scored, prune, tmp_path) -> None:
    words = ("label", "plain", *TEACHER[:2], "--views", 2, "--labels", "raw")
    prune(*words, "-o", tmp_path / "float16", cwd=scored)
    prune(*words, "--codec", "int4", "-o", tmp_path / "int4", cwd=scored)
    for view in range(2):
        want = encode(targets(tmp_path / "float16", view), "int4").logits()
        assert np.array_equal(targets(tmp_path / "int4", view), want)
    tried = json.loads(prune(*words, "--codec", "int4", "--no-beton", "--dry-run", "--json", cwd=scored).stdout)
    assert tried["bytes"] == 20 * 2 * 10, "5 bytes of codes, one of filling, 4 of scale and offset"


def test_what_is_not_possible_is_one_sentence(scored, prune) -> None:
    told = prune("select", "scores", *FLAGS, "--codec", "int8", "--top-k", 3, cwd=scored, code=2).stderr
    assert "--codec int8 stores all logits of a target, and only the 3 largest are kept" in told
    assert "unknown --codec 'int2'" in prune("select", "scores", *FLAGS, "--codec", "int2", cwd=scored, code=2).stderr
    told = prune("select", "scores", *FLAGS, "--labels", "none", "--codec", "int8", cwd=scored, code=2).stderr
    assert "--codec: without soft labels there is nothing to store" in told


def test_the_other_commands_take_it(scored, prune, tmp_path) -> None:
    prune("select", "scores", *FLAGS, "--codec", "int8", "-o", tmp_path / "codes", cwd=scored)
    assert "10 logits as int8" in prune("show", tmp_path / "codes").stdout
    assert "10 logits as int8" in (tmp_path / "codes" / "README.md").read_text()
    found = json.loads(prune("diff", scored / "plain", tmp_path / "codes", "--json").stdout)
    assert all(view["kl_a_b"] < 1e-3 for view in found["labels"]["views"])
    prune("push", tmp_path / "codes", tmp_path / "pushed")
    prune("pull", tmp_path / "pushed", tmp_path / "pulled")
    prune("cut", tmp_path / "pulled", "--data", scored / "images", "-o", tmp_path / "cut")
    assert (tmp_path / "cut" / "train.beton").read_bytes() == (tmp_path / "codes" / "train.beton").read_bytes()
    (tmp_path / "secret").write_text("long enough to be a secret")
    prune("push", tmp_path / "codes", tmp_path / "hidden", "--secret", tmp_path / "secret")
    assert verify(tmp_path / "hidden").ok
    [(_, stored)] = Manifest.open(tmp_path / "hidden").soft_labels("targets")
    assert isinstance(stored, Codes)
    assert sorted(stored.logits().tolist()) == sorted(targets(tmp_path / "codes").tolist())


def test_a_cut_that_drops_samples_keeps_the_codes_of_the_others(scored, prune, tmp_path) -> None:
    prune("select", "scores", *FLAGS, "--codec", "int4", "--no-beton", "-o", tmp_path / "codes", cwd=scored)
    manifest = Manifest.open(tmp_path / "codes")
    ids, _ = next(manifest.targets())
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 10
    images[ids[3]] += np.uint8(1)
    write_idx(tmp_path / "others", images, labels)
    prune("cut", tmp_path / "codes", "--data", tmp_path / "others", "--check", "hashes", "-o", tmp_path / "cut")
    assert np.array_equal(targets(tmp_path / "cut"), np.delete(targets(tmp_path / "codes"), 3, axis=0))
    assert verify(tmp_path / "cut").ok


def test_a_forged_beton_is_found(scored, prune, tmp_path) -> None:
    prune("select", "scores", *FLAGS, "--codec", "int8", "-o", tmp_path / "codes", cwd=scored)
    path = tmp_path / "codes" / "train.beton"
    data, pointer = bytearray(path.read_bytes()), int(Beton.open(path).target_pointer_N[5])
    data[pointer : pointer + 2] = np.array(np.nan, np.float16).tobytes()
    path.write_bytes(data)
    from manifests.base.files import sha256_file

    header = json.loads((tmp_path / "codes" / "manifest.json").read_bytes())
    [entry] = [entry for entry in header["files"] if entry["path"] == "train.beton"]
    entry["sha256"] = sha256_file(path)
    (tmp_path / "codes" / "manifest.json").write_text(json.dumps(header))
    [finding] = verify(tmp_path / "codes").findings
    assert "a stored label is not in the form int8: a scale is negative or not finite" in finding.problem
