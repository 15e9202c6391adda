import hashlib
import hmac
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_manifests import content, content_of, make, some_logits
from tests_support import tree_bytes

from manifests.errors import MismatchError, PruneError, UsageError
from manifests.format.parts import PART_ROWS
from manifests.hidden.hide import hide
from manifests.hidden.secret import check_secret, hide_hashes, hide_keys, read_secret, reveal_view_ids
from manifests.integrity import verify
from manifests.manifest import Manifest
from manifests.share.transfer import excerpt

SECRET = b"a secret of 24 characters"
KEYS = [f"train/{name}/{row:03d}.jpg" for name in ("cat", "dog", "eel") for row in range(4)]
LABELS = [0] * 4 + [1] * 4 + [2] * 4


def hashed(message: bytes) -> bytes:
    """The oracle: RFC 2104 by hand."""
    block = SECRET.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    logits = some_logits(1, 2, len(KEYS), 3)
    sets = {"dynamics": {"aum": np.arange(len(KEYS))}}
    return make(
        tmp_path / "open",
        KEYS,
        LABELS,
        logits,
        sets=sets,
        unreadable=[KEYS[5]],
        features=some_logits(2, len(KEYS), 4),
        config={"command": "score", "index": "ab" * 32, "batch_size": 3},
    )


def test_keys_hashes_and_view_ids_are_hmacs_by_hand() -> None:
    hidden = hide_keys(SECRET, pa.array(["a/1.jpg", "ü"]))
    assert hidden.to_pylist() == [hashed(b"a/1.jpg").hex(), hashed("ü".encode()).hex()]
    assert hidden[0].as_py() == hmac.new(SECRET, b"a/1.jpg", "sha256").hexdigest()
    hashes = np.arange(32, dtype=np.uint8).reshape(2, 16)
    assert hide_hashes(SECRET, hashes).tolist() == [list(hashed(bytes(row))[:16]) for row in hashes]
    view_ids = np.array([7, 2**64 - 1], np.uint64)
    pads = [int.from_bytes(hashed(key.encode())[:8], "little") for key in hidden.to_pylist()]
    assert reveal_view_ids(SECRET, hidden, view_ids).tolist() == [7 ^ pads[0], (2**64 - 1) ^ pads[1]]
    assert reveal_view_ids(SECRET, hidden, reveal_view_ids(SECRET, hidden, view_ids)).tolist() == view_ids.tolist()


def test_a_hidden_manifest_says_of_each_sample_what_the_open_one_says(manifest: Manifest, tmp_path: Path) -> None:
    hidden = hide(manifest, SECRET, tmp_path / "hidden")
    assert verify(hidden.folder).ok
    key_of = {hashed(key.encode()).hex(): key for key in KEYS}
    ours, theirs = content_of(manifest), content_of(hidden)
    assert ours.keys() == theirs.keys()
    for table in ours.keys() - {"samples"}:
        found = {key_of[row["sample_id"]]: {**row, "sample_id": key_of[row["sample_id"]]} for row in theirs[table]}
        assert found == {row["sample_id"]: row for row in ours[table]}
    rows = {key_of[row["key"]]: row for row in theirs["samples"]}
    assert list(rows) != KEYS
    for key, label in zip(KEYS, LABELS, strict=True):
        pad = int.from_bytes(hashed(hashed(key.encode()).hex().encode())[:8], "little")
        assert rows[key]["label"] == label
        assert rows[key]["content_hash"] == hashed(content(key))[:16]
        assert rows[key]["view_id"] ^ pad == int.from_bytes(content(key)[:8], "little")
        assert (rows[key]["size_bytes"], rows[key]["width"], rows[key]["height"]) == (0, 0, 0)
        assert rows[key]["problem"] == ("unreadable" if key == KEYS[5] else None)


def test_hidden_samples_are_in_the_order_of_the_hidden_keys_over_all_parts(tmp_path: Path) -> None:
    count = 2 * PART_ROWS + 11
    keys = [f"{row:08d}" for row in range(count)]
    logits = np.stack([np.arange(count) % 2048, np.arange(count) // 2048, np.zeros(count)], 1)[None]
    made = make(tmp_path / "open", keys, [row % 3 for row in range(count)], logits, unreadable=keys[5:9])
    hidden = hide(made, SECRET, tmp_path / "hidden")
    assert verify(hidden.folder).ok
    hidden_keys = hidden.samples().column("key").to_pylist()
    expected = sorted((hmac.new(SECRET, key.encode(), "sha256").hexdigest(), key) for key in keys)
    assert hidden_keys == [digest for digest, _ in expected]
    open_row = np.array([int(key) for _, key in expected])
    for ids, logits_n3 in hidden.logits():
        assert (logits_n3[:, 1].astype(int) * 2048 + logits_n3[:, 0].astype(int)).tolist() == open_row[ids].tolist()
    assert sum(entry.rows for entry in hidden.files("logits/view-000")) == count - 4


def test_nothing_that_names_a_sample_is_in_a_hidden_manifest(manifest: Manifest, tmp_path: Path) -> None:
    from manifests.card.readme import write_full_card

    hidden = hide(manifest, SECRET, tmp_path / "hidden")
    write_full_card(hidden.folder)
    header = (hidden.folder / "manifest.json").read_bytes()
    tables = repr(content_of(hidden)).encode()
    everything = b"".join([header, tables, *tree_bytes(hidden.folder).values()])
    telling = [key.encode() for key in KEYS] + [b".jpg", SECRET, SECRET.hex().encode()]
    telling += [repr(content(key))[2:-1].encode() for key in KEYS] + [content(key) for key in KEYS]
    telling += [word.encode() for word in (manifest.id, manifest.header.data.fingerprint, "ab" * 32, "torn")]
    telling += [entry.sha256.encode() for entry in manifest.header.files]
    assert [word for word in telling if word in everything] == []
    assert hidden.header.config["batch_size"] == 3
    assert hidden.header.config["index"] == hmac.new(SECRET, b"ab" * 32, "sha256").hexdigest()
    assert hidden.header.parents == [hmac.new(SECRET, manifest.id.encode(), "sha256").hexdigest()]


def test_a_hidden_header_is_of_version_1_3_and_an_open_one_is_not(manifest: Manifest, tmp_path: Path) -> None:
    hidden = hide(manifest, SECRET, tmp_path / "hidden")
    content = json.loads((hidden.folder / "manifest.json").read_bytes())
    assert content["schema_version"] == "1.3"
    assert content["hidden"].keys() == {"method", "check"}
    assert "hidden" not in json.loads((manifest.folder / "manifest.json").read_bytes())
    assert manifest.header.schema_version == "1.2"


def test_the_same_secret_hides_the_same_way_and_another_one_otherwise(manifest: Manifest, tmp_path: Path) -> None:
    once, twice = (hide(manifest, SECRET, tmp_path / name) for name in ("once", "twice"))
    assert once.id == twice.id
    assert tree_bytes(once.folder) == tree_bytes(twice.folder)
    other = hide(manifest, SECRET + b"!", tmp_path / "other")
    assert not set(other.samples().column("key").to_pylist()) & set(once.samples().column("key").to_pylist())


def test_nothing_is_left_beside_the_hidden_manifest(manifest: Manifest, tmp_path: Path) -> None:
    hidden = hide(manifest, SECRET, tmp_path / "hidden")
    names = {path.relative_to(hidden.folder).as_posix() for path in hidden.folder.rglob("*") if path.is_file()}
    assert names == {entry.path for entry in hidden.header.files} | {"manifest.json"}
    assert not list(hidden.folder.glob(".*"))


def test_a_wrong_secret_is_told_before_anything_is_compared(manifest: Manifest, tmp_path: Path) -> None:
    hidden = hide(manifest, SECRET, tmp_path / "hidden")
    check_secret(hidden.header, SECRET, "hidden")
    with pytest.raises(MismatchError, match="not the secret of hidden") as error:
        check_secret(hidden.header, SECRET + b"x", "hidden")
    assert SECRET.decode() not in str(error.value)
    with pytest.raises(UsageError, match="is hidden"):
        check_secret(hidden.header, None, "hidden")
    with pytest.raises(UsageError, match="is not hidden"):
        check_secret(manifest.header, SECRET, "open")
    with pytest.raises(UsageError, match="already hidden"):
        hide(hidden, SECRET, tmp_path / "again")


@pytest.mark.parametrize("text", [b"", b"fifteen letters", b"fifteen letters\n", b"\n" * 40, b"x" * (1 << 17)])
def test_a_secret_that_can_be_guessed_or_is_no_secret_is_refused_without_being_shown(
    tmp_path: Path, text: bytes
) -> None:
    (tmp_path / "secret").write_bytes(text)
    with pytest.raises(UsageError) as error:
        read_secret(tmp_path / "secret")
    assert "fifteen" not in str(error.value)


def test_a_secret_is_read_without_its_line_end(tmp_path: Path) -> None:
    for text in (SECRET, SECRET + b"\n", SECRET + b"\r\n"):
        (tmp_path / "secret").write_bytes(text)
        assert read_secret(tmp_path / "secret") == SECRET
    with pytest.raises(PruneError, match="cannot read the secret"):
        read_secret(tmp_path / "nowhere")


def test_an_excerpt_is_a_manifest_of_its_own_that_says_what_it_lacks(manifest: Manifest, tmp_path: Path) -> None:
    part = excerpt(manifest, ["scores"], tmp_path / "part")
    assert verify(part.folder).ok
    assert part.header.parents == [manifest.id]
    assert part.header.left_out == ["features", "logits"]
    assert part.header.schema_version == "1.3"
    assert part.scores().equals(manifest.scores())
    assert part.samples().equals(manifest.samples())
    with pytest.raises(PruneError, match="its logits were left out when it was pushed") as error:
        list(part.logits())
    assert manifest.id[:12] in str(error.value.hint)
    smaller = excerpt(part, ["samples"], tmp_path / "smaller")
    assert (smaller.header.left_out, smaller.header.scores) == (["features", "logits", "scores"], [])
    assert verify(smaller.folder).ok
    with pytest.raises(UsageError, match=r"--only targets: .* has only features, logits, samples, scores"):
        excerpt(manifest, ["targets"], tmp_path / "none")
