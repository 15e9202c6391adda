"""What `prune push` and `prune pull` must not do: tell passwords, forget an address, leave what was not asked for."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_manifests import make, some_logits
from s3 import Bucket

from manifests.errors import UsageError
from manifests.manifest import Manifest
from manifests.stores.store import store_of, without_password

KILL = Path(__file__).parents[1] / "support" / "kill_at_put.py"
KEYS = [f"{name}/{row}.jpg" for name in ("cat", "dog") for row in range(4)]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make(tmp_path / "ours", KEYS, [0] * 4 + [1] * 4, some_logits(0, 2, 8, 3))


@pytest.mark.parametrize("flags", ["--only", "--secret", "--replace"])
def test_a_push_that_was_killed_leaves_nothing_that_the_next_one_does_not_send(
    prune: Run, manifest: Manifest, bucket: Bucket, tmp_path: Path, flags: str
) -> None:
    url = f"{bucket.url}/m"
    # Three parts, README, croissant, a picture and the header: killed just before the header.
    killed = subprocess.run(
        [sys.executable, KILL, "7", "push", str(manifest.folder), url, "--jobs", "1"],
        env={**os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "m/logits/view-001/part-00000.parquet" in bucket.objects()
    assert "m/manifest.json" not in bucket.objects()
    (tmp_path / "secret").write_text("0123456789abcdef0123456789abcdef\n")
    words = {"--only": ["--only", "samples"], "--secret": ["--only", "scores", "--secret", tmp_path / "secret"],
             "--replace": ["--replace", "--only", "samples"]}[flags]  # fmt: skip
    prune("push", manifest.folder, url, *words)
    sent = Manifest.open(url)
    cards = {"README.md", "croissant.json", *(["card/teacher.svg"] if flags == "--secret" else [])}
    assert {*bucket.objects()} == {
        f"m/{path}" for path in (*cards, "manifest.json", *(e.path for e in sent.header.files))
    }
    everything = b"".join(bucket.get(key) for key in bucket.objects())
    assert (b".jpg" in everything) == (flags != "--secret")
    assert (manifest.id.encode() in everything) == (flags != "--secret")


def test_a_secret_push_says_what_it_does_not_hide(prune: Run, manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("0123456789abcdef0123456789abcdef\n")
    told = prune("push", manifest.folder, tmp_path / "all", "--secret", tmp_path / "secret").stderr
    assert "equal logits and scores still match an open copy of this manifest" in told
    told = prune("push", manifest.folder, tmp_path / "few", "--secret", tmp_path / "secret", "--only", "samples").stderr
    assert told == ""
    assert "nobody" not in prune("push", "--help").stdout


def test_the_card_names_the_address_that_was_pushed_to(
    prune: Run, manifest: Manifest, bucket: Bucket, tmp_path: Path
) -> None:
    prune("card", manifest.folder, "--url", "https://example.org/cars")
    prune("push", manifest.folder, tmp_path / "out")
    assert "prune pull https://example.org/cars manifest" in (tmp_path / "out" / "README.md").read_text()
    prune("push", manifest.folder, f"{bucket.url}/m")
    assert f"prune pull {bucket.url}/m manifest".encode() in bucket.get("m/README.md")
    assert f'"url": "{bucket.url}/m"'.encode() in bucket.get("m/croissant.json")
    (tmp_path / "secret").write_text("0123456789abcdef0123456789abcdef\n")
    prune("push", manifest.folder, tmp_path / "hidden", "--secret", tmp_path / "secret")
    assert "prune pull URL manifest" in (tmp_path / "hidden" / "README.md").read_text()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://anna:pa@ss@host.org/m", "https://host.org/m"),
        ("ftp://anna:a@b@c@host/m@1", "ftp://host/m@1"),
        ("hf://datasets/team/cars@v1", "hf://datasets/team/cars@v1"),
        ("s3://bucket/m", "s3://bucket/m"),
        ("no route to sftp://u:p@w@h/x", "no route to sftp://h/x"),
    ],
)
def test_no_part_of_a_password_is_told(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize("url", ["https://u:pa@ss@host.org/m?X-Amz-Signature=f00d", "s3://bucket/m?versionId=f00d"])
def test_an_address_with_a_query_is_refused_and_not_told(
    prune: Run, manifest: Manifest, tmp_path: Path, url: str
) -> None:
    with pytest.raises(UsageError, match="the address has a query") as error:
        store_of(url)
    told = [str(error.value)]
    told += [prune(*words, code=2).stderr for words in (("push", manifest.folder, url), ("show", url),
                                                        ("pull", url, tmp_path / "x"), ("verify", url))]  # fmt: skip
    assert not [text for text in told if "f00d" in text or "ss@" in text]


def test_a_pull_into_a_folder_of_something_else_says_what_to_do(prune: Run, manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "scoring" / "samples").mkdir(parents=True)
    (tmp_path / "scoring" / "samples" / "part-00000.parquet").write_bytes(b"half a scoring")
    told = prune("pull", manifest.folder, tmp_path / "scoring", code=4)
    assert "name a folder that is empty or does not exist" in told.stderr
    assert (tmp_path / "scoring" / "samples" / "part-00000.parquet").read_bytes() == b"half a scoring"
    told = prune("push", manifest.folder, tmp_path / "scoring", code=4)
    assert "or add --replace" in told.stderr
