"""The images of one scoring run: from an index's beton, or read from the source and indexed in passing."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from manifests.beton import Beton
from manifests.errors import InputError, MismatchError, UsageError
from manifests.header import Preprocessing
from manifests.images import ImageProblem, RawImage
from manifests.manifest import Manifest
from manifests.sources.base import Source
from prune_toolkit.indexing import DataSpec, SampleFacts, examine, listing_digest
from prune_toolkit.reading import map_images
from trainer.loading import ViewLoader, evaluation_view, open_loader
from trainer.teacher import as_tensor

Batches = Iterator[tuple[NDArray[np.int64], torch.Tensor]]


@dataclass(kw_only=True)
class ImagesAtHand:
    """Where pixels come from; `index` is None when the data is indexed in the same read."""

    class_names: list[str]
    label_N: NDArray[np.int64]
    index: Manifest | None = None
    spec: DataSpec | None = None
    beton_path: str | None = None
    facts: dict[int, SampleFacts] = field(default_factory=dict)
    """What reading a source found out about each image, by sample_id."""

    @classmethod
    def of_index(cls, index: Manifest) -> "ImagesAtHand":
        """The images of an index (or of any manifest): its beton, or the source named in its local.json."""
        samples = index.samples(["label", "problem"])
        beton = index.beton_path or index.local.get("beton")
        spec = DataSpec.from_local(index.local)
        if beton is None and spec is None:
            raise InputError(
                f"{index.path} has no beton and does not know where its images are",
                hint="name the images instead of the manifest with --data",
            )
        return cls(
            class_names=index.class_names,
            label_N=samples.column("label").to_numpy().astype(np.int64),
            index=index,
            spec=spec,
            beton_path=None if beton is None else str(beton),
        )

    @classmethod
    def of_source(cls, spec: DataSpec) -> "ImagesAtHand":
        """The images of a source that has no index."""
        source = spec.open()
        images = cls(class_names=list(source.class_names), label_N=source.labels_N.astype(np.int64), spec=spec)
        images.source = source
        return images

    @cached_property
    def source(self) -> Source:
        """The source, opened when first needed."""
        assert self.spec is not None
        return self.spec.open()

    @cached_property
    def samples(self) -> pa.Table | None:
        """The index's samples; None when there is no index yet."""
        return None if self.index is None else self.index.samples()

    @property
    def count(self) -> int:
        """All samples, unreadable ones included."""
        return len(self.label_N)

    @property
    def identity(self) -> str:
        """What ties unfinished parts to these images."""
        return listing_digest(self.source) if self.index is None else self.index.id

    def readable(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some samples that can be read, as far as is known."""
        if self.samples is None:
            return ids
        problem = self.samples.column("problem").is_valid().to_numpy()
        readable: NDArray[np.int64] = ids[~problem[ids]]
        return readable

    def open(self, preprocessing: Preprocessing, *, device: torch.device, workers: int, loader: str) -> "ImageReader":
        """A reader of evaluation views; `loader` is auto, ffcv or torch."""
        if self.beton_path is not None:
            beton = Beton.open(self.beton_path)
            view_loader = open_loader(beton, kind=loader, preprocessing=preprocessing, workers=workers, device=device)
            return BetonReader(beton, view_loader)
        if loader == "ffcv":
            raise UsageError("--loader ffcv needs a beton", hint="make one: prune index --beton")
        return SourceReader(self, preprocessing, device, workers)


class ImageReader:
    """Evaluation views of samples, batch by batch."""

    name: str

    def batches(self, ids: NDArray[np.int64], batch_size: int) -> Batches:
        """Yield (sample_ids, uint8 images (n, 3, S, S)), unreadable ones left out; only the last batch is not full."""
        raise NotImplementedError

    def close(self) -> None:
        """Give threads and files back."""


class BetonReader(ImageReader):
    """Through the training loaders, from a beton."""

    def __init__(self, beton: Beton, loader: ViewLoader) -> None:
        self.loader = loader
        self.name = loader.kind
        ids_N = beton.columns["sample_id"]
        self._order_N = np.argsort(ids_N, kind="stable")
        self._sorted_N = ids_N[self._order_N]

    def batches(self, ids: NDArray[np.int64], batch_size: int) -> Batches:
        """Rows are found by sample_id; every one must be there."""
        position = np.minimum(np.searchsorted(self._sorted_N, ids), len(self._sorted_N) - 1)
        if (self._sorted_N[position] != ids).any():
            raise MismatchError("the beton does not hold every readable sample of the index", hint="write it again")
        rows = self._order_N[position]
        done = 0
        for batch in self.loader.batches(rows, batch_size=batch_size):
            size = len(batch.images)
            yield ids[done : done + size], batch.images
            done += size

    def close(self) -> None:
        """Close the loader."""
        self.loader.close()


class SourceReader(ImageReader):
    """From the source through a thread pool; finds out the facts of every image on the way."""

    name = "source"

    def __init__(self, images: ImagesAtHand, preprocessing: Preprocessing, device: torch.device, workers: int) -> None:
        self.images, self.preprocessing, self.device, self.workers = images, preprocessing, device, workers

    def batches(self, ids: NDArray[np.int64], batch_size: int) -> Batches:
        """Read, hash, decode and resample each image once."""
        source = self.images.source
        samples = self.images.samples
        rows = ids.tolist()
        if samples is not None:
            row_of_key = {key: row for row, key in enumerate(source.keys)}
            keys = samples.column("key").take(pa.array(ids)).to_pylist()
            missing = [key for key in keys if key not in row_of_key]
            if missing:
                raise MismatchError(f"{len(missing):,} indexed samples are gone; the first: {missing[0]}", hint=_AGAIN)
            rows = [row_of_key[key] for key in keys]

        def work(_row: int, image: RawImage | ImageProblem) -> tuple[SampleFacts, NDArray[np.uint8] | None]:
            facts, pixels = examine(image)
            return facts, None if pixels is None else evaluation_view(pixels, self.preprocessing)

        held_ids: list[int] = []
        held: list[NDArray[np.uint8]] = []
        for sample_id, (facts, view) in zip(ids.tolist(), map_images(source, rows, work, self.workers), strict=True):
            if samples is not None and facts.content_hash != samples.column("content_hash")[sample_id].as_py():
                key = samples.column("key")[sample_id].as_py()
                raise MismatchError(f"{key} was altered since it was indexed", hint=_AGAIN)
            self.images.facts[sample_id] = facts
            if view is None:
                continue
            held_ids.append(sample_id)
            held.append(view)
            if len(held) == batch_size:
                yield np.array(held_ids, np.int64), as_tensor(np.stack(held), self.device)
                held_ids, held = [], []
        if held:
            yield np.array(held_ids, np.int64), as_tensor(np.stack(held), self.device)


_AGAIN = "index the data again: prune index DATA --out NEW"
