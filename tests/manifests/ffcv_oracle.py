"""Real FFCV in a process of its own: reads requests as JSON lines on stdin, answers as JSON lines on stdout.

A process apart because FFCV imports torch, changes its threads, and hangs on what it does not like.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ffcv import types
from ffcv.fields import BytesField, FloatField, IntField, JSONField, NDArrayField, RGBImageField, TorchTensorField
from ffcv.fields.decoders import FloatDecoder, IntDecoder, NDArrayDecoder, SimpleRGBImageDecoder
from ffcv.libffcv import imdecode
from ffcv.loader import Loader, OrderOption
from ffcv.memory_managers import OSCacheManager, ProcessCacheManager
from ffcv.reader import Reader
from ffcv.writer import DatasetWriter


def describe(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Size, and base dtype, shape and offset of every field."""
    parts: Any = dtype.fields
    fields = {name: [str(entry[0].base), list(entry[0].shape), entry[1]] for name, entry in parts.items()}
    return {"size": dtype.itemsize, "fields": fields}


def tell_format() -> dict[str, Any]:
    """FFCV's own dtypes, type numbers and field descriptors."""
    image, integer, number, tensor = RGBImageField(), IntField(), FloatField(), TorchTensorField(torch.float32, (2,))
    target, vector = NDArrayField(np.dtype("<i2"), (1, 10)), NDArrayField(np.dtype("<f4"), (512,))
    fields = {
        "image": image,
        "jpeg": RGBImageField("jpg", max_resolution=256),
        "int": integer,
        "float": number,
        "one view": target,
        "three views": NDArrayField(np.dtype("<i2"), (3, 1000)),
        "vector": vector,
    }
    rows = [
        [integer, image],
        [image, integer, number],
        [image, integer, integer, integer, number, number, target],
        [image, BytesField(), JSONField(), tensor],
        [image],
        [image, image, vector],
    ]
    return {
        "version": types.CURRENT_VERSION,
        "header": describe(types.HeaderType),
        "field": describe(types.FieldDescType),
        "allocation": describe(types.ALLOC_TABLE_TYPE),
        "image": describe(image.metadata_type),
        "bytes": describe(BytesField().metadata_type),
        "scalars": [field.metadata_type.str for field in (integer, number, vector, tensor)],
        "ids": {number: kind.__name__ for number, kind in types.TYPE_ID_HANDLER.items() if kind is not None},
        "arguments": {name: field.to_binary()[0].tobytes().hex() for name, field in fields.items()},
        "rows": [describe(types.get_metadata_type(row)) for row in rows],
    }


def sample(row: int) -> dict[str, Any]:
    """One sample of the betons that FFCV writes here; tests compute it again."""
    generator = np.random.default_rng(row)
    shape = (5 + row, 9 - row, 3)
    return {
        "pixels": generator.integers(0, 256, shape, dtype=np.uint8),
        "smooth": np.repeat(np.repeat(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8), 16, 0), 16, 1),
        "label": row % 3,
        "number": row / 7,
        "view_id": int(generator.integers(-(2**63), 2**63 - 1)),
        "vector": generator.normal(size=4).astype(np.float32),
        "target": generator.integers(-(2**15), 2**15, (2, 3)).astype(np.int16),
    }


class Columns:
    """An indexed data set of some columns of `sample`, as DatasetWriter wants it."""

    def __init__(self, *columns: Any) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return 5

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        content = sample(row)
        return tuple(content[column] if isinstance(column, str) else column for column in self.columns)


def write_betons(folder: Path) -> None:
    """Betons of FFCV's own writer: the usual two fields, other names and types, and the fields of this project."""
    stock = {"image": RGBImageField(), "label": IntField()}
    DatasetWriter(str(folder / "stock.beton"), stock, num_workers=1).from_indexed_dataset(Columns("pixels", "label"))
    named = {
        "class": IntField(),
        "meta": JSONField(),
        "picture": RGBImageField("jpg", jpeg_quality=95),
        "blob": BytesField(),
        "vector": NDArrayField(np.dtype("<f4"), (4,)),
        "tensor": TorchTensorField(torch.float32, (2,)),
        "score": FloatField(),
    }
    columns = Columns("label", {"a": 1}, "smooth", np.arange(9, dtype=np.uint8), "vector", torch.ones(2), "number")
    DatasetWriter(str(folder / "named.beton"), named, num_workers=1).from_indexed_dataset(columns)
    ours = {
        "image": RGBImageField(),
        "label": IntField(),
        "view_id": IntField(),
        "target": NDArrayField(np.dtype("<i2"), (2, 3)),
    }
    columns = Columns("pixels", "label", "view_id", "target")
    DatasetWriter(str(folder / "ours.beton"), ours, page_size=1 << 21, num_workers=1).from_indexed_dataset(columns)


def read_regions(path: str, os_cache: bool, batches: list[list[int]], out: str) -> dict[str, Any]:
    """Regions of images and targets as FFCV's memory managers give them to decoders; JPEGs decoded as well."""
    reader = Reader(path)
    manager = (OSCacheManager if os_cache else ProcessCacheManager)(reader)
    read = manager.compile_reader()
    names = {name: f"f{position}" for position, name in enumerate(reader.handlers)}
    context = manager.schedule_epoch([np.array(batch, np.uint64) for batch in batches])
    context.__enter__()
    found: dict[str, Any] = {}
    for number, batch in enumerate(batches):
        context.start_batch(number)
        for row in batch:
            image = reader.metadata[names["image"]][row]
            region = read(image["data_ptr"], context.state)
            found[f"image{row}"] = np.array(region)
            if image["mode"] == 0:
                height, width = int(image["height"]), int(image["width"])
                pixels = np.zeros((height, width, 3), np.uint8)
                code = imdecode(np.array(region), pixels, height, width, height, width, 0, 0, 1, 1, False, False)
                found[f"pixels{row}"], found[f"code{row}"] = pixels, np.array(code)
            if "target" in names:
                found[f"target{row}"] = np.array(read(reader.metadata[names["target"]][row], context.state))
    context.__exit__(None, None, None)
    np.savez(out, **found)
    return {"page_size": int(reader.page_size)}


def load(path: str, os_cache: bool, order: str, batch_size: int, image: bool, out: str) -> dict[str, Any]:
    """One epoch of a Loader with stock decoders; every field as one array."""
    fields = Reader(path).handlers
    decoders = {IntField: IntDecoder, FloatField: FloatDecoder, NDArrayField: NDArrayDecoder}
    pipelines: dict[str, Any] = {name: [decoders[type(field)]()] for name, field in fields.items() if name != "image"}
    pipelines["image"] = [SimpleRGBImageDecoder()] if image else None
    loader = Loader(
        path,
        batch_size,
        num_workers=1,
        os_cache=os_cache,
        order=OrderOption[order],
        seed=3,
        drop_last=False,
        pipelines=pipelines,
    )
    names = [name for name in fields if image or name != "image"]
    batches = [[np.array(values) for values in batch] for batch in loader]
    found: dict[str, Any] = {}
    for name, parts in zip(names, zip(*batches, strict=True), strict=True):
        found[name] = np.concatenate(parts)
    np.savez(out, **found)
    return {"batches": len(batches)}


def main() -> None:
    """Write the betons (before any loader runs: FFCV's workers are forks), then answer."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        write_betons(Path(sys.argv[1]))
        for line in sys.stdin:
            request = json.loads(line)
            does: Any = {"format": tell_format, "regions": read_regions, "load": load}
            answers.write(json.dumps(does[request.pop("do")](**request)) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
