"""docs/sharing.md: two teams in two folders with an S3 server and a web server between them. Every command is run.

REWRITE=1 puts what the commands print now into the page.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image
from s3 import Bucket
from sklearn.datasets import load_digits
from story import PROMPT, plain, retold

PAGE = Path(__file__).resolve().parents[1] / "docs" / "sharing.md"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "a"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def teams(tmp_path: Path, web: str) -> dict[str, Path]:
    """Team A has photos of digits and a teacher; team B a copy: some missing, altered or new, a folder renamed."""
    folders = {team: tmp_path / team for team in "ab"}
    folders["b"].mkdir()
    digits = load_digits()
    for row, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        top = "photos" if row < 600 else "test" if row < 900 else None
        if top is None:
            break
        path = folders["a"] / top / f"{label}" / f"{row:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).resize((16, 16)).save(path)
    pictures = folders["b"] / "pictures"
    shutil.copytree(folders["a"] / "photos", pictures)
    shutil.copytree(folders["a"] / "test", folders["b"] / "test")
    files = sorted(pictures.rglob("*.png"))
    for path in files[:3]:
        path.unlink()
    for path in files[100:105]:
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_180).save(path)
    for path in files[200:202]:
        shutil.copy(path, path.with_name(f"new-{path.name}"))
    for folder in (pictures, folders["b"] / "test"):
        (folder / "7").rename(folder / "seven")
    names = [f"{c},{'seven' if c == 7 else c}" for c in range(10)]
    (folders["b"] / "classes.csv").write_text("\n".join(["ours,theirs", *names, ""]))
    for command in (
        "prune index photos -o of-teacher --beton",
        "train-student --manifest of-teacher --loss ce --student resnet8 --epochs 12 --seed 0 -o teacher",
    ):
        subprocess.run(command.split(), cwd=folders["a"], env=environment(), check=True, capture_output=True)
    shutil.copy(folders["a"] / "teacher" / "student.safetensors", folders["a"] / "teacher.safetensors")
    return folders


def environment(bucket: Bucket | None = None, web: str = "") -> dict[str, str]:
    bin_folder = str(Path(sys.executable).parent)
    return {
        **os.environ,
        **({} if bucket is None else bucket.environment),
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "WEB": web,
    }


@pytest.mark.slow
def test_two_teams_do_what_the_page_says(teams: dict[str, Path], s3_endpoint: str, web: str) -> None:
    bucket = Bucket(s3_endpoint, "team-a")
    try:
        said = PAGE.read_text("utf-8")
        found = retold(said, teams, environment(bucket, web))
    finally:
        bucket.close()
    if os.environ.get("REWRITE"):
        PAGE.write_text(found, "utf-8")
    assert plain(found) == plain(said)
    # Nothing of the images travelled, and nothing of either machine.
    assert not [name for name in bucket_names(s3_endpoint) if name.endswith((".beton", ".png", "local.json"))]


def bucket_names(endpoint: str) -> list[str]:
    import boto3

    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    )
    try:
        return [found["Key"] for found in client.list_objects_v2(Bucket="team-a")["Contents"]]
    finally:
        client.close()


def test_the_page_tells_of_both_teams() -> None:
    teams = {found["team"] for line in PAGE.read_text("utf-8").splitlines() if (found := PROMPT.match(line))}
    assert teams == {"a", "b"}


@pytest.mark.parametrize(
    ("here", "elsewhere"),
    [
        ("kept only in B: 0/0010.png, 7/0020.png", "kept only in B: 7/0036.png, 2/0041.png, 1/0363.png, ..."),
        (
            "2 of 10 classes differ, most: 0 30 and 32, both 30",
            "9 of 10 classes differ, most: 7 28 and 31, both 28, 1 2 and 3, both 2, ...",
        ),
        ("4 are left out: 2 missing, 2 another size", "5 are left out: 1 missing, 3 another size, 1 other content"),
        (
            "settings   a: 1\n           config.copy.left_out.missing: 2 and -\n           b: 2\n",
            "settings   a: 1\n           config.copy.left_out.missing: 2 and -\n"
            "           config.copy.left_out.other content: 1 and -\n           b: 2\n",
        ),
        ("lr 0.0005  least -2.545", "lr 5e-05  least 0.31"),
        ("took 1 min 3 s; id 4f3d1ab40812", "took 800 ms; id 01e9b13a6775"),
    ],
)
def test_pages_of_two_cpus_are_alike(here: str, elsewhere: str) -> None:
    assert plain(here) == plain(elsewhere)


@pytest.mark.parametrize(
    "other",
    [
        "4 kept only in A: 0/0010.png",
        "4 kept only in B: 0/0010.jpg",
        "4 kept only in B: 0/0010.png, and more",
        "4 kept only in B: ",
        "4 missing: 0/0010.png",
    ],
)
def test_pages_that_say_something_else_are_not(other: str) -> None:
    assert plain("4 kept only in B: 0/0010.png, 0/0020.png") != plain(other)


def test_lists_that_depend_on_the_data_alone_keep_their_length() -> None:
    assert plain("missing  3  0/0000.png, 0/0010.png") != plain("missing  3  0/0000.png")
