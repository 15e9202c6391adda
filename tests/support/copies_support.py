"""Copies of images and manifests of them, made without the toolkit's own commands."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from manifests.format.header import DataSet, Header, Tool
from manifests.format.parts import SAMPLES_SCHEMA, part_count, part_path, part_rows, write_part
from manifests.images.thumbnails import thumbnail
from manifests.manifest import Manifest, commit, part_entries
from manifests.tables.thumbnails_table import TABLE, thumbnails_block, thumbnails_table


def picture(seed: int, width: int = 40, height: int = 30) -> np.ndarray:
    """A smooth picture (H, W, 3): 5x4 random colours, stretched."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg", quality=quality)
    return stream.getvalue()


def write_tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    for key, data in files.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return folder


def photos(classes: Sequence[str] = ("cat", "dog", "eel"), count: int = 4) -> dict[str, bytes]:
    """CLASS/NUMBER.jpg of different small pictures; file names come again in every class."""
    return {
        f"{name}/{number:02d}.jpg": jpeg(picture(100 * label + number))
        for label, name in enumerate(classes)
        for number in range(count)
    }


def manifest_of(
    folder: Path,
    files: Mapping[str, bytes],
    classes: Sequence[str],
    *,
    prefix: str = "",
    thumbnails: bool = False,
    problems: Sequence[str] = (),
) -> Manifest:
    """An index of CLASS/... files as they are named, below `prefix`; labels count along `classes`."""
    keys = sorted(files, key=str.encode)
    hashes = [hashlib.sha256(files[key]).digest()[:16] for key in keys]
    columns = [
        pa.array(range(len(keys)), pa.int64()),
        pa.array([prefix + key for key in keys], pa.string()),
        pa.array([list(classes).index(key.split("/")[0]) for key in keys], pa.int32()),
        pa.array([len(files[key]) for key in keys], pa.int64()),
        pa.array(hashes, pa.binary(16)),
        pa.array([int.from_bytes(digest[:8], "little") for digest in hashes], pa.uint64()),
        pa.array([40] * len(keys), pa.int32()),
        pa.array([30] * len(keys), pa.int32()),
        pa.array(["broken" if key in problems else None for key in keys], pa.string()),
    ]
    samples = pa.Table.from_arrays(columns, schema=SAMPLES_SCHEMA)
    tables = {"samples": samples}
    if thumbnails:
        small = [thumbnail(np.asarray(Image.open(io.BytesIO(files[key])).convert("RGB"))) for key in keys]
        tables[TABLE] = thumbnails_table(np.arange(len(keys)), np.stack(small))
    for name, table in tables.items():
        for part in range(part_count(len(keys))):
            rows = part_rows(part, len(keys))
            write_part(folder / part_path(name, part), table.slice(rows.start, len(rows)), "0" * 64)
    header = Header(
        kind="index",
        data=DataSet(
            name="photos",
            source="folder",
            split=prefix.rstrip("/") or None,
            count=len(keys),
            readable=len(keys) - len(problems),
            class_names=list(classes),
            fingerprint="0" * 64,
        ),
        thumbnails=thumbnails_block() if thumbnails else None,
        tool=Tool(name="test", version="0"),
        files=part_entries(folder, list(tables), len(keys)),
    )
    return commit(folder, header)


def altered_copy(source: Path, target: Path) -> dict[str, list[str]]:
    """The clothing photographs with 5 of them altered, 3 missing, 2 added, and class hat called cap.

    Returns the keys of each, as the source has them; extra ones as the copy has them.
    """
    keys = sorted(path.relative_to(source).as_posix() for path in (source / "train").rglob("*.jpg"))
    done = {"altered": keys[::160][:5], "missing": keys[5::300][:3], "extra": []}
    for key in keys:
        if key in done["missing"]:
            continue
        path = target / key.replace("train/hat/", "train/cap/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if key in done["altered"]:
            mirrored = Image.open(source / key).convert("RGB").transpose(Image.Transpose.FLIP_TOP_BOTTOM)
            mirrored.save(path, quality=90)
        else:
            path.write_bytes((source / key).read_bytes())
    for number in range(2):
        key = f"train/dress/new-{number}.jpg"
        (target / key).write_bytes(jpeg(picture(number)))
        done["extra"].append(key)
    (target / "classes.csv").write_text("ours,theirs\nhat,cap\n")
    return done


def encoded_again(source: Path, target: Path) -> None:
    """The clothing photographs at half the size and JPEG quality 75."""
    for path in sorted((source / "train").rglob("*.jpg")):
        with Image.open(path) as image:
            size = (image.width // 2, image.height // 2)
            image.draft("RGB", size)
            small = image.convert("RGB").resize(size, Image.Resampling.BOX)
        out = target / path.relative_to(source)
        out.parent.mkdir(parents=True, exist_ok=True)
        small.save(out, quality=75)
