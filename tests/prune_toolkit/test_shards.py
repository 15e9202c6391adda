"""`prune merge` without --average: shards, further scores of the same samples, both; wrong calls; kills."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_manifests import content, content_of, make, some_logits
from scipy.special import softmax
from tests_support import tree_bytes

from manifests.images.identity import fingerprint
from manifests.integrity import verify
from manifests.manifest import Manifest
from prune_toolkit.combine.merge import plan_shards, write_shards
from trainer.loop.label_times import label_times

Run = Callable[..., subprocess.CompletedProcess[str]]
KILL_AT = Path(__file__).parents[1] / "support" / "kill_at.py"


def test_two_shards_by_hand(tmp_path: Path, prune: Run) -> None:
    """Keys a0 b0 c0 c1 alternate between the shards; b0 is the one the teacher has wrong, c1 is torn."""
    make(tmp_path / "x", ["a0", "c0"], [0, 2], [[[5, 0, 0], [0, 1, 4]]])
    make(tmp_path / "y", ["b0", "c1"], [1, 2], [[[3, 1, 0], [0, 0, 0]]], unreadable=["c1"], teacher={"train_top1": 0})
    result = prune("merge", "x", "y", "-o", "m", cwd=tmp_path)
    merged = Manifest.open(tmp_path / "m")
    assert verify(tmp_path / "m").ok
    samples = merged.samples().to_pydict()
    assert (samples["key"], samples["sample_id"], samples["label"]) == (
        ["a0", "b0", "c0", "c1"],
        [0, 1, 2, 3],
        [0, 1, 2, 2],
    )
    [(ids, logits)] = merged.logits()
    assert (ids.tolist(), logits.tolist()) == ([0, 1, 2], [[5, 0, 0], [3, 1, 0], [0, 1, 4]])
    assert merged.scores().column("margin").to_pylist() == [5, -2, 3]
    header = merged.header
    assert (header.data.count, header.data.readable) == (4, 3)
    assert header.data.fingerprint == fingerprint(
        ["a0", "b0", "c0", "c1"], ["cat", "dog", "eel", "eel"], [content(key) for key in ("a0", "b0", "c0", "c1")]
    )
    assert header.teacher.train_top1 == pytest.approx(2 / 3)
    confidence = softmax([[5, 0, 0], [3, 1, 0], [0, 1, 4]], axis=1).max(1)
    # The three confidences fall into three of fifteen bins.
    assert header.teacher.train_ece == pytest.approx(np.abs(np.array([1, 0, 1]) - confidence).mean())
    assert header.parents == sorted(Manifest.open(tmp_path / name).id for name in "xy")
    assert label_times(header)["scoring_s"] == pytest.approx(20 + header.run["seconds"], abs=0.1)
    assert "4 samples of 2 manifests, scores teacher, top-1 66.67 % on these images" in result.stdout


def test_the_order_of_the_shards_plays_no_part(tmp_path: Path, prune: Run) -> None:
    for number, keys in enumerate((["a", "d"], ["b", "e"], ["c", "f"])):
        make(tmp_path / f"s{number}", keys, [0, 1], some_logits(number, 2, 2, 3))
    prune("merge", "s0", "s1", "s2", "-o", "one", cwd=tmp_path)
    prune("merge", "s2", "s0", "s1", "-o", "two", cwd=tmp_path)
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")
    assert Manifest.open(tmp_path / "one").id == Manifest.open(tmp_path / "two").id
    assert "finished already" in prune("merge", "s1", "s2", "s0", "-o", "one", cwd=tmp_path).stderr
    assert "parents differ" in prune("merge", "s1", "s2", "-o", "one", cwd=tmp_path, code=2).stderr


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_shards_of_any_cut_hold_what_the_whole_holds(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    count, shards = data.draw(st.integers(2, 30)), data.draw(st.integers(2, 4))
    keys = sorted(data.draw(st.sets(st.text("aé/z0", min_size=1, max_size=4), min_size=count, max_size=count)),
                  key=str.encode)  # fmt: skip
    keys = [key for key in keys if not key.startswith("/")] or ["a", "z"]
    count = len(keys)
    label = np.arange(count) % 3
    logits, extra = some_logits(count, 2, count, 3), np.arange(count)
    in_shard = [data.draw(st.sets(st.integers(0, shards - 1), min_size=1)) for _ in keys]
    torn = {key for key in keys[1:] if data.draw(st.booleans())}
    whole = make(folder / "whole", keys, label, logits, sets={"imported": {"mine": extra}}, unreadable=torn)
    pieces = []
    for shard in range(shards):
        rows = [row for row in range(count) if shard in in_shard[row]]
        if rows:
            names = [keys[row] for row in rows]
            values = {"mine": extra[rows]}
            pieces.append(make(folder / str(shard), names, label[rows], logits[:, rows], sets={"imported": values},
                               unreadable=torn, run={"seconds": shard}))  # fmt: skip
    if len({piece.id for piece in pieces}) < 2:
        return
    different = list({piece.id: piece for piece in pieces}.values())
    merged = write_shards(plan_shards(different, out=folder / "m"))
    assert content_of(merged) == content_of(whole)
    assert merged.header.data.fingerprint == whole.header.data.fingerprint
    assert merged.header.scores == whole.header.scores
    assert verify(folder / "m").ok


def test_further_scores_of_the_same_samples_are_linked(tmp_path: Path, prune: Run) -> None:
    keys, logits = ["p", "q", "r"], some_logits(0, 2, 3, 3)
    make(tmp_path / "a", keys, [0, 1, 2], logits, sets={"features": {"grand": [1, 2, 3], "moderate": [4, 5, 6]}},
         features=[[1], [2], [3]])  # fmt: skip
    make(tmp_path / "b", keys, [0, 1, 2], logits, sets={"dynamics": {"aum": [7, 8, 9]}})
    make(tmp_path / "c", keys, [0, 1, 2], logits, sets={"dynamics": {"forgetting": [1, 0, 2]}})
    prune("merge", "a", "b", "c", "-o", "m", cwd=tmp_path)
    merged = Manifest.open(tmp_path / "m")
    assert verify(tmp_path / "m").ok
    assert merged.scores("features").to_pydict() == {"sample_id": [0, 1, 2], "grand": [1, 2, 3], "moderate": [4, 5, 6]}
    dynamics = merged.scores("dynamics").to_pydict()
    assert {name: dynamics[name] for name in sorted(dynamics)} == {
        "aum": [7, 8, 9],
        "forgetting": [1, 0, 2],
        "sample_id": [0, 1, 2],
    }
    assert merged.header.features.width == 1
    assert {(spec.set, spec.name) for spec in merged.header.scores} >= {("dynamics", "aum"), ("features", "moderate")}
    part = "logits/view-001/part-00000.parquet"
    assert (tmp_path / "m" / part).stat().st_nlink == 2
    prune("select", "m", "--keep", "1/3", "--score", "forgetting", "--no-beton", cwd=tmp_path)


def test_what_several_manifests_took_together_is_counted_once(tmp_path: Path, prune: Run) -> None:
    """a was scored in 10 s; b and c added scores to it in 1 and 2 s."""
    scored = {"command": "score", "seconds": 10.0}
    logits = some_logits(0, 1, 1, 3)
    make(tmp_path / "a", ["p"], [0], logits, run=scored)
    for name, seconds in (("b", 1.0), ("c", 2.0)):
        run = {"command": "score", "seconds": seconds, "parent_run": scored, "training_seconds": 5.0}
        make(tmp_path / name, ["p"], [0], logits, sets={name: {"x": [1]}}, run=run)
    for out, names, spent in (("m", "abc", 13), ("n", "bc", 13)):
        prune("merge", *names, "-o", out, cwd=tmp_path)
        header = Manifest.open(tmp_path / out).header
        assert label_times(header)["scoring_s"] == pytest.approx(spent + header.run["seconds"])
        assert header.run["training_seconds"] == 10


def test_scores_of_all_samples_together_are_left_out_of_shards_and_noted(tmp_path: Path, prune: Run) -> None:
    values = {"grand": [1, 2], "moderate": [3, 4], "influence": [5, 6], "influence_flat": [1, 3], "prototypes": [7, 8]}
    for name, keys in (("x", ["a", "c"]), ("y", ["b", "d"])):
        make(tmp_path / name, keys, [0, 1], some_logits(0, 1, 2, 3), sets={"features": values}, features=[[1], [2]])
    result = prune("merge", "x", "y", "-o", "m", cwd=tmp_path)
    for name in ("moderate", "influence", "influence_flat", "prototypes"):
        assert f"left out: scores/features {name}, which depends on all samples of a shard together" in result.stderr
    merged = Manifest.open(tmp_path / "m")
    assert merged.scores("features").to_pydict() == {"sample_id": [0, 1, 2, 3], "grand": [1, 1, 2, 2]}
    assert [spec.name for spec in merged.header.scores if spec.set == "features"] == ["grand"]
    assert [row for _, rows in merged.features() for row in rows.tolist()] == [[1], [1], [2], [2]]


def test_dynamics_of_two_networks_are_left_out_and_noted(tmp_path: Path, prune: Run) -> None:
    """Each network was trained on its half: their numbers are of two trainings. Those of one training stay."""
    sets = {"dynamics": {"aum": [1, 2]}}
    for name, keys in (("x", ["a", "c"]), ("y", ["b", "d"])):
        make(tmp_path / name, keys, [0, 1], some_logits(0, 1, 2, 3), sets=sets)
    told = prune("merge", "x", "y", "-o", "m", cwd=tmp_path).stderr
    assert "left out: scores/dynamics aum, which depends on all samples of a shard together" in told
    assert not Manifest.open(tmp_path / "m").has("scores/dynamics")
    prune("split", "x", "--classes", "cat", "-o", "one", "--rest", "two", cwd=tmp_path)
    prune("merge", "one", "two", "-o", "n", cwd=tmp_path)
    assert Manifest.open(tmp_path / "n").scores("dynamics").column("aum").to_pylist() == [1, 2]


def test_shards_and_further_scores_at_once(tmp_path: Path, prune: Run) -> None:
    """One imported score is there of both shards; the other is of one shard alone and left out."""
    one, two = some_logits(1, 1, 2, 3), some_logits(2, 1, 2, 3)
    make(tmp_path / "x", ["a", "c"], [0, 1], one)
    make(tmp_path / "xd", ["a", "c"], [0, 1], one, sets={"theirs": {"aum": [1, 2]}, "imported": {"mine": [0, 0]}})
    make(tmp_path / "yd", ["b", "d"], [0, 1], two, sets={"theirs": {"aum": [3, 4]}})
    result = prune("merge", "x", "yd", "xd", "-o", "m", "--json", cwd=tmp_path)
    report = json.loads(result.stdout)
    assert report["left_out"] == ["scores/imported mine, which not every manifest has"]
    assert report["score_sets"] == ["teacher", "theirs"]
    assert Manifest.open(tmp_path / "m").scores("theirs").column("aum").to_pylist() == [1, 3, 2, 4]


@pytest.mark.parametrize("imports", [None, {"imported": {"mine": [7, 8, 9]}}])
def test_what_no_teacher_scored_joins_what_one_did(tmp_path: Path, prune: Run, imports: dict[str, Any] | None) -> None:
    """An index, or what was made of it by an import, and the same samples as a teacher scored them; both ways round."""
    scored = make(tmp_path / "scored", "pqr", [0, 1, 2], some_logits(0, 2, 3, 3), unreadable="q")
    make(tmp_path / "plain", "pqr", [0, 1, 2], sets=imports, unreadable="q")
    for out, names in (("m", ("plain", "scored")), ("n", ("scored", "plain"))):
        prune("merge", *names, "-o", out, cwd=tmp_path)
    merged = Manifest.open(tmp_path / "m")
    assert tree_bytes(tmp_path / "m") == tree_bytes(tmp_path / "n")
    assert (merged.kind, merged.header.views) == ("scores", scored.header.views)
    assert merged.header.teacher.weights_sha256 == "aa"
    hits = (some_logits(0, 2, 3, 3)[0].argmax(1) == [0, 1, 2])[[0, 2]]
    assert merged.header.teacher.train_top1 == pytest.approx(hits.mean())
    table = [{"sample_id": "p", "mine": 7}, {"sample_id": "r", "mine": 9}]
    assert content_of(merged) == content_of(scored) | ({"scores/imported": table} if imports else {})
    assert verify(tmp_path / "m").ok


def test_two_scored_ones_are_compared_though_one_without_a_teacher_comes_first(tmp_path: Path, prune: Run) -> None:
    for number in range(8):
        make(tmp_path / f"plain{number}", ["a", "b"], [0, 1], sets={f"s{number}": {"x": [1, 2]}})
    make(tmp_path / "x", ["a"], [0], some_logits(0, 1, 1, 3))
    make(tmp_path / "y", ["b"], [1], some_logits(0, 1, 1, 3), teacher={"weights_sha256": "bb"})
    plain = [f"plain{number}" for number in range(8)]
    told = prune("merge", "x", "y", *plain, "-o", "m", cwd=tmp_path, code=4).stderr
    assert "teacher.weights_sha256 is" in told
    assert "--average" in told


def test_shards_of_which_one_alone_is_imported_into_are_an_index_with_a_note(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "x", ["a"], [0], sets={"imported": {"mine": [1]}})
    make(tmp_path / "y", ["b"], [1])
    told = prune("merge", "x", "y", "-o", "m", cwd=tmp_path)
    assert "left out: scores/imported mine, which not every manifest has" in told.stderr
    assert "next: prune score m" in told.stdout
    assert Manifest.open(tmp_path / "m").kind == "index"


def test_scores_imported_from_files_of_different_names_are_one_score(tmp_path: Path, prune: Run) -> None:
    for name, key, value in (("x", "a", 5), ("y", "b", 6)):
        make(tmp_path / f"index-{name}", [key], [0])
        (tmp_path / f"scores-{name}.csv").write_text(f"file,hard\n{key},{value}\n")
        flags = ("--key", "file", "--score", "hard", "--harder")
        prune("import", f"scores-{name}.csv", f"index-{name}", *flags, "high", "-o", name, cwd=tmp_path)
    prune("merge", "x", "y", "-o", "m", cwd=tmp_path)
    assert Manifest.open(tmp_path / "m").scores("imported").column("hard").to_pylist() == [5, 6]
    prune("import", "scores-y.csv", "index-y", *flags, "low", "-o", "z", cwd=tmp_path)
    told = prune("merge", "x", "z", "-o", "n", cwd=tmp_path, code=4).stderr
    assert "score imported/hard" in told
    assert "import them with the same options, or each into its own set: --set NAME" in told


def test_index_shards_become_an_index(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "x", ["a", "c"], [0, 1], data={"licence": "MIT", "redistributable": True, "name": "one"})
    make(tmp_path / "y", ["b"], [2], data={"licence": "MIT", "redistributable": False, "name": "two"})
    prune("merge", "x", "y", "-o", "m", cwd=tmp_path)
    merged = Manifest.open(tmp_path / "m")
    assert (merged.kind, merged.header.teacher, merged.header.data.count) == ("index", None, 3)
    assert (merged.header.data.licence, merged.header.data.redistributable) == ("MIT", False)
    assert merged.header.data.name == "one + two"


def test_wrong_calls_say_what_to_type(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "x", ["a"], [0], some_logits(0, 1, 1, 3))
    make(tmp_path / "y", ["b"], [1], some_logits(1, 1, 1, 3))
    make(tmp_path / "i", ["b"], [1])
    for words, code, says in (
        ((), 2, "at least two"),
        (("x",), 2, "at least two"),
        (("x", "x"), 2, "the same manifest"),
        (("x", "i"), 2, "the teacher has not scored 1 samples that are only in i (of kind index); the first: b"),
        (("x", "nowhere"), 3, "no such folder"),
        (("x", "y", "--prefer", "z"), 2, "--prefer z is not one of the manifests"),
        (("x", "y", "--score-views", "0"), 2, "--score-views needs --average"),
        (("x", "y", "--average", "logits", "--prefer", "x"), 2, "--prefer cannot be used with --average"),
        (("x", "y", "-o", "x"), 2, "x is a finished manifest"),
    ):
        assert says in prune("merge", *words, cwd=tmp_path, code=code).stderr
    assert verify(tmp_path / "x").ok


def test_dry_run_tells_and_writes_nothing(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "x", ["a", "c"], [0, 1], some_logits(0, 1, 2, 3))
    make(tmp_path / "y", ["b"], [1], some_logits(1, 1, 1, 3))
    text = prune("merge", "x", "y", "--dry-run", cwd=tmp_path).stdout
    assert "x: 2 samples" in text
    assert "3 samples with samples, logits/view-000, scores/teacher into merged/" in text
    plan = json.loads(prune("merge", "x", "y", "--dry-run", "--json", cwd=tmp_path).stdout)
    assert plan["shares"] == {"x": 2, "y": 1} or plan["shares"] == {"y": 1, "x": 2}
    assert not (tmp_path / "merged").exists()


def test_what_was_pushed_without_logits_is_merged_without(tmp_path: Path, prune: Run) -> None:
    """Accuracy and calibration come from the scores; where these are gone as well, nobody can tell."""
    for name, keys, label in (("x", ["a", "c"], [0, 1]), ("y", ["b"], [1])):
        make(tmp_path / name, keys, label, some_logits(0, 1, len(keys), 3), features=np.ones((len(keys), 2)))
        prune("push", name, f"{name}-scores", "--only", "scores", cwd=tmp_path)
        prune("push", name, f"{name}-features", "--only", "features", cwd=tmp_path)
    prune("merge", "x", "y", "-o", "all", cwd=tmp_path)
    result = prune("merge", "x-scores", "y-scores", "-o", "m", cwd=tmp_path)
    whole, merged = Manifest.open(tmp_path / "all").header, Manifest.open(tmp_path / "m").header
    assert (merged.teacher.train_top1, merged.teacher.train_ece) == (whole.teacher.train_top1, whole.teacher.train_ece)
    assert (merged.left_out, merged.schema_version) == (["features", "logits"], "1.3")
    assert verify(tmp_path / "m").ok
    assert "left out" not in result.stderr
    prune("split", "m", "--prefix", "a", "-o", "part", cwd=tmp_path)
    assert Manifest.open(tmp_path / "part").header.left_out == ["features", "logits"]
    told = prune("merge", "x-features", "y-features", "-o", "none", cwd=tmp_path, code=2)
    assert "cannot be computed without its logits" in told.stderr
    assert not (tmp_path / "none").exists()
    one_without = prune("merge", "x", "y-scores", "-o", "n", cwd=tmp_path)
    assert "left out: logits/view-000, which not every manifest has" in one_without.stderr
    assert Manifest.open(tmp_path / "n").header.teacher.train_top1 == whole.teacher.train_top1


def test_the_largest_logits_are_merged_as_they_are(tmp_path: Path, prune: Run) -> None:
    classes = [f"c{number}" for number in range(8)]
    logits = some_logits(0, 1, 4, 8)
    for name, rows in (("x", [0, 2]), ("y", [1, 3])):
        keys = ["abcd"[row] for row in rows]
        make(tmp_path / name, keys, rows, logits[:, rows], classes=classes, keep_k=3)
    whole = make(tmp_path / "whole", "abcd", range(4), logits, classes=classes, keep_k=3)
    prune("merge", "x", "y", "-o", "m", cwd=tmp_path)
    assert content_of(Manifest.open(tmp_path / "m")) == content_of(whole)


def test_shards_of_real_images_are_the_index_of_all_of_them(shared_data: Path, tmp_path: Path, prune: Run) -> None:
    """Two machines have every other image each, thumbnails included."""
    images = sorted((shared_data / "imagefolder_clothing" / "test").rglob("*.jpg"))
    for number, image in enumerate(images):
        for folder in (f"shard{number % 2}", "whole"):
            target = tmp_path / folder / image.parent.name / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(image)
    for name in ("shard0", "shard1", "whole"):
        flags = ("--thumbnails", "--name", "clothing", "-o", f"index-{name}")
        prune("index", name, *flags, cwd=tmp_path)
    prune("merge", "index-shard0", "index-shard1", cwd=tmp_path)
    merged, whole = Manifest.open(tmp_path / "merged"), Manifest.open(tmp_path / "index-whole")
    assert len(images) > 100
    assert content_of(merged) == content_of(whole)
    assert merged.header.data == whole.header.data
    assert merged.header.thumbnails == whole.header.thumbnails
    assert merged.local == {}
    assert verify(tmp_path / "merged").ok


def test_a_damaged_part_is_refused(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "x", ["a", "c"], [0, 1], some_logits(0, 1, 2, 3))
    make(tmp_path / "y", ["b"], [1], some_logits(1, 1, 1, 3))
    part = tmp_path / "y" / "logits" / "view-000" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    assert "was altered" in prune("merge", "x", "y", "-o", "m", cwd=tmp_path, code=3).stderr
    assert not (tmp_path / "m" / "manifest.json").exists()
    shutil.rmtree(part.parent)
    assert "cannot read" in prune("merge", "x", "y", "-o", "m", cwd=tmp_path, code=3).stderr


def test_a_run_killed_at_any_point_and_repeated_gives_the_same_bytes(tmp_path: Path, prune: Run) -> None:
    """17,000 samples in three parts of samples, logits and scores: nine files, then README.md and manifest.json."""
    keys = [f"{row:05d}" for row in range(17_000)]
    logits = some_logits(0, 1, 17_000, 3)
    for name, rows in (("x", slice(0, None, 2)), ("y", slice(1, None, 2))):
        make(tmp_path / name, keys[rows], [0] * 8500, logits[:, rows])
    prune("merge", "x", "y", "-o", "whole", cwd=tmp_path)
    for renames, there in ((1, 0), (5, 4), (6, 9)):
        launcher = (sys.executable, str(KILL_AT), str(renames))
        prune("merge", "y", "x", "-o", "m", cwd=tmp_path, code=-signal.SIGKILL, launcher=launcher)
        found = [path for path in (tmp_path / "m").rglob("*.parquet") if not path.name.startswith(".")]
        assert len(found) == there
        assert not (tmp_path / "m" / "manifest.json").exists()
    prune("merge", "x", "y", "-o", "m", cwd=tmp_path)
    assert tree_bytes(tmp_path / "m") == tree_bytes(tmp_path / "whole")
    assert Manifest.open(tmp_path / "m").id == Manifest.open(tmp_path / "whole").id
