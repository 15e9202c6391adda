"""Scored manifests of random samples, as large as one likes: one part is in memory at a time."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.format.header import DataSet, Features, Header, Preprocessing, TeacherCard, Tool, Views
from manifests.format.parts import SAMPLES_SCHEMA, part_count, part_path, part_rows, vectors_table, write_part
from manifests.manifest import Manifest, commit, part_entries
from prune_toolkit.scoring.score import SCORES

WHOLE_NUMBERS = {"correct": 2, "forgetting": 30}
"""Scores with many ties, and how many values they have."""
SIZE_BYTES = 110_000


def write_manifest(
    folder: Path, samples: int, classes: int, *, width: int = 0, logits: bool = False, seed: int = 0
) -> None:
    """A scored manifest with all registered scores; features and logits of view 0 where asked for.

    Samples are as an ImageFolder has them, sizes of classes differ by up to a half. Another seed has other values of
    the same samples.
    """
    share_C = np.random.default_rng(0).uniform(2, 3, classes)
    label_N = np.sort(np.random.default_rng(1).choice(classes, samples, p=share_C / share_C.sum()))
    of_samples, generator = np.random.default_rng(2), np.random.default_rng(3 + seed)
    sets = {entry.set: [other for other in SCORES.values() if other.set == entry.set] for entry in SCORES.values()}
    for part in range(part_count(samples)):
        rows = np.array(part_rows(part, samples))
        write_part(folder / part_path("samples", part), _samples(rows, label_N[rows], of_samples), "benchmark")
        for name, entries in sets.items():
            columns = {entry.name: _score(entry.name, len(rows), generator) for entry in entries}
            path = folder / part_path(f"scores/{name}", part)
            write_part(path, pa.table({"sample_id": rows, **columns}), "benchmark")
        for table, column, size in (("features", "features", width), ("logits", "logits", classes if logits else 0)):
            if size:
                values = generator.standard_normal((len(rows), size), np.float32).astype(np.float16)
                path = folder / part_path(f"{table}/view-000", part)
                write_part(path, vectors_table(rows, column, values), "benchmark")
    vectors = [*(["features/view-000"] if width else []), *(["logits/view-000"] if logits else [])]
    shown = Preprocessing(image_px=224, resize_px=256, mean=[0.5] * 3, std=[0.25] * 3)
    header = Header(
        kind="scores",
        data=DataSet(
            name="synthetic",
            source="folder",
            count=samples,
            readable=samples,
            class_names=[class_name(label) for label in range(classes)],
            fingerprint="0" * 64,
        ),
        teacher=TeacherCard(
            spec="none", weights_sha256=f"{seed:064x}", parameters=0, preprocessing=shown, train_top1=0, train_ece=0
        ),
        views=Views(recipe="eval", version=1, seed=0, count=1, image_px=224),
        features=Features(layer="none", width=width) if width else None,
        scores=[entry.spec() for entry in SCORES.values()],
        tool=Tool(name="benchmark", version="0"),
        files=part_entries(folder, ["samples", *(f"scores/{name}" for name in sets), *vectors], samples),
    )
    commit(folder, header)


def class_name(label: int) -> str:
    """The folder of a class."""
    return f"n{label:08d}"


def write_csv(path: Path, manifest: Manifest) -> None:
    """A row a sample: its key and a random score."""
    keys = manifest.samples(["key"]).column("key").to_pylist()
    values = np.random.default_rng(9).normal(size=len(keys))
    with path.open("w") as stream:
        stream.write("file,difficulty\n")
        stream.writelines(f"{key},{value:.6f}\n" for key, value in zip(keys, values, strict=True))


def _samples(rows: NDArray[np.int64], label_n: NDArray[np.int64], generator: np.random.Generator) -> pa.Table:
    hash_n16 = generator.integers(0, 256, (len(rows), 16), np.uint8)
    columns = {
        "sample_id": rows,
        "key": [
            f"train/{class_name(label)}/{class_name(label)}_{row:08d}.JPEG"
            for row, label in zip(rows, label_n, strict=True)
        ],
        "label": label_n,
        "size_bytes": np.full(len(rows), SIZE_BYTES),
        "content_hash": [row.tobytes() for row in hash_n16],
        "view_id": np.ascontiguousarray(hash_n16[:, :8]).view(np.uint64)[:, 0],
        "width": np.full(len(rows), 500),
        "height": np.full(len(rows), 375),
        "problem": pa.nulls(len(rows), pa.string()),
    }
    return pa.table(columns).cast(SAMPLES_SCHEMA)


def _score(name: str, count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    if name in WHOLE_NUMBERS:
        return generator.integers(0, WHOLE_NUMBERS[name], count).astype(np.float32)
    return generator.normal(4, 2, count).astype(np.float32)
