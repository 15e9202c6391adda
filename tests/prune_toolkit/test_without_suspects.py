"""prune select --without-suspects: who is left out, what is recorded, and that nothing else changes."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_manifests import content, make, some_logits
from PIL import Image

import prune_toolkit as pt
from manifests.integrity import verify
from manifests.manifest import Manifest

Run = Callable[..., subprocess.CompletedProcess[str]]
KEYS = [*(f"a{row}" for row in range(1, 8)), *(f"b{row}" for row in range(1, 6))]
LABELS = [0] * 7 + [1] * 5
# The cats have median 4, MAD 1 and one at -9; the dogs are alike.
VALUES = [3, 3, 4, 5, -9, 4, 5, 6, 6, 6, 6, 6]
# Three cats are one image; a6 lies in both classes; the mislabelled a5 has a copy that is judged right.
SAME = {
    "a2": content("a1"),
    "a3": content("a1"),
    "b2": content("a6"),
    "b5": content("b4"),
}


def margins(values: list[float], labels: list[int]) -> np.ndarray:
    logits_NC = np.full((len(values), 3), -100.0)
    rows, label_N = np.arange(len(values)), np.array(labels)
    logits_NC[rows, label_N], logits_NC[rows, (label_N + 1) % 3] = values, 0.0
    return logits_NC[None]


@pytest.fixture
def scored(tmp_path: Path) -> Manifest:
    return make(tmp_path / "m", KEYS, LABELS, margins(VALUES, LABELS), contents=SAME)


def reasons(selection: Manifest) -> dict[str, str]:
    keys = selection.samples().column("key").to_pylist()
    found = dict(zip(keys, selection.selection().column("reason").to_pylist(), strict=True))
    return {key: reason for key, reason in found.items() if reason != "kept"}


def test_suspects_are_left_out_with_their_reasons(scored: Manifest, tmp_path: Path) -> None:
    selection = pt.select(scored, keep=1, without_suspects=True, beton=False, out=tmp_path / "s")
    assert reasons(selection) == {
        "a2": "duplicate",
        "a3": "duplicate",
        "a5": "mislabelled",
        "a6": "two classes",
        "b2": "two classes",
        "b5": "duplicate",
    }
    chosen = selection.header.selection
    assert chosen is not None
    assert chosen.without_suspects is not None
    assert chosen.without_suspects.model_dump() == {
        "judged_by": "teacher/margin", "mislabelled": 1, "two_classes": 2, "duplicates": 3, "leaked": None,
    }  # fmt: skip
    # The fraction to keep is of the rest.
    assert (chosen.count, chosen.keep_got) == (6, 1.0)
    assert selection.header.schema_version == "1.4"
    assert verify(tmp_path / "s").ok


def test_nothing_is_recorded_and_no_id_changes_without_the_flag(scored: Manifest, tmp_path: Path) -> None:
    selection = pt.select(scored, keep="0.5", beton=False, out=tmp_path / "s")
    again = pt.select(scored, keep="0.5", beton=False, out=tmp_path / "t", without_suspects=False)
    assert selection.id == again.id
    assert "suspects" not in selection.header.model_dump_json(exclude_none=True)
    assert selection.header.schema_version == "1.1"


def test_the_copy_that_is_held_out_is_the_one_that_stays(scored: Manifest, tmp_path: Path) -> None:
    make(tmp_path / "holdout", KEYS, LABELS, contents=SAME, kept=["a3", "b4"])
    selection = pt.select(
        scored, keep=1, without=tmp_path / "holdout", without_suspects=True, beton=False, out=tmp_path / "s"
    )
    assert reasons(selection) == {
        "a1": "duplicate",
        "a2": "duplicate",
        "a3": "held out",
        "a5": "mislabelled",
        "a6": "two classes",
        "b2": "two classes",
        "b4": "held out",
        "b5": "duplicate",
    }


def test_a_copy_of_a_mislabelled_sample_stays(tmp_path: Path) -> None:
    values, labels = [4.0, 3, 5, 4, 5, 3, -9, 4], [0] * 8
    aum = {"dynamics": {"aum": values}}
    keys = [f"a{row}" for row in range(8)]
    scored = make(tmp_path / "m", keys, labels, sets=aum, contents={"a7": content("a6")})
    selection = pt.select(scored, keep=1, selector="random", without_suspects=True, beton=False, out=tmp_path / "s")
    assert reasons(selection) == {"a6": "mislabelled"}
    assert selection.header.selection.without_suspects.judged_by == "dynamics/aum"


def test_a_manifest_that_stores_no_margin_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored = make(tmp_path / "m", KEYS, LABELS, sets={"imported": {"loss": VALUES}}, contents=SAME)
    pt.select(scored, keep=1, selector="random", without_suspects=True, beton=False, out=tmp_path / "s")
    assert f"--without-suspects: labels are not judged: {tmp_path / 'm'} stores no margin" in capsys.readouterr().err


def test_if_all_are_suspects_nothing_is_selected(tmp_path: Path, prune: Run) -> None:
    make(tmp_path / "m", ["a", "b"], [0, 1], margins([3, 3], [0, 1]), contents={"b": content("a")})
    told = prune("select", "m", "--keep", "1", "--without-suspects", cwd=tmp_path, code=2)
    assert "--without-suspects leaves no samples to select from" in told.stderr


def test_the_command_tells_the_counts_and_show_does(scored: Manifest, tmp_path: Path, prune: Run) -> None:
    line = "suspects left out beforehand: 1 likely mislabelled (by teacher/margin), 2 in two classes, 3 duplicates"
    asked = ("select", "m", "--keep", "0.5", "--no-beton", "--without-suspects")
    dry = prune(*asked, "--dry-run", cwd=tmp_path)
    assert dry.stdout.splitlines()[-1] == line
    assert "duplicate" not in dry.stderr
    assert json.loads(prune(*asked, "--dry-run", "--json", cwd=tmp_path).stdout)["held_out"] == 0
    assert line in prune(*asked, cwd=tmp_path).stdout.splitlines()
    assert line in prune("show", "selection", cwd=tmp_path).stdout


@pytest.fixture
def leaky(tmp_path: Path, prune: Run) -> Path:
    """A scored manifest of 12 files, and a folder with two of them under other names."""
    for row in range(12):
        for folder in (f"train/{'ab'[row % 2]}/{row}", *([f"val/{'ab'[row % 2]}/v{row}"] if row in (3, 8) else [])):
            path = tmp_path / f"{folder}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 20 * row).save(path)
    prune("index", "train", "-o", "index", cwd=tmp_path)
    rows = Manifest.open(tmp_path / "index").samples().to_pydict()
    contents = dict(zip(rows["key"], rows["content_hash"], strict=True))
    make(tmp_path / "m", rows["key"], rows["label"], some_logits(0, 1, 12, 2), classes=("a", "b"), contents=contents)
    return tmp_path


def test_validation_images_are_left_out_and_part_of_the_id(leaky: Path, prune: Run) -> None:
    asked = ("select", "m", "--keep", "1", "--no-beton", "--without-suspects")
    told = prune(*asked, "--val", "val", "-o", "s", cwd=leaky)
    assert "2 among the validation images" in told.stdout
    selection = Manifest.open(leaky / "s")
    assert [key for key, reason in reasons(selection).items() if reason == "leaked"] == ["a/8.png", "b/3.png"]
    assert selection.header.selection.without_suspects.leaked == 2
    Image.new("L", (8, 8), 33).save(leaky / "val" / "a" / "v8.png")
    prune(*asked, "--val", "val", "-o", "t", cwd=leaky)
    prune(*asked, "-o", "u", cwd=leaky)
    assert len({Manifest.open(leaky / name).id for name in "stu"}) == 3
    assert (
        pt.select(leaky / "m", keep=1, without_suspects=True, beton=False, out=leaky / "v").id
        == Manifest.open(leaky / "u").id
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--val", "val"), "add --without-suspects, or leave out --val"),
        (("--without-suspects", "--val-split", "test"), "--val-split needs --val"),
    ],
)
def test_val_alone_has_no_meaning(leaky: Path, prune: Run, arguments: tuple[str, ...], why: str) -> None:
    assert why in prune("select", "m", "--keep", "1", *arguments, cwd=leaky, code=2).stderr


def test_val_of_prune_toml_is_not_for_select(leaky: Path, prune: Run) -> None:
    (leaky / "prune.toml").write_text('val = "nowhere"\n[select]\nwithout_suspects = true\n')
    told = prune("select", "m", "--keep", "1", "--no-beton", cwd=leaky)
    assert "suspects left out beforehand" in told.stdout
    assert "validation" not in told.stdout


def test_a_hidden_selection_keeps_the_counts_alone(leaky: Path, prune: Run) -> None:
    prune("select", "m", "--keep", "1", "--no-beton", "--without-suspects", "--val", "val", "-o", "s", cwd=leaky)
    (leaky / "secret").write_text("a secret of many characters, known to few\n")
    prune("push", "s", "hidden", "--secret", "secret", cwd=leaky)
    hidden, plain = Manifest.open(leaky / "hidden").header, Manifest.open(leaky / "s").header
    assert hidden.selection.without_suspects == plain.selection.without_suspects
    assert hidden.config["without_suspects"] != plain.config["without_suspects"]
    assert plain.config["without_suspects"]["left_out"] not in hidden.model_dump_json()
