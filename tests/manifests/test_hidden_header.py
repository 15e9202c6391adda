"""That nothing of the images is in what `prune push --secret` sends: no header, table, card, or metadata of a file."""

import base64
import hmac
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_manifests import content, content_of, make, some_logits

from manifests.base.layout import HEADER_NAME
from manifests.card.readme import write_full_card
from manifests.format.header import Header, Views
from manifests.hidden.hide import OPEN, SEALED, hide, hide_header
from manifests.manifest import Manifest, commit, file_entry
from manifests.share.transfer import push
from manifests.stores.destinations import destination_at

SECRET = b"a secret of 24 characters"
KEYS = [f"train/{name}/{row:03d}.jpg" for name in ("cat", "dog", "eel") for row in range(4)]
LABELS = [0] * 4 + [1] * 4 + [2] * 4
KEPT = "5a1b2c3d4e5f6071"
IDS = {name: f"{number:x}" * 64 for number, name in enumerate(("parent", "whole", "listing", "run", "grandparent"), 1)}
STRANGE = {"first_key": KEYS[0], "more_keys": [KEYS[1]], "by_key": {KEYS[2]: 1}}


def sealed(text: str) -> str:
    return hmac.new(SECRET, text.encode(), "sha256").hexdigest()


def with_everything(folder: Path, **made: object) -> Manifest:
    """A manifest that says more of its samples than any does, in fields that are known and in others."""
    config = {
        "command": "split", "parent": IDS["parent"], "whole": IDS["whole"], "listing": IDS["listing"], "rest": False,
        "prefixes": [KEYS[3], "train/dog/00"], "key": "picture.png", "views": {"recipe": "eval"}, "seed": 3,
        "copy": {"check": "sizes", "left_out": {"missing": 2}, "kept": KEPT, **STRANGE},
        "dynamics": [{"run": IDS["run"], "epochs": 9, "seed": 1, **STRANGE}], **STRANGE,
    }  # fmt: skip
    run = {"command": "score", "seconds": 2.5, "host": KEYS[4], **STRANGE,
           "parent_run": {"command": "index", "seconds": 1.5, "log": KEYS[5], "index": IDS["grandparent"]}}  # fmt: skip
    manifest = make(folder, KEYS, LABELS, some_logits(1, 2, len(KEYS), 3), config=config, run=run, **made)
    _add_a_column(manifest, f"{'scores/teacher' if manifest.kind == 'scores' else 'selection'}/part-00000.parquet")
    fields = json.loads((folder / HEADER_NAME).read_bytes())
    for block in (fields, fields["data"], fields["teacher"], fields["views"], fields["tool"], *fields["files"]):
        block.update(STRANGE)
    fields["views"] |= {"pad_px": 4, "flip": False}
    fields["files"] = [
        {**entry, **file_entry(folder, entry["path"], entry["rows"]).model_dump()} for entry in fields["files"]
    ]
    return commit(folder, Header.model_validate(fields))


def _add_a_column(manifest: Manifest, path: str) -> None:
    """As a later version might."""
    table = pq.read_table(manifest.folder / path)
    table = table.append_column("file", pa.array(KEYS)).replace_schema_metadata({"made of": KEYS[7]})
    pq.write_table(table, manifest.folder / path)


def everything_in(folder: Path) -> bytes:
    """All bytes below a folder, and of Parquet the values and metadata too, which are packed."""
    found = [f"{path.relative_to(folder)}".encode() for path in folder.rglob("*")]
    for path in (path for path in folder.rglob("*") if path.is_file()):
        found.append(path.read_bytes())
        if path.suffix == ".parquet":
            metadata = pq.read_metadata(path).metadata
            found += [*metadata.keys(), *metadata.values(), base64.b64decode(metadata[b"ARROW:schema"])]
            found.append(repr(pq.read_table(path).to_pylist()).encode())
    return b"\n".join(found)


@pytest.mark.parametrize("kind", ["scores", "selection"])
def test_no_key_prefix_name_or_digest_is_in_what_is_pushed_with_a_secret(tmp_path: Path, kind: str) -> None:
    source = with_everything(tmp_path / "open", **({} if kind == "scores" else {"kept": KEYS[:7]}))
    hidden = hide(source, SECRET, tmp_path / "hidden")
    write_full_card(hidden.folder)
    push(hidden, destination_at(str(tmp_path / "pushed")))
    found = everything_in(tmp_path / "pushed")
    assert b"sample_id" in found
    assert hide(source, SECRET, tmp_path / "again").id == hidden.id
    telling = [*KEYS, *(key.rpartition("/")[2] for key in KEYS), "train/", ".jpg", "picture.png", *STRANGE]
    telling += [KEPT, *IDS.values(), source.id, source.id[:12], source.header.data.fingerprint[:16]]
    telling += [entry.sha256 for entry in source.header.files]
    told = [text for text in telling if text.encode() in found]
    told += [key for key in KEYS if content(key) in found or content(key).hex().encode() in found]
    told += [key for key in KEYS if repr(content(key)).encode() in found]
    assert told == []
    opened = everything_in(source.folder)
    assert [text for text in telling if text.encode() not in opened] == [source.id, source.id[:12]]


def test_what_names_no_sample_stays_and_equal_ones_can_be_told(tmp_path: Path) -> None:
    hidden = hide(with_everything(tmp_path / "open"), SECRET, tmp_path / "hidden").header
    assert hidden.config == {
        "command": "split",
        "parent": sealed(IDS["parent"]),
        "whole": sealed(IDS["whole"]),
        "listing": sealed(IDS["listing"]),
        "rest": False,
        "prefixes": sorted([sealed(KEYS[3]), sealed("train/dog/00")]),
        "views": {"recipe": "eval"},
        "seed": 3,
        "copy": {"check": "sizes", "left_out": {"missing": 2}},
        "dynamics": [{"run": sealed(IDS["run"]), "epochs": 9, "seed": 1}],
    }
    assert hidden.run == {
        "command": "score",
        "seconds": 2.5,
        "parent_run": {"command": "index", "seconds": 1.5, "index": sealed(IDS["grandparent"])},
    }
    assert hidden.views is not None
    assert hidden.views.model_extra == {"pad_px": 4, "flip": False}
    assert (hidden.model_extra, hidden.data.model_extra) == ({}, {})


def test_a_column_of_a_later_version_is_left_out_and_the_others_stay(tmp_path: Path) -> None:
    source = with_everything(tmp_path / "open")
    hidden = hide(source, SECRET, tmp_path / "hidden")
    ours, theirs = content_of(source), content_of(hidden)
    assert {*ours["scores/teacher"][0]} - {*theirs["scores/teacher"][0]} == {"file"}
    key = sealed(KEYS[5])
    row = next(row for row in theirs["scores/teacher"] if row["sample_id"] == key)
    expected = next(row for row in ours["scores/teacher"] if row["sample_id"] == KEYS[5])
    assert np.isclose(row["confidence"], expected["confidence"], rtol=0, atol=0)


def test_no_field_is_both_kept_and_hidden() -> None:
    assert not OPEN & SEALED


def test_the_header_of_every_recipe_stays_drawable(tmp_path: Path) -> None:
    made = make(tmp_path / "m", KEYS[:3], [0, 0, 0], some_logits(0, 1, 3, 3))
    views = Views(recipe="resized_crop_flip", version=1, seed=5, count=8, image_px=32, scale_min=0.25, flip=True)
    hidden = hide_header(SECRET, made.header.model_copy(update={"views": views}))
    assert hidden.views == views
