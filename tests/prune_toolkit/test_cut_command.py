"""`prune cut`: a selection that came without its beton gets the one that `prune select` would have written."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from copies_support import jpeg, photos, picture, write_tree

from manifests.betons.reader import Beton
from manifests.hidden.hide import hide
from manifests.integrity import verify
from manifests.manifest import Manifest

Run = Callable[..., subprocess.CompletedProcess[str]]
KILL_AT = (sys.executable, str(Path(__file__).parents[1] / "support" / "kill_at.py"))
CLASSES = ("cat", "dog", "eel")
TEACHER = ("--teacher", "teachers:linear", "--image-size", 8, "--views", 3, "--thumbnails")
KINDS = {
    "views": (),
    "mean": ("--policy", "mean"),
    "single": ("--policy", "single", "--labels", "raw"),
    "top-2": ("--top-k", 2, "--labels", "raw"),
    "distilled": ("--distill-fraction", "1/3", "--distill-by", "loss"),
    "revised": ("--labels", "revise"),
    "none": ("--labels", "none"),
}
"""Selections of every form of targets, by flags of prune select."""


def encoded_again() -> dict[str, bytes]:
    """The same pictures at twice the size, another quality; the first that is kept of each class is another one."""
    return {key: jpeg(picture(100 * CLASSES.index(key[:3]) + int(key[4:6]), 80, 60), 80) for key in photos(count=20)}


def without(kept: list[str]) -> dict[str, bytes]:
    """Of the kept ones two are missing and one is altered."""
    files = photos(count=20)
    files[kept[9]] += b"x"
    return {key: data for key, data in files.items() if key not in (kept[2], kept[20])}


COPIES: dict[str, tuple[Callable[[list[str]], dict[str, bytes]], tuple[str, ...]]] = {
    "as scored": (lambda _: photos(count=20), ()),
    "less": (without, ()),
    "encoded again": (lambda _: encoded_again(), ("--pixels",)),
    "one other picture": (lambda kept: {**encoded_again(), kept[0]: jpeg(picture(31337))}, ("--pixels",)),
}
"""Images of the other team, given the keys that were chosen, and how they are compared."""


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    """Sixty photographs in three classes, three views of each, without a word on where they are."""
    folder = tmp_path_factory.mktemp("scored")
    prune("score", write_tree(folder / "photos", photos(count=20)), *TEACHER, "-o", folder / "manifest")
    (folder / "manifest" / "local.json").unlink()
    return folder / "manifest"


@pytest.fixture(scope="module")
def pulled(scored: Path, tmp_path_factory: pytest.TempPathFactory, prune: Run) -> dict[str, Path]:
    """What the other team pulls: a selection of each kind."""
    folder, found = tmp_path_factory.mktemp("pulled"), {}
    for kind, flags in KINDS.items():
        prune("select", scored, "--keep", "0.5", "--no-beton", *flags, "-o", folder / f"{kind}-made")
        prune("push", folder / f"{kind}-made", folder / f"{kind}-remote")
        found[kind] = folder / kind
        prune("pull", folder / f"{kind}-remote", found[kind])
    return found


def reasons(manifest: Manifest) -> dict[str, str]:
    keys, why = manifest.samples().column("key").to_pylist(), manifest.selection().column("reason").to_pylist()
    return dict(zip(keys, why, strict=True))


def kept_keys(folder: Path) -> list[str]:
    return [key for key, reason in reasons(Manifest.open(folder)).items() if reason == "kept"]


def killed_at(files: int, *words: object) -> bool:
    """Whether `prune WORDS`, killed before so many files had their names, did not end before."""
    done = subprocess.run([*KILL_AT, str(files), *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode != 0


def check_same_beton(one: Path, other: Path) -> Beton:
    """The same images, numbers and targets, row by row."""
    a, b = (Beton.open(folder / "train.beton") for folder in (one, other))
    assert (a.count, a.view_count, a.columns.keys()) == (b.count, b.view_count, b.columns.keys())
    for name, values in a.columns.items():
        assert np.array_equal(values, b.columns[name]), name
    for row in range(a.count):
        assert a.image_bytes(row).tobytes() == b.image_bytes(row).tobytes()
    if a.view_count:
        rows = np.arange(a.count)
        assert np.array_equal(a.targets(rows).view(np.int16), b.targets(rows).view(np.int16))
    return a


def check_same_tables(one: Path, other: Path) -> None:
    a, b = Manifest.open(one), Manifest.open(other)
    assert a.selection().equals(b.selection())
    tables = [sorted({entry.path.rpartition("/")[0] for entry in manifest.header.files} - {""}) for manifest in (a, b)]
    assert tables[0] == tables[1]
    for table in tables[0]:
        for mine, theirs in zip(a.files(table), b.files(table), strict=True):
            assert a.part(mine).equals(b.part(theirs)), mine.path


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_cuts_what_select_would_have_cut(
    scored: Path, pulled: dict[str, Path], tmp_path: Path, prune: Run, kind: str, copy: str
) -> None:
    files_of, flags = COPIES[copy]
    chosen = kept_keys(pulled[kind])
    data = write_tree(tmp_path / "photos", files_of(chosen))
    base = ("--data", data, *flags)
    prune("select", scored, "--keep", "0.5", *KINDS[kind], *base, "-o", tmp_path / "first")
    told = prune("cut", pulled[kind], *base, "-o", tmp_path / "second")
    beton = check_same_beton(tmp_path / "first", tmp_path / "second")
    check_same_tables(tmp_path / "first", tmp_path / "second")
    assert f"{beton.count} of 30 samples of {pulled[kind]}" in told.stdout
    first, second, parent = (
        Manifest.open(folder) for folder in (tmp_path / "first", tmp_path / "second", pulled[kind])
    )
    for block in ("data", "teacher", "views", "compute", "thumbnails", "hidden", "selection", "labels"):
        assert getattr(second.header, block) == getattr(first.header, block), block
    assert second.header.schema_version == first.header.schema_version
    assert second.header.parents == [parent.id]
    facts = first.header.config.get("copy")
    expected = {"command": "cut", "parent": parent.id, "beton": True, "max_side": None}
    assert second.header.config == {**expected, **({} if facts is None else {"copy": facts})}
    assert (facts is None) == (copy == "as scored")
    assert verify(tmp_path / "second").ok


def test_what_the_copy_has_not_says_why(pulled: dict[str, Path], tmp_path: Path, prune: Run) -> None:
    """By hand: of 30 samples two are missing and one is longer by a byte."""
    chosen = kept_keys(pulled["distilled"])
    data = write_tree(tmp_path / "photos", without(chosen))
    base = ("cut", pulled["distilled"], "--data", data, "-o", tmp_path / "cut")
    tried = prune(*base, "--dry-run")
    assert "27 of 30 samples, about " in tried.stdout
    assert "3 of 30 chosen samples do not match photos and are left out: 2 missing, 1 another size" in tried.stderr
    tried = json.loads(prune(*base, "--dry-run", "--json").stdout)
    assert (tried["count"], tried["of"], tried["config"]["command"]) == (27, 30, "cut")
    assert not (tmp_path / "cut").exists()
    told = json.loads(prune(*base, "--json").stdout)
    cut, parent = Manifest.open(tmp_path / "cut"), Manifest.open(pulled["distilled"])
    gone = {chosen[2]: "missing", chosen[9]: "another size", chosen[20]: "missing"}
    assert reasons(cut) == reasons(parent) | gone
    before, after = parent.selection(), cut.selection()
    for name in ("weight", "kd_weight"):
        assert after.column(name).equals(before.column(name))
    keys = cut.samples().column("key").to_pylist()
    left = [row for row, key in enumerate(keys) if key in chosen and key not in gone]
    assert np.flatnonzero(after.column("keep").to_numpy(zero_copy_only=False)).tolist() == left
    for view in range(3):
        [(ids, target_nC)], [(old_ids, old_nC)] = cut.targets(view), parent.targets(view)
        assert ids.tolist() == left
        assert np.array_equal(target_nC, old_nC[np.isin(old_ids, left)])
    chosen_block = cut.header.selection
    assert (chosen_block.count, chosen_block.keep_got, chosen_block.keep_asked) == (27, 27 / 60, "0.5")
    kd_weight = after.column("kd_weight").to_numpy()
    assert chosen_block.distill.count == int(kd_weight[left].sum())
    assert told["copy"]["left_out"] == {"missing": 2, "another size": 1}
    assert Beton.open(tmp_path / "cut" / "train.beton").columns["kd_weight"].tolist() == kd_weight[left].tolist()
    assert "is finished already" in prune(*base).stderr


def test_tables_of_which_nothing_falls_out_take_no_room(pulled: dict[str, Path], tmp_path: Path, prune: Run) -> None:
    data = write_tree(tmp_path / "photos", photos(count=20))
    prune("cut", pulled["views"], "--data", data, "-o", tmp_path / "cut")
    for entry in Manifest.open(pulled["views"]).header.files:
        assert (tmp_path / "cut" / entry.path).samefile(pulled["views"] / entry.path)
    # Writing anew what is linked leaves the other one alone.
    before = Manifest.open(pulled["views"]).selection()
    shutil.rmtree(tmp_path / "cut")
    assert killed_at(1, "cut", pulled["views"], "--data", data, "-o", tmp_path / "cut")
    (data / kept_keys(pulled["views"])[0]).unlink()
    prune("cut", pulled["views"], "--data", data, "-o", tmp_path / "cut")
    assert Manifest.open(pulled["views"]).selection().equals(before)
    assert verify(pulled["views"]).ok
    assert verify(tmp_path / "cut").ok


def test_classes_of_other_names_are_mapped(scored: Path, pulled: dict[str, Path], tmp_path: Path, prune: Run) -> None:
    other = {"cat": "zebra", "dog": "ape", "eel": "eel"}
    files = {f"train/{other[key[:3]]}{key[3:]}": data for key, data in photos(count=20).items()}
    data = write_tree(tmp_path / "photos", files)
    base = ("cut", pulled["views"], "--data", data, "-o", tmp_path / "cut")
    assert "--class-map" in prune(*base, code=4).stderr
    (tmp_path / "map.csv").write_text("cat,zebra\ndog,ape\n")
    prune(*base, "--class-map", tmp_path / "map.csv")
    prune(
        *("select", scored, "--keep", "0.5", "--data", data, "--class-map", tmp_path / "map.csv"),
        *("-o", tmp_path / "first"),
    )
    check_same_beton(tmp_path / "first", tmp_path / "cut")
    check_same_tables(tmp_path / "first", tmp_path / "cut")


@pytest.mark.parametrize("kind", ["views", "top-2"])
def test_a_hidden_selection_is_cut_with_its_secret(
    scored: Path, pulled: dict[str, Path], tmp_path: Path, prune: Run, kind: str
) -> None:
    """Its samples are in another order, but to each image belong the label, weights and targets it had."""
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"correct horse battery staple")
    hide(Manifest.open(pulled[kind]), secret.read_bytes(), tmp_path / "hidden")
    files = photos(count=20)
    missing = kept_keys(pulled[kind])[4]
    del files[missing]
    data = write_tree(tmp_path / "photos", files)
    base = ("cut", tmp_path / "hidden", "--data", data, "-o", tmp_path / "cut")
    assert "--secret" in prune(*base, code=2).stderr
    prune(*base, "--secret", secret, "--check", "hashes")
    prune("select", scored, "--keep", "0.5", *KINDS[kind], "--data", data, "-o", tmp_path / "open")
    a, b = (Beton.open(tmp_path / name / "train.beton") for name in ("open", "cut"))
    assert a.count == b.count == 29
    rows_a, rows_b = (np.argsort(beton.columns["view_id"]) for beton in (a, b))
    for name in ("view_id", "label", "weight", "kd_weight"):
        assert np.array_equal(a.columns[name][rows_a], b.columns[name][rows_b])
    for one, other in zip(rows_a.tolist(), rows_b.tolist(), strict=True):
        assert a.image_bytes(one).tobytes() == b.image_bytes(other).tobytes()
    assert np.array_equal(a.targets(rows_a).view(np.int16), b.targets(rows_b).view(np.int16))
    cut = Manifest.open(tmp_path / "cut")
    assert cut.header.hidden == Manifest.open(tmp_path / "hidden").header.hidden
    assert missing not in (tmp_path / "cut" / "manifest.json").read_text()


@pytest.mark.slow
def test_killed_before_any_file_it_goes_on(pulled: dict[str, Path], tmp_path: Path, prune: Run) -> None:
    data = write_tree(tmp_path / "photos", without(kept_keys(pulled["top-2"])))
    base = ("cut", pulled["top-2"], "--data", data, "--workers", 1, "-o")
    prune(*base, tmp_path / "whole")
    kills = 0
    while killed_at(kills + 1, *base, tmp_path / "cut"):
        assert not (tmp_path / "cut" / "manifest.json").exists()
        kills += 1
    # The selection, three views, the beton, local.json, the card and the header.
    assert kills == 8
    whole, cut = Manifest.open(tmp_path / "whole"), Manifest.open(tmp_path / "cut")
    assert cut.id == whole.id
    assert verify(tmp_path / "cut").ok
    assert (tmp_path / "cut" / "train.beton").read_bytes() == (tmp_path / "whole" / "train.beton").read_bytes()


def test_a_student_trains_on_what_was_cut(pulled: dict[str, Path], tmp_path: Path, prune: Run) -> None:
    from trainer.cli.console import run_cli
    from trainer.cli.train_student import train_student

    def train(folder: Path) -> tuple[int, str]:
        told = io.StringIO()
        words = ("--manifest", folder, "--student", "resnet8", "--epochs", 1, "--batch-size", 8, "-o", tmp_path / "run")
        with redirect_stderr(told), redirect_stdout(told), pytest.raises(SystemExit) as done:
            run_cli(train_student, [*map(str, words), "--device", "cpu", "--loader", "torch"])
        return int(done.value.code or 0), told.getvalue()

    code, told = train(pulled["views"])
    assert code == 3
    assert "make one: prune cut SELECTION --data DATA" in told
    prune("cut", pulled["views"], "--data", write_tree(tmp_path / "photos", encoded_again()), "--pixels", cwd=tmp_path)
    code, told = train(tmp_path / "cut")
    assert code == 0, told
    assert "replay" in told
    assert (tmp_path / "run" / "student.safetensors").is_file()


def test_images_are_found_where_local_json_says(tmp_path: Path, prune: Run) -> None:
    data = write_tree(tmp_path / "photos", photos(count=20))
    prune("score", data, *TEACHER, "-o", tmp_path / "m")
    prune("select", tmp_path / "m", "--keep", "0.5", "--no-beton", "-o", tmp_path / "s")
    prune("select", tmp_path / "m", "--keep", "0.5", "-o", tmp_path / "first")
    prune("cut", tmp_path / "s", "-o", tmp_path / "cut")
    check_same_beton(tmp_path / "first", tmp_path / "cut")
    assert json.loads((tmp_path / "cut" / "local.json").read_text())["data"] == str(data)
    again = prune("cut", tmp_path / "cut", "-o", tmp_path / "again", code=2)
    assert "already has its train.beton" in again.stderr
    prune("cut", tmp_path / "cut", "--data", data, "-o", tmp_path / "again")
    check_same_beton(tmp_path / "first", tmp_path / "again")


def test_images_are_shrunk_as_they_were_for_the_selection(scored: Path, tmp_path: Path, prune: Run) -> None:
    """40x30 pixels at 24 a side, unless something else is asked for."""
    data = write_tree(tmp_path / "photos", photos(count=20))
    select = ("select", scored, "--keep", "0.5", "--policy", "single", "--data", data)
    prune(*select, "--max-side", 24, "-o", tmp_path / "small")
    prune("cut", tmp_path / "small", "--data", data, "-o", tmp_path / "cut")
    beton = check_same_beton(tmp_path / "small", tmp_path / "cut")
    assert (set(beton.widths_N.tolist()), set(beton.heights_N.tolist())) == ({24}, {18})
    prune(*select, "-o", tmp_path / "large")
    prune("cut", tmp_path / "small", "--data", data, "--max-side", 40, "-o", tmp_path / "cut-40")
    check_same_beton(tmp_path / "large", tmp_path / "cut-40")
    prune(*select[:4], "--data", data, "-o", tmp_path / "views")
    refused = prune("cut", tmp_path / "views", "--data", data, "--max-side", 24, "-o", tmp_path / "x", code=2)
    assert "other pixels than the teacher labelled" in refused.stderr


def test_what_cannot_be_cut_says_what_to_do(scored: Path, pulled: dict[str, Path], tmp_path: Path, prune: Run) -> None:
    data = write_tree(tmp_path / "photos", photos(count=20))
    out = ("-o", tmp_path / "cut")
    assert "prune select" in prune("cut", scored, "--data", data, *out, code=2).stderr
    prune("index", data, "-o", tmp_path / "index")
    assert "prune index DATA --beton" in prune("cut", tmp_path / "index", "--data", data, *out, code=2).stderr
    assert "--data" in prune("cut", pulled["views"], *out, code=3).stderr
    remote = tmp_path / "remote"
    prune("push", pulled["views"], remote)
    prune("pull", remote, tmp_path / "half", "--only", "selection")
    told = prune("cut", tmp_path / "half", "--data", data, *out, code=3).stderr
    assert f"prune pull {remote} {tmp_path / 'half'} --only targets" in told
    prune("push", pulled["views"], tmp_path / "part", "--only", "selection")
    assert "left out when it was pushed" in prune("cut", tmp_path / "part", "--data", data, *out, code=3).stderr
    other = write_tree(tmp_path / "other", encoded_again())
    assert "none of the 30 samples" in prune("cut", pulled["views"], "--data", other, *out, code=4).stderr
    assert not (tmp_path / "cut").exists()
    # A URL, and a part of which only the thumbnails are left out.
    prune("push", pulled["views"], tmp_path / "no-thumbnails", "--only", "targets")
    prune("cut", f"file://{tmp_path / 'no-thumbnails'}", "--data", data, *out)
    assert Beton.open(tmp_path / "cut" / "train.beton").count == 30


def test_targets_of_other_samples_are_refused(pulled: dict[str, Path], tmp_path: Path, prune: Run) -> None:
    """A forged part: whole, described by the header, but of other samples than are kept."""
    import hashlib

    import pyarrow as pa
    import pyarrow.parquet as pq

    forged = tmp_path / "forged"
    shutil.copytree(pulled["single"], forged)
    path = forged / "targets/view-000/part-00000.parquet"
    part = pq.read_table(path)
    ids = part.column("sample_id").to_numpy()
    other = np.setdiff1d(np.arange(60), ids)[: len(ids)]
    pq.write_table(part.set_column(0, part.schema.field(0), pa.array(other)), path)
    header = json.loads((forged / "manifest.json").read_text())
    [entry] = [entry for entry in header["files"] if entry["path"].startswith("targets/")]
    entry |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (forged / "manifest.json").write_text(json.dumps(header))
    data = write_tree(tmp_path / "photos", photos(count=20))
    told = prune("cut", forged, "--data", data, "-o", tmp_path / "cut", code=3)
    assert "does not hold the targets of the kept samples" in told.stderr


def test_a_header_that_says_otherwise_than_its_targets_is_refused(
    pulled: dict[str, Path], tmp_path: Path, prune: Run
) -> None:
    data = write_tree(tmp_path / "photos", photos(count=20))
    for number, (kind, top_k) in enumerate((("top-2", 1), ("top-2", None), ("single", 2))):
        forged = tmp_path / f"forged-{number}"
        shutil.copytree(pulled[kind], forged)
        header = json.loads((forged / "manifest.json").read_text())
        header["labels"]["top_k"] = top_k
        (forged / "manifest.json").write_text(json.dumps(header))
        told = prune("cut", forged, "--data", data, "-o", tmp_path / f"cut-{number}", code=3)
        assert f"logits per target, its header says {top_k or 3}" in told.stderr
        assert not (tmp_path / f"cut-{number}" / "train.beton").exists()


def test_it_runs_without_torch_and_ffcv(pulled: dict[str, Path], tmp_path: Path) -> None:
    data = write_tree(tmp_path / "photos", photos(count=20))
    words = ["cut", str(pulled["views"]), "--data", str(data), "-o", str(tmp_path / "cut")]
    code = (
        "import sys; sys.modules |= dict.fromkeys(['torch', 'ffcv', 'torchvision'])\n"
        f"from trainer.cli.console import run_cli\nfrom prune_toolkit.main import cli\nrun_cli(cli, {words!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert verify(tmp_path / "cut").ok


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3", "1.4"])
def test_selections_of_every_version_are_cut(version: str, tmp_path: Path, prune: Run) -> None:
    """That of 1.1 holds the two largest logits of three views."""
    golden = Path(__file__).parents[1] / "golden"
    prune("cut", golden / version / "selection", "--data", golden / "images", "-o", tmp_path / "cut")
    cut, parent = Manifest.open(tmp_path / "cut"), Manifest.open(golden / version / "selection")
    beton = Beton.open(tmp_path / "cut" / "train.beton")
    chosen = parent.selection().filter(parent.selection().column("keep"))
    for name in ("sample_id", "weight", "kd_weight"):
        assert beton.columns[name].tolist() == chosen.column(name).to_pylist()
    target_nVC = beton.targets(np.arange(beton.count)).view(np.int16)
    for view in range(parent.header.labels.views):
        [(_, labels)] = parent.soft_labels("targets", view)
        assert np.array_equal(target_nVC[:, view], labels.words().view(np.int16))
    assert cut.header.selection == parent.header.selection


def test_prune_toml_has_a_table_for_it(pulled: dict[str, Path], tmp_path: Path, prune: Run) -> None:
    data = write_tree(tmp_path / "photos", photos(count=20))
    (tmp_path / "prune.toml").write_text(f'[cut]\ndata = "{data}"\nout = "mine"\ncheck = "hashes"\n')
    prune("cut", pulled["views"], cwd=tmp_path)
    assert verify(tmp_path / "mine").ok
