"""`prune push` and `prune pull`, and commands that read a manifest where it lies."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from made_manifests import make, some_logits
from s3 import Bucket
from tests_support import tree_bytes

from manifests.base.layout import BETON_NAME
from manifests.errors import InputError
from manifests.format.parts import PART_ROWS
from manifests.manifest import Manifest, commit, file_entry

KILL = Path(__file__).parents[1] / "support" / "kill_at_put.py"
KEYS = [f"{name}/{row}.jpg" for name in ("cat", "dog") for row in range(4)]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make(tmp_path / "ours", KEYS, [0] * 4 + [1] * 4, some_logits(0, 2, 8, 3))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path, handler: type[SimpleHTTPRequestHandler] = _Quiet) -> Iterator[str]:
    """The address of a web server over a folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a web server over tmp_path."""
    with serving(tmp_path) as address:
        yield address


def test_a_manifest_goes_from_team_to_team_over_s3(
    prune: Run, manifest: Manifest, bucket: Bucket, tmp_path: Path
) -> None:
    url = f"{bucket.url}/cars"
    pushed = prune("push", manifest.folder, url)
    assert pushed.stderr == (
        "anyone who reads this can train a copy of the teacher from its logits; --only scores leaves them out\n"
    )
    assert f"id {manifest.id[:12]}\nnext: prune pull {url} DIR" in pushed.stdout
    assert {"cars/README.md", "cars/croissant.json"} < set(bucket.objects())
    assert b"/tmp" not in b"".join(bucket.get(key) for key in bucket.objects())
    pulled = prune("pull", url, tmp_path / "theirs")
    assert pulled.stdout.endswith(f"next: prune verify {tmp_path / 'theirs'} --data DATA\n")
    assert (tmp_path / "theirs/README.md").is_file()
    assert "is intact" in prune("verify", tmp_path / "theirs").stdout
    assert "0 files sent, 0 B" in prune("push", manifest.folder, url).stdout
    told = json.loads(prune("pull", url, tmp_path / "theirs", "--json").stdout)
    assert (told["copied"], told["there"], told["not_pulled"]) == (0, len(manifest.header.files), [])


def test_a_manifest_is_pulled_from_a_web_server(prune: Run, manifest: Manifest, web: str, tmp_path: Path) -> None:
    prune("pull", f"{web}/ours", tmp_path / "theirs")
    for entry in manifest.header.files:
        assert (tmp_path / "theirs" / entry.path).read_bytes() == (manifest.folder / entry.path).read_bytes()
    prune("push", manifest.folder, f"{web}/elsewhere", code=2)


def test_commands_that_read_take_a_url(prune: Run, manifest: Manifest, web: str, tmp_path: Path) -> None:
    url = f"{web}/ours"
    for words in (("show", "{}"), ("show", "{}", "--json"), ("verify", "{}"), ("verify", "{}", "--json"),
                  ("select", "{}", "--keep", "0.5", "--dry-run"), ("diff", "{}", manifest.folder),
                  ("split", "{}", "--classes", "cat", "--dry-run"),
                  ("merge", "{}", "{}", "--average", "logits", "--score-views", "all", "--dry-run")):  # fmt: skip
        here, there = (
            prune(*(str(word).format(where) for word in words)).stdout for where in (str(manifest.folder), url)
        )
        assert there.replace(url, str(manifest.folder)) == here, words
        assert here
    here, there = tmp_path / "here", tmp_path / "there"
    prune("select", manifest.folder, "--keep", "0.5", "--no-beton", "-o", here)
    prune("select", url, "--keep", "0.5", "--no-beton", "-o", there)
    assert Manifest.open(here).id == Manifest.open(there).id
    assert tree_bytes(here).keys() == tree_bytes(there).keys()
    prune("export", f"{web}/here", "--filelist", tmp_path / "list.txt")
    listed = (tmp_path / "list.txt").read_text().splitlines()
    assert len(listed) == 4
    assert set(listed) < set(KEYS)


def test_a_manifest_at_a_url_is_merged_with_one_at_a_path(prune: Run, web: str, tmp_path: Path) -> None:
    """Shards, whose parts are made anew, and further scores of the same samples, whose parts are copied."""
    make(tmp_path / "x", ["a", "c"], [0, 1], some_logits(0, 2, 2, 3))
    make(tmp_path / "y", ["b", "c"], [2, 1], some_logits(1, 2, 2, 3))
    make(tmp_path / "z", ["a", "c"], [0, 1], some_logits(0, 2, 2, 3), sets={"imported": {"mine": [7, 8]}})
    for number, (one, other, *flags) in enumerate(
        (("x", "z"), ("x", "y", "--prefer", "{}x"), ("y", "z", "--prefer", "first"))
    ):
        trees = []
        for where in ("", f"{web}/", f"file://{tmp_path}/"):
            out = tmp_path / f"{number}-{len(trees)}"
            prune("merge", f"{where}{one}", other, *(flag.format(where) for flag in flags), "-o", out, cwd=tmp_path)
            trees.append(tree_bytes(out))
        assert trees[0] == trees[1] == trees[2]


def test_what_is_written_into_needs_a_folder(prune: Run, web: str, manifest: Manifest) -> None:
    told = prune("select", f"{web}/ours", "--keep", "0.5", "-o", manifest.folder.parent / "out", code=3)
    assert "does not know where its images are on this machine" in told.stderr
    assert not (manifest.folder.parent / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    "when", [pytest.param("first", marks=pytest.mark.slow), "middle", pytest.param("header", marks=pytest.mark.slow)]
)
def test_a_push_that_is_killed_goes_on_and_puts_nothing_twice(
    prune: Run, bucket: Bucket, tmp_path: Path, when: str
) -> None:
    keys = [f"{row:08d}" for row in range(PART_ROWS + 5)]
    made = make(tmp_path / "ours", keys, [row % 3 for row in range(len(keys))], some_logits(0, 1, len(keys), 3))
    url = f"{bucket.url}/m"
    from manifests.card.readme import write_full_card

    write_full_card(made.folder)
    cards = ["README.md", "croissant.json", *(f"card/{path.name}" for path in (made.folder / "card").glob("*.svg"))]
    objects = [*(entry.path for entry in made.header.files), *cards, "manifest.json"]
    number = {"first": 1, "middle": len(objects) // 2, "header": len(objects)}[when]
    killed = subprocess.run(
        [sys.executable, KILL, str(number), "push", str(made.folder), url, "--jobs", "3"],
        env={**os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "m/manifest.json" not in bucket.puts()
    assert (when == "first") == (len(bucket.puts()) < 3)
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        Manifest.open(url)
    before = bucket.puts()
    told = json.loads(prune("push", made.folder, url, "--json").stdout)
    assert told["there"] == len(before)
    assert bucket.puts() == {f"m/{path}": 1 for path in objects}
    assert "is intact" in prune("verify", url).stdout


@pytest.mark.parametrize("renames", [1, 2, 5])
def test_a_pull_that_is_killed_goes_on_and_gets_nothing_twice(
    prune: Run, manifest: Manifest, tmp_path: Path, renames: int
) -> None:
    asked: list[str] = []

    class Counting(_Quiet):
        def do_GET(self) -> None:
            asked.append(self.path.removeprefix("/ours/"))
            super().do_GET()

    theirs = tmp_path / "theirs"
    with serving(tmp_path, Counting) as web:
        words = [sys.executable, str(KILL.with_name("kill_at.py")), str(renames), "pull", f"{web}/ours", str(theirs)]
        killed = subprocess.run([*words, "--jobs", "1"], capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        with pytest.raises(InputError, match=r"holds no manifest\.json"):
            Manifest.open(theirs)
        whole = {path.relative_to(theirs).as_posix() for path in theirs.rglob("*.parquet")}
        # The first to take its name is local.json, which says whose pull this is.
        assert len(whole) == max(0, renames - 2)
        asked.clear()
        prune("pull", f"{web}/ours", theirs)
    assert sorted(path for path in asked if path != "manifest.json") == sorted(
        {entry.path for entry in manifest.header.files} - whole
    )
    assert "is intact" in prune("verify", theirs).stdout
    assert list(theirs.rglob("*.tmp")) == []


def test_a_part_is_pushed_as_a_manifest_of_its_own(
    prune: Run, manifest: Manifest, bucket: Bucket, tmp_path: Path
) -> None:
    pushed = prune("push", manifest.folder, f"{bucket.url}/part", "--only", "scores")
    assert pushed.stderr == ""
    assert not [key for key in bucket.objects() if "logits" in key]
    prune("pull", f"{bucket.url}/part", tmp_path / "part")
    part = Manifest.open(tmp_path / "part")
    assert (part.header.parents, part.header.left_out) == ([manifest.id], ["logits"])
    assert "left out: logits" in prune("show", tmp_path / "part").stdout
    assert "is intact" in prune("verify", tmp_path / "part").stdout
    told = prune("select", tmp_path / "part", "--keep", "0.5", "--no-beton", "-o", tmp_path / "none", code=3)
    assert "its logits were left out when it was pushed" in told.stderr
    told = prune("push", manifest.folder, f"{bucket.url}/none", "--only", "pictures", code=2)
    assert "--only pictures" in told.stderr


def test_a_part_is_pulled_and_shown_as_one(prune: Run, manifest: Manifest, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    assert "not pulled: logits, scores" in prune("pull", manifest.folder, theirs, "--only", "samples").stdout
    assert "not pulled: logits, scores" in prune("show", theirs).stdout
    assert "not here: logits/view-000, logits/view-001, scores/teacher" in prune("verify", theirs).stdout
    told = prune("select", theirs, "--keep", "0.5", "--no-beton", "-o", tmp_path / "none", code=3)
    assert f"prune pull {manifest.folder} {theirs} --only scores" in told.stderr
    assert "not pulled" not in prune("pull", manifest.folder, theirs).stdout
    prune("select", theirs, "--keep", "0.5", "--no-beton", "-o", tmp_path / "chosen")
    assert Manifest.open(tmp_path / "chosen").not_pulled == frozenset()


def test_a_hidden_manifest_is_pushed_with_a_secret(
    prune: Run, manifest: Manifest, bucket: Bucket, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("0123456789abcdef0123456789abcdef\n")
    url, before = f"{bucket.url}/hidden", tree_bytes(manifest.folder)
    pushed = prune("push", manifest.folder, url, "--secret", secret)
    everything = b"".join(bucket.get(key) for key in bucket.objects()) + (pushed.stdout + pushed.stderr).encode()
    assert b"0123456789abcdef" not in everything
    assert b".jpg" not in everything
    hidden = Manifest.open(url)
    assert hidden.samples().num_rows == 8
    assert hidden.header.hidden is not None
    again = prune("push", manifest.folder, url, "--secret", secret)
    assert "0 files sent" in again.stdout
    secret.write_text("short")
    assert "fewer than 16 bytes" in prune("push", manifest.folder, url, "--secret", secret, code=2).stderr
    assert tree_bytes(manifest.folder) == before


def test_images_are_not_pushed_where_that_is_not_allowed(prune: Run, manifest: Manifest, tmp_path: Path) -> None:
    (manifest.folder / BETON_NAME).write_bytes(b"images")
    data = manifest.header.data.model_copy(update={"redistributable": False})
    files = [*manifest.header.files, file_entry(manifest.folder, BETON_NAME, 8)]
    commit(manifest.folder, manifest.header.model_copy(update={"files": files, "data": data}))
    told = prune("push", manifest.folder, tmp_path / "out", "--with-images", code=2)
    assert "must not be redistributed" in told.stderr
    for flags in (("--only", "scores"), ("--secret", tmp_path)):
        assert (
            "leave out one" in prune("push", manifest.folder, tmp_path / "out", "--with-images", *flags, code=2).stderr
        )
    assert not (tmp_path / "out").exists()
    prune("push", manifest.folder, tmp_path / "out")
    assert not (tmp_path / "out" / BETON_NAME).exists()


def test_another_manifest_is_exit_code_4(prune: Run, manifest: Manifest, bucket: Bucket, tmp_path: Path) -> None:
    other = make(tmp_path / "other", KEYS[:2], [0, 0])
    prune("push", manifest.folder, f"{bucket.url}/m")
    assert "or add --replace" in prune("push", other.folder, f"{bucket.url}/m", code=4).stderr
    prune("push", other.folder, f"{bucket.url}/m", "--replace")
    assert Manifest.open(f"{bucket.url}/m").id == other.id
    prune("pull", f"{bucket.url}/m", manifest.folder, code=4)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("push", "{ours}", "s3://no-such-bucket/m"), 3, "this location does not exist"),
        (("pull", "s3://no-such-bucket/m", "{tmp}/x"), 3, "holds no manifest.json"),
        (("pull", "http://127.0.0.1:1/m", "{tmp}/x"), 3, "check the address and the network"),
        (("show", "http://127.0.0.1:1/m"), 3, "check the address and the network"),
        (("push", "{ours}", "nope://x/m"), 2, "nope"),
        (("push", "{ours}", "hf://models/x"), 2, "data set repository"),
        (("push", "{tmp}/nowhere", "s3://no-such-bucket/m"), 3, "no such folder"),
        (("push", "memory://x", "{tmp}/x"), 3, "holds no manifest.json"),
        (("score", "s3://x", "--teacher", "resnet8"), 3, "prune pull URL DIR"),
        (("select", "{ours}", "--keep", "0.5", "--data", "s3://x", "-o", "{tmp}/x"), 3, "s3://x is a URL"),
        (("sweep", "s3://x", "--keep", "0.5", "-o", "{tmp}/x"), 2, "to fetch a manifest, run prune pull"),
        (("pull", "{ours}", "s3://bucket/x"), 2, "s3://bucket/x is a URL"),
        (("split", "{ours}", "--classes", "cat", "-o", "s3://u:p@bucket/x"), 2, "s3://bucket/x is a URL"),
        (("index", "demo:digits", "-o", "gs://bucket/x"), 2, "and run prune push"),
        (("card", "https://host/x"), 2, "https://host/x is a URL"),
        (("pull", "{tmp}/nowhere", "{tmp}/x"), 3, "no such folder"),
    ],
)
def test_what_cannot_be_reached_is_told_with_its_exit_code(
    prune: Run, manifest: Manifest, bucket: Bucket, tmp_path: Path, words: tuple[str, ...], code: int, text: str
) -> None:
    told = prune(*(word.format(ours=manifest.folder, tmp=tmp_path) for word in words), code=code)
    assert text in told.stderr
    assert not (tmp_path / "x" / "manifest.json").exists()


def test_neither_command_imports_torch(manifest: Manifest, tmp_path: Path) -> None:
    code = (
        "import sys; from prune_toolkit.main import cli;"
        f"cli(['push', {str(manifest.folder)!r}, {str(tmp_path / 'out')!r}], standalone_mode=False);"
        f"cli(['pull', {str(tmp_path / 'out')!r}, {str(tmp_path / 'back')!r}], standalone_mode=False);"
        "assert not {'torch', 'ffcv', 'huggingface_hub'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
