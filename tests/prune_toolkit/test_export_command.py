"""`prune export`: numbers, lists and trees, against the folder they came from and torchvision's reading of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from export_support import files_below, kept_keys, make_photos, select
from PIL import Image
from torchvision.datasets import ImageFolder

from manifests.base.files import is_temporary
from manifests.errors import InputError, UsageError
from manifests.manifest import Manifest
from manifests.sources import open_source
from prune_toolkit.export.export import image_folder_order, renamed_when_done, tree_paths, write_file_list

Run = Callable[..., subprocess.CompletedProcess[str]]
CHILD = (sys.executable, "-m", "prune_toolkit")
KILL_AT = (sys.executable, str(Path(__file__).parents[1] / "support" / "kill_at.py"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def selection(photos: Path, tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    return select(prune, photos, tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    return select(prune, "demo:digits", tmp_path_factory.mktemp("digits"))


def test_indices_are_the_sample_ids_of_what_is_kept(selection: Path, tmp_path: Path, prune: Run) -> None:
    result = json.loads(prune("export", selection, "--indices", tmp_path / "i.npy", "--json").stdout)
    prune("export", selection, "--indices", tmp_path / "i.txt")
    indices = np.load(tmp_path / "i.npy")
    table = Manifest.open(selection).selection().to_pandas()
    assert indices.dtype == np.int64
    assert indices.tolist() == table.sample_id[table.keep].tolist()
    assert (tmp_path / "i.txt").read_text().split() == [str(index) for index in indices]
    assert result["count"] == len(indices) == 12
    assert result["id"] == Manifest.open(selection).id


def test_indices_of_a_plain_folder_are_positions_in_torchvisions_image_folder(tmp_path: Path, prune: Run) -> None:
    root = make_photos(tmp_path / "photos" / "train")
    for folder in root.iterdir():
        for file in (folder / "+more").iterdir():
            file.rename(folder / file.name)
        (folder / "+more").rmdir()
    selection = select(prune, root.parent, tmp_path)
    result = prune("export", selection, "--indices", tmp_path / "i.npy", "--json")
    assert json.loads(result.stdout)["imagefolder_positions"] is True
    assert result.stderr == ""
    listed = [f"train/{Path(path).relative_to(root).as_posix()}" for path, _ in ImageFolder(root).samples]
    assert [listed[index] for index in np.load(tmp_path / "i.npy")] == kept_keys(selection)


@pytest.mark.parametrize("names", [("cat", "cat-big"), ("cat 2", "cat"), ("cat", "cat2"), ("a", "a+b"), ("Z", "é")])
def test_the_order_of_image_folder_is_told_from_the_keys_alone(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        for file in ("x.png", "y.JPG", "é.png"):
            (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "train" / name / file).touch()
    source = open_source(str(tmp_path), split="train")
    listed = [str(Path(path).relative_to(tmp_path)) for path, _ in ImageFolder(tmp_path / "train").samples]
    assert image_folder_order(source.keys, "train") == (listed == source.keys)
    assert (listed == source.keys) == (names in (("cat", "cat2"), ("Z", "é")))


@pytest.mark.parametrize(
    ("files", "same"),
    [
        (("a/1.png", "a/2.png"), True),
        (("a/1/x.png", "a/2/x.png"), True),
        (("a/2.png", "a/1/x.png"), False),
        (("a/1.png", "a/2/x.png"), True),
        (("a/1/x.png", "a/1/y/x.png", "a/1-b/x.png"), False),
        (("a/1.png", "a/2.gif"), False),
    ],
)
def test_folders_in_class_folders_come_after_the_files_beside_them(
    tmp_path: Path, files: tuple[str, ...], same: bool
) -> None:
    for file in (*files, "b/1.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    source = open_source(str(tmp_path))
    listed = [str(Path(path).relative_to(tmp_path)) for path, _ in ImageFolder(tmp_path).samples]
    assert image_folder_order(source.keys, None) == (listed == source.keys) == same


def test_a_folder_that_image_folder_orders_otherwise_is_told(selection: Path, tmp_path: Path, prune: Run) -> None:
    result = prune("export", selection, "--indices", tmp_path / "i.npy", "--json")
    assert "not positions in torchvision's ImageFolder" in result.stderr
    assert json.loads(result.stdout)["imagefolder_positions"] is False


def test_indices_of_a_row_source_are_row_numbers(digits: Path, tmp_path: Path, prune: Run) -> None:
    result = prune("export", digits, "--indices", tmp_path / "i.npy", "--json")
    assert json.loads(result.stdout)["imagefolder_positions"] is None
    assert [f"train/{index:08d}" for index in np.load(tmp_path / "i.npy")] == kept_keys(digits)


def test_the_file_list_packs_the_kept_files_with_tar(selection: Path, photos: Path, tmp_path: Path, prune: Run) -> None:
    prune("export", selection, "--filelist", tmp_path / "list.txt")
    piped = prune("export", selection, "--filelist", "-", launcher=CHILD)
    assert piped.stdout == (tmp_path / "list.txt").read_text()
    assert piped.stdout.splitlines() == kept_keys(selection)
    subprocess.run(["tar", "-cf", tmp_path / "a.tar", "-T", tmp_path / "list.txt"], cwd=photos, check=True)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "a.tar", "-C", tmp_path / "out"], check=True)
    assert sorted(files_below(tmp_path / "out")) == sorted(kept_keys(selection))


def test_no_form_imports_torch(selection: Path, tmp_path: Path) -> None:
    for form in (("--indices", "i.npy"), ("--filelist", "f.txt"), ("--imagefolder", "tree")):
        code = (
            "import sys\nfrom prune_toolkit.main import main\n"
            f"sys.argv[1:] = ['export', {str(selection)!r}, {form[0]!r}, {form[1]!r}]\n"
            "try:\n    main()\nfinally:\n    assert not {'torch', 'ffcv'} & set(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


def test_a_key_of_two_lines_is_refused(tmp_path: Path) -> None:
    """As manifests of older versions may have it: today `prune index` takes no such name."""
    for key in ("cat/two\nlines.png", "cat/two\rlines.png"):
        with pytest.raises(InputError, match="has a line break"):
            write_file_list(tmp_path / "list.txt", pa.table({"key": ["cat/1.png", key]}))
    assert not (tmp_path / "list.txt").exists()


def test_the_image_folder_is_hard_links_into_the_folder(
    selection: Path, photos: Path, tmp_path: Path, prune: Run
) -> None:
    result = json.loads(prune("export", selection, "--imagefolder", tmp_path / "tree", "--json").stdout)
    found = files_below(tmp_path / "tree")
    assert sorted(found) == sorted(kept_keys(selection))
    assert all(path.samefile(photos / key) and path.stat().st_nlink > 1 for key, path in found.items())
    assert (result["linked"], result["written"], result["bytes"], result["classes"]) == (12, 0, 0, 2)
    assert len(ImageFolder(tmp_path / "tree").samples) == 12
    assert list(tmp_path.iterdir()) == [tmp_path / "tree"]


def test_with_copy_the_files_are_independent(selection: Path, photos: Path, tmp_path: Path, prune: Run) -> None:
    (tmp_path / "tree").mkdir()
    prune("export", selection, "--imagefolder", tmp_path / "tree", "--copy")
    found = files_below(tmp_path / "tree")
    assert sorted(found) == sorted(kept_keys(selection))
    for key, path in found.items():
        assert path.stat().st_nlink == 1
        assert path.read_bytes() == (photos / key).read_bytes()


def test_files_are_copied_where_links_are_refused(
    selection: Path, photos: Path, tmp_path: Path, prune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    result = json.loads(prune("export", selection, "--imagefolder", tmp_path / "tree", "--json").stdout)
    found = files_below(tmp_path / "tree")
    assert (result["linked"], result["written"]) == (0, 12)
    assert result["bytes"] == sum(path.stat().st_size for path in found.values())
    assert all(path.read_bytes() == (photos / key).read_bytes() for key, path in found.items())


def test_links_are_made_to_the_file_behind_a_relative_symbolic_link(tmp_path: Path, prune: Run) -> None:
    root = make_photos(tmp_path / "photos")
    (tmp_path / "store").mkdir()
    for number, file in enumerate(sorted(root.rglob("*.*"))):
        file.rename(tmp_path / "store" / str(number))
        file.symlink_to(os.path.relpath(tmp_path / "store" / str(number), file.parent))
    selection = select(prune, root, tmp_path)
    prune("export", selection, "--imagefolder", tmp_path / "elsewhere" / "deep" / "tree")
    found = files_below(tmp_path / "elsewhere" / "deep" / "tree")
    assert len(found) == 12
    assert all(not path.is_symlink() and path.samefile(root / key) for key, path in found.items())


def test_class_folders_may_be_named_otherwise(selection: Path, tmp_path: Path, prune: Run) -> None:
    (tmp_path / "names.txt").write_text("Felis catus\nCanis familiaris\n")
    result = prune("export", selection, "--imagefolder", tmp_path / "tree", "--classes", tmp_path / "names.txt")
    assert "2 of 2 get a different label" in result.stderr
    wanted = [key.replace("cat/", "Felis catus/").replace("dog/", "Canis familiaris/") for key in kept_keys(selection)]
    assert sorted(files_below(tmp_path / "tree")) == sorted(wanted)
    (tmp_path / "names.txt").write_text("one\n")
    prune("export", selection, "--imagefolder", tmp_path / "t", "--classes", tmp_path / "names.txt", code=2)


@pytest.mark.parametrize("bad", ["T-shirt/top", "..", ".hidden", "a\\b", " x", "x" * 256, "tab\there"])
def test_a_class_name_that_is_no_safe_folder_name_is_refused(
    selection: Path, tmp_path: Path, prune: Run, bad: str
) -> None:
    (tmp_path / "names.json").write_text(json.dumps(["fine", bad]))
    result = prune(
        "export", selection, "--imagefolder", tmp_path / "tree", "--classes", tmp_path / "names.json", code=2
    )
    assert "is not a safe folder name" in result.stderr
    assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize("key", ["cat/../../x.png", "cat/./x.png", "cat//x.png", "x.png", "cat/a\0b.png"])
def test_a_key_that_leads_out_of_its_class_folder_is_refused(selection: Path, key: str) -> None:
    samples = pa.table({"label": [0, 0], "key": ["cat/fine.png", key]})
    with pytest.raises(InputError, match="is not the path of an image in a class folder"):
        tree_paths(Manifest.open(selection), samples, ["cat", "dog"])


def test_pixels_become_png_files_with_the_same_pixels(digits: Path, tmp_path: Path, prune: Run) -> None:
    result = json.loads(prune("export", digits, "--imagefolder", tmp_path / "tree", "--json").stdout)
    source = open_source("demo:digits")
    row_of_key = {key: row for row, key in enumerate(source.keys)}
    found = files_below(tmp_path / "tree")
    assert result["written"] == len(found) == len(kept_keys(digits)) == 649
    for key in kept_keys(digits):
        row = row_of_key[key]
        with Image.open(found[f"{source.labels_N[row]}/{key.removeprefix('train/')}.png"]) as picture:
            assert picture.mode == "L"
            np.testing.assert_array_equal(picture, source.read([row])[0].array.reshape(8, 8))


def test_encoded_rows_keep_their_bytes_and_get_the_suffix_of_their_content(
    photos: Path, tmp_path: Path, prune: Run
) -> None:
    files = sorted(path for path in photos.rglob("*.*") if path.name != "broken.jpg")
    table = pa.table(
        {
            "image": [{"bytes": path.read_bytes()} for path in files],
            "label": [int("dog" in path.parts) for path in files],
        }
    )
    (tmp_path / "rows").mkdir()
    pq.write_table(table, tmp_path / "rows" / "train-00000.parquet")
    selection = select(prune, tmp_path / "rows", tmp_path)
    prune("export", selection, "--imagefolder", tmp_path / "tree")
    wanted = {}
    for key in kept_keys(selection):
        row = int(key.removeprefix("train/"))
        suffix = files[row].suffix.replace("jpeg", "jpg")
        wanted[f"{table['label'][row].as_py()}/{row:08d}{suffix}"] = files[row].read_bytes()
    assert {name: path.read_bytes() for name, path in files_below(tmp_path / "tree").items()} == wanted
    assert {Path(name).suffix for name in wanted} == {".jpg", ".png", ".webp"}


def test_what_is_there_already_is_not_touched(selection: Path, tmp_path: Path, prune: Run) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, form in (
        ("full", "--imagefolder"),
        ("full/mine", "--imagefolder"),
        ("dangling", "--imagefolder"),
        ("full/mine", "--filelist"),
    ):
        assert "already exists" in prune("export", selection, form, tmp_path / name, code=2).stderr
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.npy").mkdir()
    for form, name in (("--filelist", "empty"), ("--indices", "empty.npy")):
        assert "already exists" in prune("export", selection, form, tmp_path / name, code=2).stderr
    (tmp_path / "i.npy").write_text("mine")
    prune("export", selection, "--indices", tmp_path / "i.npy", code=2)
    assert (tmp_path / "i.npy").read_text() == (tmp_path / "full" / "mine").read_text() == "mine"


def test_exactly_one_form_is_asked_for_and_only_of_a_selection(selection: Path, tmp_path: Path, prune: Run) -> None:
    list_, tree = ("--filelist", tmp_path / "l"), ("--imagefolder", tmp_path / "t")
    for arguments, said in (
        ((), "exactly one"),
        ((*list_, *tree), "exactly one"),
        ((*list_, "--copy"), "--copy cannot be used with --filelist"),
        (("--indices", tmp_path / "i.npy", "--data", tmp_path), "--data cannot be used with --indices"),
        ((*list_, "--classes", "names.txt"), "--classes cannot be used"),
        ((*tree, "--split", "train"), "--split needs --data: it says how to read"),
        ((*tree, "--label", "fine"), "--label needs --data: it says how to read"),
        (("--indices", tmp_path / "i.csv"), ".npy or .txt"),
        (("--filelist", "-", "--json"), "both write to stdout"),
    ):
        assert said in prune("export", selection, *arguments, code=2).stderr
    assert "of kind scores" in prune("export", selection.parent / "manifest", *list_, code=2).stderr
    assert not list(tmp_path.iterdir())


def test_two_at_once_do_not_take_each_others_half_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "tree"
    slow = renamed_when_done(out)
    (slow.__enter__() / "a").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", os.getppid)
        with renamed_when_done(out) as quick:
            (quick / "b").touch()
    with pytest.raises(UsageError, match="already exists"):
        slow.__exit__(None, None, None)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["tree", "tree/b"]


def test_killed_half_way_it_leaves_no_folder_of_that_name(selection: Path, tmp_path: Path, prune: Run) -> None:
    # The rename of the finished folder is the only one there is.
    result = subprocess.run(
        [*KILL_AT, "1", "export", selection, "--imagefolder", tmp_path / "tree"], capture_output=True, check=False
    )
    assert result.returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    assert is_temporary(left.name)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    left.rename(tmp_path / left.name.replace("tree", "there"))
    assert "already exists" in prune("export", selection, "--imagefolder", tmp_path / "there", code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    shutil.rmtree(tmp_path / "there")
    prune("export", selection, "--imagefolder", tmp_path / "tree")
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    assert sorted(files_below(tmp_path / "tree")) == sorted(kept_keys(selection))
