"""`prune diff` as it is typed: what it prints, and what it needs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_manifests import content, make, some_logits
from s3 import Bucket

from manifests.integrity import verify
from manifests.manifest import Manifest

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_two_selections_of_two_teachers(tmp_path: Path, prune: Run) -> None:
    keys, labels = ["k", "m", "p", "q"], [0, 0, 1, 1]
    make(tmp_path / "a", keys, labels, some_logits(0, 1, 4, 3), kept="km", config={"keep": "1/2", "seed": 0})
    other, config = {"spec": "other", "weights_sha256": "bb"}, {"keep": "1/2", "seed": 1}
    make(tmp_path / "b", [*keys, "z"], [*labels, 2], some_logits(1, 1, 5, 3), kept="mqz", config=config, teacher=other)
    out = prune("diff", "a", "b", cwd=tmp_path).stdout
    assert "data       4 samples in common of 4 and 5\n           1 only in B: z\n" in out
    assert "teacher    net (50.00 % on its images) and other (50.00 % on its images): different weights\n" in out
    assert "kept       2 and 3, both keep 1: Jaccard 0.25\n           1 kept only in A: k\n" in out
    assert "           2 kept only in B: q, z\n" in out
    assert "3 of 3 classes differ, most: " in out
    assert "cat 2 and 1, both 1" in out
    assert "labels     targets/view-000: KL(A||B) " in out
    assert "mean over 1 samples" in out
    assert "settings   config.seed: 0 and 1\n           selection.count: 2 and 3\n" in out
    assert "scores" not in out


def test_scores_name_the_classes_that_are_ranked_most_differently(tmp_path: Path, prune: Run) -> None:
    """Ranks 3 2 1 6 5 4 and 1 2 3 6 5 4: the distances 2 0 2 0 0 0 make 1 - 6 * 8 / (6 * 35)."""
    keys, labels, logits = list("kmpqrs"), [0, 0, 0, 1, 1, 1], some_logits(0, 1, 6, 3)
    make(tmp_path / "a", keys, labels, logits, sets={"imported": {"x": [3, 2, 1, 6, 5, 4], "y": [0] * 6}})
    make(tmp_path / "b", keys, labels, logits, sets={"imported": {"x": [1, 2, 3, 6, 5, 4], "y": [0] * 6}})
    out = prune("diff", "a", "b", cwd=tmp_path).stdout
    assert "imported/x: Spearman 0.7714 on 6 samples; lowest by class: cat -1.000, dog 1.000\n" in out
    assert "imported/y: equal on 6 samples\n" in out
    report = json.loads(prune("diff", "a", "b", "--json", cwd=tmp_path).stdout)
    [x] = [score for score in report["scores"]["common"] if score["score"] == "imported/x"]
    assert x["per_class"] == [
        {"class": "cat", "samples": 3, "spearman": -1},
        {"class": "dog", "samples": 3, "spearman": 1},
    ]


def test_what_is_compared_otherwise_or_not_at_all_is_told(tmp_path: Path, prune: Run) -> None:
    """Rows of an idx file in another order; one label is no number, in the last also the other."""
    logits, contents = some_logits(0, 1, 2, 3), {"r0": content("r1"), "r1": content("r0")}
    make(tmp_path / "a", ["r0", "r1"], [0, 1], logits, kept=["r0", "r1"], data={"source": "idx"})
    for name, without in (("b", [0]), ("c", [0, 1])):
        theirs = logits[:, ::-1].copy()
        theirs[0, without] = np.nan
        data = {"source": "idx"}
        make(tmp_path / name, ["r0", "r1"], [1, 0], theirs, kept=["r0", "r1"], data=data, contents=contents)
    told = prune("diff", "a", "b", cwd=tmp_path).stdout
    assert "2 samples in common of 2 and 2, matched by content, then by row number\n" in told
    left_out = "with labels that are not finite are left out\n"
    assert f"KL(B||A) 0 nats, mean over 1 samples; 1 {left_out}" in told
    told = prune("diff", "a", "c", cwd=tmp_path).stdout
    assert f"KL(A||B) undefined, KL(B||A) undefined nats, mean over 0 samples; 2 {left_out}" in told


def test_equal_ids_and_other_kinds(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "scored", "pq", [0, 1], some_logits(0, 1, 2, 3))
    make(tmp_path / "index", "pq", [0, 1], classes=("cat", "dog"))
    assert prune("diff", "scored", "scored", cwd=tmp_path).stdout.endswith("equal ids: nothing differs\n")
    out = prune("diff", "index", "scored", cwd=tmp_path).stdout
    assert "1 classes only in B: eel" in out
    assert "teacher    none and net (50.00 % on its images): different weights" in out
    assert "only in B: teacher/loss, teacher/confidence" in out
    assert "labels     not compared: one has no labels, the other logits" in out
    assert 'views: - and {"recipe": "pad_crop_flip"' in out
    make(tmp_path / "elsewhere", "z", [1], some_logits(0, 1, 1, 3))
    out = prune("diff", "scored", "elsewhere", cwd=tmp_path).stdout
    assert "data       0 samples in common of 2 and 1\n           2 only in A: p, q\n" in out
    assert "Spearman" not in out
    assert "KL" not in out
    assert "no such folder" in prune("diff", "index", "nowhere", cwd=tmp_path, code=3).stderr
    assert "Missing argument" in prune("diff", "index", cwd=tmp_path, code=2).stderr


def test_a_hidden_manifest_is_compared_with_its_secret(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "open", "pq", [0, 1], some_logits(0, 1, 2, 3))
    (tmp_path / "secret.txt").write_text("0123456789abcdef")
    prune("push", "open", "hidden", "--secret", "secret.txt", cwd=tmp_path)
    out = prune("diff", "open", "hidden", cwd=tmp_path).stdout
    assert "data       0 samples in common of 2 and 2\n           B is hidden: name the file with its secret" in out
    assert "Spearman" not in out
    out = prune("diff", "open", "hidden", "--secret", "secret.txt", cwd=tmp_path).stdout
    assert "data       2 samples in common of 2 and 2\n" in out
    assert "teacher/loss: equal on 2 samples" in out
    assert "neither manifest is hidden" in prune(
        "diff", "open", "open", "--secret", "secret.txt", cwd=tmp_path, code=2
    ).stderr  # fmt: skip


def test_manifests_at_urls_are_compared_split_and_merged(tmp_path: Path, prune: Run, bucket: Bucket) -> None:
    """Tables that are taken as they are, linked from a folder, are copied from a URL."""
    logits = some_logits(0, 1, 2, 3)
    make(tmp_path / "a", "pq", [0, 1], logits)
    make(tmp_path / "b", "pq", [0, 1], logits, sets={"dynamics": {"aum": [1, 2]}})
    for name in "ab":
        prune("push", name, f"{bucket.url}/{name}", cwd=tmp_path)
    assert "equal ids" in prune("diff", "a", f"{bucket.url}/a", cwd=tmp_path).stdout
    assert "only in B: dynamics/aum" in prune("diff", f"{bucket.url}/a", f"{bucket.url}/b", cwd=tmp_path).stdout
    prune("merge", f"{bucket.url}/a", f"{bucket.url}/b", "-o", "remote", cwd=tmp_path)
    prune("merge", "a", "b", "-o", "here", cwd=tmp_path)
    assert verify(tmp_path / "remote").ok
    assert Manifest.open(tmp_path / "remote").id == Manifest.open(tmp_path / "here").id
    prune("split", f"{bucket.url}/b", "--prefix", "p", cwd=tmp_path)
    assert Manifest.open(tmp_path / "split").scores("dynamics").column("aum").to_pylist() == [1]


def test_what_was_not_pulled_is_not_compared(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "a", "pq", [0, 1], some_logits(0, 1, 2, 3))
    make(tmp_path / "b", "pq", [0, 1], some_logits(1, 1, 2, 3))
    prune("push", "a", "sent", cwd=tmp_path)
    prune("pull", (tmp_path / "sent").as_uri(), "scores", "--only", "scores", cwd=tmp_path)
    prune("pull", (tmp_path / "sent").as_uri(), "logits", "--only", "logits", cwd=tmp_path)
    without_logits = prune("diff", "scores", "b", cwd=tmp_path).stdout
    assert "Spearman" in without_logits
    assert "labels     not compared: one has no labels, the other logits" in without_logits
    without_scores = prune("diff", "b", "logits", cwd=tmp_path).stdout
    assert "only in A: teacher/loss" in without_scores
    assert "KL(A||B)" in without_scores


@pytest.mark.parametrize("arguments", [["diff", "a", "b"], ["merge", "a", "b"], ["split", "a", "--prefix", "p"]])
def test_none_of_it_loads_torch_or_ffcv(tmp_path: Path, arguments: list[str]) -> None:
    make(tmp_path / "a", ["p"], [0], some_logits(0, 1, 1, 3))
    make(tmp_path / "b", ["q"], [1], some_logits(1, 1, 1, 3))
    code = f"""
import sys
from trainer.cli.console import run_cli
from prune_toolkit.main import cli
try:
    run_cli(cli, {arguments!r})
except SystemExit as left:
    sys.exit(left.code or 7 * bool({{"torch", "ffcv", "scipy", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
