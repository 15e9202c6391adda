"""An output folder: new, empty, or with unfinished work; nothing of anybody else is overwritten or written through."""

from pathlib import Path

import pytest

from manifests.base.out_folder import check_out_folder
from manifests.errors import UsageError

OURS = {"parts/a/1": True, "parts/2": True, "list": None, "card": False}


def check(out: Path) -> None:
    check_out_folder(out, "thing", ("parts",), OURS.get)


def put(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("theirs")
    return folder


@pytest.mark.parametrize(
    "there",
    [
        (),
        ("parts/a/1",),
        ("parts/2", "list", "notes.txt", "more/notes.txt"),
        (".list.some-host.12.tmp", "list"),
        ("parts/.2.some-host.12.tmp",),
        (".DS_Store", ".git/config", "parts/.DS_Store", "lost+found/x", "Thumbs.db", "desktop.ini"),
    ],
)
def test_a_new_or_empty_folder_and_unfinished_work_are_taken(tmp_path: Path, there: tuple[str, ...]) -> None:
    check(tmp_path / "new")
    check(put(tmp_path, *there))


@pytest.mark.parametrize(
    ("there", "named"),
    [
        (("notes.txt",), "notes.txt"),
        (("list",), "list"),
        (("card",), "card"),
        (("more/deep/notes.txt", "z"), "more and 1 more"),
        (("parts/3",), "parts/3"),
        (("parts",), "parts"),
        (("parts/2", "card", "notes.txt"), "card"),
        ((".notes.tmp", "list"), "list"),
    ],
)
def test_files_of_others_are_refused_with_their_name(tmp_path: Path, there: tuple[str, ...], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(put(tmp_path, *there))
    assert f"{tmp_path} holds {named}, which is not of an unfinished thing" in str(caught.value)
    assert "name an empty folder with --out" in str(caught.value)


@pytest.mark.parametrize("link", ["parts", "list", ".times", "parts/a", "parts/a/1", "notes.txt"])
@pytest.mark.parametrize("is_begun", [False, True])
def test_links_are_refused_wherever_they_lead(tmp_path: Path, link: str, is_begun: bool) -> None:
    out, elsewhere = tmp_path / "out", put(tmp_path / "elsewhere", "1")
    out.mkdir()
    if is_begun and link != "parts":
        put(out, "parts/2")
    (out / link).parent.mkdir(parents=True, exist_ok=True)
    for target in (elsewhere, elsewhere / "1", elsewhere / "nowhere"):
        (out / link).symlink_to(target)
        with pytest.raises(UsageError, match="is a symbolic link: nothing is written through it"):
            check(out)
        (out / link).unlink()


def test_the_folder_itself_may_be_a_link_to_a_folder_only(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    check(tmp_path / "out")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "lost").symlink_to("nowhere")
    put(tmp_path, "file")
    for name, says in (
        ("a", "a loop of symbolic links"),
        ("a/out", "a loop of symbolic links"),
        ("lost", "a symbolic link to nothing"),
        ("file", "is a file; the thing needs a folder"),
        ("file/out", "is below a file"),
    ):
        with pytest.raises(UsageError, match=says):
            check(tmp_path / name)
