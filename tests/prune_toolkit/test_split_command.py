"""`prune split`: pieces by class and by key, and what `prune merge` makes of them."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_manifests import content_of, make, some_logits
from tests_support import tree_bytes

from manifests.integrity import verify
from manifests.manifest import Manifest, write_local
from prune_toolkit.combine.split import class_list
from trainer.loop.label_times import label_times

Run = Callable[..., subprocess.CompletedProcess[str]]
KILL_AT = Path(__file__).parents[1] / "support" / "kill_at.py"
KEYS = ["test/a", "test/b", "train/a", "train/b", "train/c", "valid/a"]
LABELS = [0, 1, 0, 2, 1, 2]


@pytest.fixture
def whole(tmp_path: Path) -> Manifest:
    """Six samples in three folders, train/b torn, with logits of two views, features and three sets of scores."""
    rng = np.random.default_rng(0)
    sets = {
        "features": {name: rng.normal(size=6) for name in ("grand", "moderate", "influence")},
        "dynamics": {"aum": rng.normal(size=6)},
    }
    return make(
        tmp_path / "whole",
        KEYS,
        LABELS,
        some_logits(0, 2, 6, 3),
        sets=sets,
        features=rng.normal(size=(6, 5)),
        unreadable=["train/b"],
    )


def test_classes_by_hand(whole: Manifest, tmp_path: Path, prune: Run) -> None:
    result = prune("split", "whole", "--classes", "cat,eel", "-o", "part", "--rest", "rest", cwd=tmp_path)
    part, rest = Manifest.open(tmp_path / "part"), Manifest.open(tmp_path / "rest")
    assert part.samples().column("key").to_pylist() == ["test/a", "train/a", "train/b", "valid/a"]
    assert part.samples().column("sample_id").to_pylist() == [0, 1, 2, 3]
    assert rest.samples().column("key").to_pylist() == ["test/b", "train/c"]
    assert part.class_names == rest.class_names == ["cat", "dog", "eel"]
    [(ids, logits)] = part.logits(1)
    assert ids.tolist() == [0, 1, 3]
    assert np.array_equal(logits, some_logits(0, 2, 6, 3)[1, [0, 2, 5]])
    assert part.header.data.readable == 3
    hits = (some_logits(0, 2, 6, 3)[0].argmax(1) == LABELS)[[0, 2, 5]]
    assert part.header.teacher.train_top1 == pytest.approx(hits.mean())
    assert (part.header.parents, part.header.config["rest"], rest.header.config["rest"]) == ([whole.id], False, True)
    assert label_times(part.header)["scoring_s"] == 10
    assert verify(tmp_path / "part").ok
    assert verify(tmp_path / "rest").ok
    assert "part/: 4 of 6 samples of 2 classes" in result.stdout


@pytest.mark.parametrize("flags", [("--classes", "dog"), ("--prefix", "train/"), ("--prefix", "test", "--prefix", "v")])
def test_the_pieces_merged_hold_what_the_whole_held(
    whole: Manifest, tmp_path: Path, prune: Run, flags: tuple[str, ...]
) -> None:
    """Scores of all samples together too: both pieces have them from one manifest."""
    prune("split", "whole", *flags, "-o", "one", "--rest", "two", cwd=tmp_path)
    # A piece of a piece is one of the whole as well.
    prune("split", "two", "--classes", "cat", "-o", "three", "--rest", "four", cwd=tmp_path)
    for number, pieces in enumerate((("one", "two"), ("four", "one", "three"))):
        out = tmp_path / f"merged{number}"
        result = prune("merge", *pieces, "-o", out, cwd=tmp_path)
        merged = Manifest.open(out)
        assert content_of(merged) == content_of(whole)
        assert merged.samples().equals(whole.samples())
        assert merged.header.scores == whole.header.scores
        assert merged.header.features == whole.header.features
        assert merged.header.data == whole.header.data
        assert "left out" not in result.stderr
        seconds = merged.header.run["seconds"]
        assert label_times(merged.header)["scoring_s"] == pytest.approx(10 + seconds)


def test_the_pieces_know_where_the_images_are(whole: Manifest, tmp_path: Path, prune: Run) -> None:
    write_local(whole.path, {"data": "/photos", "split": "train", "beton": "/photos.beton"})
    prune("split", "whole", "--prefix", "test", "-o", "one", "--rest", "two", cwd=tmp_path)
    prune("merge", "one", "two", cwd=tmp_path)
    assert Manifest.open(tmp_path / "one").local == {"data": "/photos", "split": "train"}
    assert Manifest.open(tmp_path / "merged").local == {"data": "/photos", "split": "train"}


def test_a_selection_from_a_piece_works(whole: Manifest, tmp_path: Path, prune: Run) -> None:
    prune("split", "whole", "--prefix", "t", "-o", "part", cwd=tmp_path)
    prune("select", "part", "--keep", "0.5", "--score", "moderate", "--labels", "raw", "--no-beton", cwd=tmp_path)
    assert Manifest.open(tmp_path / "selection").header.selection.count == 2
    assert "is a selection" in prune("split", "selection", "--prefix", "t", cwd=tmp_path, code=2).stderr


def test_an_index_and_the_largest_logits_can_be_split(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "index", "abc", [0, 1, 2])
    classes = [f"c{number}" for number in range(8)]
    scored = make(tmp_path / "scored", "abc", [0, 1, 2], some_logits(0, 1, 3, 8), classes=classes, keep_k=3)
    prune("split", "index", "--prefix", "b", "-o", "one", cwd=tmp_path)
    assert Manifest.open(tmp_path / "one").samples().column("label").to_pylist() == [1]
    prune("split", "scored", "--classes", "c1", "-o", "x", "--rest", "y", cwd=tmp_path)
    prune("merge", "x", "y", cwd=tmp_path)
    assert content_of(Manifest.open(tmp_path / "merged")) == content_of(scored)


def test_wrong_calls_say_what_to_type(whole: Manifest, tmp_path: Path, prune: Run) -> None:
    for words, says in (
        ((), "give either classes or prefixes"),
        (("--classes", "cat", "--prefix", "t"), "give either classes or prefixes"),
        (("--classes", "cot"), "unknown class cot\n  there are 3, such as cat"),
        (("--classes", ","), "--classes is empty"),
        (("--prefix", "nowhere/"), "begins with nowhere/\n  its first key is test/a"),
        (("--prefix", ""), "--prefix '' matches every key"),
        (("--prefix", "train/b"), "out would have no readable image"),
        (("--classes", "cat,dog,eel", "--rest", "rest"), "rest would have no readable image"),
        (("--prefix", "t", "--rest", "./out"), "are both"),
    ):
        assert says in prune("split", "whole", *words, "-o", "out", cwd=tmp_path, code=2).stderr
    assert "no such folder" in prune("split", "nowhere", "--prefix", "t", cwd=tmp_path, code=3).stderr
    assert not (tmp_path / "out").exists()


def test_both_folders_are_looked_at_before_anything_is_written(whole: Manifest, tmp_path: Path, prune: Run) -> None:
    (tmp_path / "file").touch()
    words = ("split", "whole", "--prefix", "t", "-o", "out", "--rest")
    for rest, says in (("whole", "whole is a finished manifest"), ("file", "file is a file")):
        assert says in prune(*words, rest, cwd=tmp_path, code=2).stderr
        assert not (tmp_path / "out").exists()


def test_what_was_not_pulled_is_told_as_such(whole: Manifest, tmp_path: Path, prune: Run) -> None:
    """Of the features the header alone is here."""
    write_local(whole.path, {"pulled_from": "s3://b/m", "not_pulled": ["features"]})
    shutil.rmtree(whole.path / "features")
    make(tmp_path / "other", "z", [0], some_logits(1, 2, 1, 3), features=np.zeros((1, 5)))
    make(tmp_path / "without", "z", [0], some_logits(1, 2, 1, 3))
    for words in (("split", "whole", "--prefix", "t"), ("merge", "whole", "other")):
        told = prune(*words, "-o", "out", cwd=tmp_path, code=3).stderr
        assert told == "prune: whole: its features were not pulled\n  prune pull s3://b/m whole --only features\n"
        assert not (tmp_path / "out").exists()
    told = prune("merge", "whole", "without", "-o", "out", cwd=tmp_path).stderr
    assert "left out: features/view-000, which not every manifest has" in told


def test_a_class_with_a_comma_in_its_name_is_found() -> None:
    known = ["crane", "maillot, tank suit", "hat"]
    assert class_list(["maillot, tank suit", "hat"], known) == {"maillot, tank suit", "hat"}
    assert class_list(["hat, crane"], known) == {"hat", "crane"}


def test_the_classes_of_prune_toml_are_those_of_the_data(whole: Manifest, tmp_path: Path, prune: Run) -> None:
    (tmp_path / "prune.toml").write_text('classes = "names.txt"\n[split]\nprefix = ["test"]\n')
    prune("split", "whole", cwd=tmp_path)
    assert Manifest.open(tmp_path / "split").header.data.count == 2


def test_dry_run_and_json(whole: Manifest, tmp_path: Path, prune: Run) -> None:
    flags = ("split", "whole", "--prefix", "train", "-o", "a", "--rest", "b")
    assert "3 of 6 samples into a/\n3 of 6 samples into b/" in prune(*flags, "--dry-run", cwd=tmp_path).stdout
    plan = json.loads(prune(*flags, "--dry-run", "--json", cwd=tmp_path).stdout)
    assert plan == [{"out": "a", "samples": 3}, {"out": "b", "samples": 3}]
    assert not (tmp_path / "a").exists()
    written = json.loads(prune(*flags, "--json", cwd=tmp_path).stdout)
    assert [piece["readable"] for piece in written] == [2, 3]


def test_a_split_killed_and_repeated_gives_the_same_bytes(tmp_path: Path, prune: Run) -> None:
    keys = [f"{row:05d}" for row in range(17_000)]
    make(tmp_path / "whole", keys, np.arange(17_000) % 3, some_logits(0, 1, 17_000, 3))
    flags = ("--classes", "cat,dog", "--rest")
    prune("split", "whole", *flags, "rest", "-o", "part", cwd=tmp_path)
    for renames in (3, 6):
        launcher = (sys.executable, str(KILL_AT), str(renames))
        prune("split", "whole", *flags, "b", "-o", "a", cwd=tmp_path, code=-signal.SIGKILL, launcher=launcher)
        assert not (tmp_path / "b" / "manifest.json").exists()
    prune("split", "whole", *flags, "b", "-o", "a", cwd=tmp_path)
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "part")
    assert tree_bytes(tmp_path / "b") == tree_bytes(tmp_path / "rest")
