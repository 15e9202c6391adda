"""The images of one scoring run: which ones, and read from an index's beton, or from the source and indexed as well."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from manifests.base.layout import HEADER_NAME
from manifests.base.progress import note
from manifests.betons.reader import Beton
from manifests.errors import MismatchError, UsageError
from manifests.format.header import Preprocessing
from manifests.hidden.secret import refuse_hidden
from manifests.images.decode import ImageProblem, RawImage, beton_form
from manifests.images.identity import HASH_BYTES, view_ids
from manifests.manifest import Manifest
from manifests.sources.base import BLOCK_ROWS, Source, map_images
from manifests.sources.names import read_class_names
from manifests.sources.read_as import listed_names
from prune_toolkit.images.beton_check import CheckRows, check_of
from prune_toolkit.images.data_spec import DataSpec, check_named, listing_digest
from prune_toolkit.images.examine import SampleFacts, examine
from prune_toolkit.images.sample_images import beton_rows, rows_by_key
from prune_toolkit.images.where import not_known, place_of
from trainer.data.batches import ViewLoader, image_views
from trainer.data.loaders import open_loader
from trainer.data.views import EVALUATION, ViewRecipe
from trainer.teachers.teacher import as_tensor

Batches = Generator[tuple[NDArray[np.int64], torch.Tensor], None, None]
Images = Generator[torch.Tensor, None, None]


@dataclass(kw_only=True)
class ImagesAtHand:
    """The images available to a run; `index` is None if the data is indexed in the same pass."""

    class_names: list[str]
    label_N: NDArray[np.int64]
    index: Manifest | None = None
    spec: DataSpec | None = None
    beton_path: str | None = None
    max_side: int | None = None
    """Longer side in px to which images of the source are shrunk, if the beton they replace stores them shrunk."""
    scored_max_side: int | None = None
    """Longer side in px to which they were shrunk for scoring."""
    unlabelled: bool = False
    """True if the images have no labels: label_N has no meaning, and class_names are those of take_classes."""
    classes: Path | None = None
    """File of the names of a teacher's classes, for unlabelled images."""
    facts: dict[int, SampleFacts] = field(default_factory=dict)
    """Facts about each image found while reading a source without an index, by sample_id."""

    @classmethod
    def of_index(cls, index: Manifest, data: DataSpec | None = None) -> "ImagesAtHand":
        """Return the images of an index (or any manifest): `data`, its beton, or the source named in its local.json."""
        refuse_hidden(index.header, index.where)
        place = place_of(index, data)
        if not place.is_known:
            raise not_known(index, "name the images instead of the manifest with --data")
        beton = place.beton
        config, views = index.header.config, index.header.views
        scored_max_side = None if views is None else views.max_side
        max_side = config.get("max_side") if config.get("beton") else None
        if max_side is None and (beton is None or Beton.open(beton).scored_size_N2 is None):
            max_side = scored_max_side
        return cls(
            class_names=index.class_names,
            label_N=index.samples(["label"]).column("label").to_numpy().astype(np.int64),
            index=index,
            spec=place.spec,
            beton_path=None if beton is None else str(beton),
            max_side=max_side,
            scored_max_side=scored_max_side,
            unlabelled=index.header.data.is_unlabelled,
            classes=None if place.spec is None else place.spec.classes,
        )

    @classmethod
    def of_source(cls, spec: DataSpec) -> "ImagesAtHand":
        """Return the images of a source without an index."""
        source = spec.open()
        images = cls(
            class_names=list(source.class_names),
            label_N=source.labels_N.astype(np.int64),
            spec=spec,
            unlabelled=source.is_unlabelled,
            classes=spec.classes,
        )
        images.source = source
        return images

    @cached_property
    def source(self) -> Source:
        """The source, opened on first use."""
        assert self.spec is not None
        return self.spec.open()

    @cached_property
    def samples(self) -> pa.Table | None:
        """The samples of the index; None if there is no index yet."""
        return None if self.index is None else self.index.samples()

    @property
    def asked_classes(self) -> list[str] | None:
        """Names of the classes that a teacher must have; None: its own, because the images have no labels."""
        if not self.unlabelled:
            return self.class_names
        return None if self.classes is None else list(read_class_names(self.classes))

    def take_classes(self, class_names: Sequence[str]) -> None:
        """Name the classes of unlabelled images as the teacher does, and tell where their labels come from."""
        if self.unlabelled:
            self.class_names = list(class_names)
            names = listed_names(class_names)
            note(f"labels: what the teacher answers for view 0, one of {len(class_names):,} classes: {names}")

    @property
    def count(self) -> int:
        """Number of samples, including unreadable ones."""
        return len(self.label_N)

    @cached_property
    def drawn_max_side(self) -> int | None:
        """Longer side of the images whose sizes determine the views; None if they are not shrunk."""
        if self.samples is None:
            return None
        whole_N2 = np.stack([self.samples.column(side).to_numpy() for side in ("width", "height")], axis=1)
        if self.beton_path is None:
            return None if self.max_side is None or whole_N2.max(initial=0) <= self.max_side else self.max_side
        beton = Beton.open(self.beton_path)
        if beton.scored_size_N2 is not None:
            return self.scored_max_side
        held_n2, id_n = beton.drawn_sizes(np.arange(beton.count)), beton.columns.get("sample_id", np.array([-1]))
        if id_n.min() < 0 or id_n.max() >= len(whole_N2):
            # Not a beton of this manifest: reading it raises the error.
            return self.max_side
        is_shrunk_n = (held_n2 != whole_N2[id_n]).any(axis=1)
        return int(held_n2[is_shrunk_n].max()) if is_shrunk_n.any() else None

    @property
    def identity(self) -> str:
        """The digest that ties unfinished parts to these images."""
        return listing_digest(self.source) if self.index is None else self.index.id

    def readable(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids that are not known to be unreadable."""
        if self.samples is None:
            return ids
        problem = self.samples.column("problem").is_valid().to_numpy()
        readable: NDArray[np.int64] = ids[~problem[ids]]
        return readable

    def open(
        self,
        preprocessing: Preprocessing,
        *,
        device: torch.device,
        workers: int,
        loader: str,
        recipe: ViewRecipe = EVALUATION,
        view_count: int = 1,
        with_thumbnails: bool = False,
        trust_beton: bool = True,
    ) -> "ImageReader":
        """Open a reader of views 0 .. view_count - 1 of a recipe; `loader` is auto, ffcv or torch.

        trust_beton: False to compare the images of a beton with the manifest, for results that others will trust.
        with_thumbnails: also make thumbnails of images that are indexed in the same pass.
        """
        if self.beton_path is not None:
            beton = Beton.open(self.beton_path)
            view_loader = open_loader(
                beton,
                kind=loader,
                recipe=recipe,
                preprocessing=preprocessing,
                workers=workers,
                device=device,
            )
            assert self.index is not None
            assert self.samples is not None
            check = check_of(beton, self.index, trusted=trust_beton)
            return BetonReader(beton, self.samples, view_loader, view_count, check)
        if loader == "ffcv":
            raise UsageError("--loader ffcv needs a beton", hint="make one: prune index --beton")
        return SourceReader(self, preprocessing, device, workers, recipe, view_count, with_thumbnails)


def images_to_score(data: DataSpec | None, index_path: Path) -> ImagesAtHand:
    """Return the manifest or images that `data` names; those of the index at `index_path` if it is of this data.

    Raises UsageError if there is neither.
    """
    index = Manifest.open(index_path) if (index_path / HEADER_NAME).is_file() else None
    if data is None:
        check_named(data, index_path)
        assert index is not None
        return ImagesAtHand.of_index(index)
    if _is_manifest(data) or index is None or not index.local:
        return _opened(data)
    if data.local().items() <= index.local.items():
        note(f"using the index at {index_path}/")
        return ImagesAtHand.of_index(index)
    return ImagesAtHand.of_source(data)


def images_of_same_classes(data: DataSpec | None, images: ImagesAtHand) -> ImagesAtHand | None:
    """Open further images, to validate on or to hold out; raises MismatchError unless their classes match `images`."""
    if data is None:
        return None
    found = _opened(data)
    if found.unlabelled:
        raise UsageError(f"{data.data} has no labels to measure the teacher by", hint="name images that have some")
    if found.class_names != images.class_names:
        raise MismatchError(
            f"{data.data} has other classes than the data: {found.class_names[:3]}... and {images.class_names[:3]}...",
            hint="give both the same class names in the same order, if necessary with --classes",
        )
    return found


def images_to_evaluate(data: Manifest | DataSpec | None) -> ImagesAtHand:
    """Return the images that `data` names, or those of a manifest; UsageError if it is None.

    Without a split: the validation split, else the test split, else all. A manifest names its images itself.
    """
    if data is None:
        raise UsageError(
            "--data is missing: name the labelled images to evaluate on",
            hint='--data DIR, or data = "DIR" in prune.toml',
        )
    where = data.where if isinstance(data, Manifest) else data.data
    if isinstance(data, Manifest):
        images = ImagesAtHand.of_index(data)
    elif not _is_manifest(data):
        images = ImagesAtHand.of_source(replace(data, held_out=True))
    elif data.split is not None:
        raise UsageError(
            f"--split cannot be used with the manifest {data.data}: it lists its samples",
            hint="name the images themselves to read another split",
        )
    else:
        images = ImagesAtHand.of_index(Manifest.open(data.data))
        note(f"{data.data}: the {images.count:,} samples that this manifest lists")
    if images.unlabelled:
        raise UsageError(
            f"{where} has no labels: there is nothing to compare answers with",
            hint="name images whose labels are read",
        )
    return images


def _is_manifest(data: DataSpec) -> bool:
    return (Path(data.data) / HEADER_NAME).is_file()


def _opened(data: DataSpec) -> ImagesAtHand:
    if not _is_manifest(data):
        return ImagesAtHand.of_source(data)
    images = ImagesAtHand.of_index(Manifest.open(data.data))
    images.classes = data.classes or images.classes
    return images


def samples_per_batch(batch_size: int, view_count: int) -> int:
    """Return the number of samples whose views make up a forward pass of `batch_size` images."""
    return max(1, batch_size // view_count)


class BetonReader:
    """Views 0 .. V - 1 of samples, read from a beton through the training loaders."""

    def __init__(
        self,
        beton: Beton,
        samples: pa.Table,
        loader: ViewLoader,
        view_count: int,
        check: CheckRows,
    ) -> None:
        self.beton, self.loader, self.view_count, self._check = beton, loader, view_count, check
        self.samples = samples
        self.name = loader.kind

    def batches(self, ids: NDArray[np.int64], batch_size: int) -> Batches:
        """Yield (sample_ids (b,), uint8 images (b * V, 3, S, S)): image i * V + v is view v of sample i.

        b is the number of samples whose views all fit into `batch_size` images, at least one; only the last batch may
        be smaller. Raises MismatchError unless the beton has every sample with the view_id of its table row, InputError
        for a damaged image.
        """
        samples = self.samples.take(pa.array(ids))
        row_n = beton_rows(self.beton, samples)
        self._check(row_n, samples)
        rows = np.repeat(row_n, self.view_count)
        view_n = np.tile(np.arange(self.view_count), len(ids))
        done, step = 0, samples_per_batch(batch_size, self.view_count)
        with closing(self.loader.batches(rows, view_n=view_n, batch_size=step * self.view_count)) as batches:
            for batch in batches:
                size = len(batch.images) // self.view_count
                yield ids[done : done + size], batch.images
                done += size
        # What was written into the file meanwhile may have been shown.
        self.beton.state.check()

    def chosen(self, ids: NDArray[np.int64], views: NDArray[np.int64], batch_size: int) -> Images:
        """Yield uint8 images (b, 3, S, S): view `views[i]` of sample `ids[i]`, in order, of ascending samples.

        These were read by `batches` before, so they are not compared with the manifest again.
        """
        unique_n, place = np.unique(ids, return_inverse=True)
        row_n = beton_rows(self.beton, self.samples.take(pa.array(unique_n)))
        with closing(self.loader.batches(row_n[place], view_n=views, batch_size=batch_size)) as batches:
            for batch in batches:
                yield batch.images
        self.beton.state.check()

    def close(self) -> None:
        """Close the loader."""
        self.loader.close()


@dataclass(frozen=True)
class SourceReader:
    """Views 0 .. V - 1 of samples, read by threads from the source; collects the facts about every image."""

    images: ImagesAtHand
    preprocessing: Preprocessing
    device: torch.device
    workers: int
    recipe: ViewRecipe
    view_count: int
    with_thumbnails: bool
    name: str = "source"

    def batches(self, ids: NDArray[np.int64], batch_size: int) -> Batches:
        """Yield the same as `BetonReader.batches`, without unreadable samples; each image is decoded once."""
        # With several views per image, blocks hold as many views as they hold images with one.
        block_rows = max(1, BLOCK_ROWS // self.view_count)
        every = np.arange(self.view_count)
        # Closed with this generator, so that its threads end with it.
        with closing(self._drawn(ids, lambda _: every, block_rows)) as found:
            while batch := list(islice(found, samples_per_batch(batch_size, self.view_count))):
                batch_ids, views = zip(*batch, strict=True)
                yield np.array(batch_ids, np.int64), as_tensor(np.concatenate(views), self.device)

    def chosen(self, ids: NDArray[np.int64], views: NDArray[np.int64], batch_size: int) -> Images:
        """Yield the same as `BetonReader.chosen`; fewer images if a sample cannot be read any more."""
        unique_n, first = np.unique(ids, return_index=True)
        views_of = dict(zip(unique_n.tolist(), np.split(views, first[1:]), strict=True))
        held: list[NDArray[np.uint8]] = []
        block_rows = max(1, BLOCK_ROWS // max(map(len, views_of.values())))
        with closing(self._drawn(unique_n, views_of.__getitem__, block_rows)) as found:
            for _, drawn in found:
                held.append(drawn)
                if sum(map(len, held)) >= batch_size:
                    together = np.concatenate(held)
                    whole = len(together) // batch_size * batch_size
                    for start in range(0, whole, batch_size):
                        yield as_tensor(together[start : start + batch_size], self.device)
                    held = [together[whole:]]
        if rest := sum(map(len, held)):
            assert rest < batch_size
            yield as_tensor(np.concatenate(held), self.device)

    def _drawn(
        self, ids: NDArray[np.int64], views_of: Callable[[int], NDArray[np.int64]], block_rows: int
    ) -> Generator[tuple[int, NDArray[np.uint8]], None, None]:
        """Yield sample_id and some views (v, S, S, 3) of each sample that can be read, in order."""
        source = self.images.source
        samples = self.images.samples
        rows = ids.tolist()
        view_id_of_row: dict[int, int] = {}
        if samples is not None:
            rows = rows_by_key(source, samples.column("key").take(pa.array(ids))).tolist()
            view_ids = samples.column("view_id").take(pa.array(ids)).to_pylist()
            view_id_of_row = dict(zip(rows, view_ids, strict=True))
        id_of_row = dict(zip(rows, ids.tolist(), strict=True))

        def work(row: int, image: RawImage | ImageProblem) -> tuple[SampleFacts, NDArray[np.uint8] | None]:
            facts, pixels = examine(image, with_thumbnail=self.with_thumbnails)
            if pixels is None:
                return facts, None
            view_id = view_id_of_row[row] if samples is not None else _view_id(facts)
            pixels = _as_stored(image, pixels, self.images.max_side)
            return facts, image_views(pixels, self.preprocessing, self.recipe, view_id, views_of(id_of_row[row]))

        with closing(map_images(source, rows, work, self.workers, block_rows)) as read:
            for sample_id, (facts, views) in zip(ids.tolist(), read, strict=True):
                if samples is None:
                    self.images.facts[sample_id] = facts
                elif facts.content_hash != samples.column("content_hash")[sample_id].as_py():
                    raise MismatchError(
                        f"{samples.column('key')[sample_id].as_py()} was altered since it was indexed",
                        hint="index the data again: prune index DATA --out NEW",
                    )
                if views is not None:
                    yield sample_id, views

    def close(self) -> None:
        """Do nothing: the threads end with the batches."""


ImageReader = BetonReader | SourceReader


def _as_stored(image: RawImage | ImageProblem, pixels: NDArray[np.uint8], max_side: int | None) -> NDArray[np.uint8]:
    """Return the pixels of a readable image as a beton with this --max-side stores them."""
    if max_side is None or max(pixels.shape[:2]) <= max_side or isinstance(image, ImageProblem):
        return pixels
    stored = beton_form(image, max_side)
    shrunk: NDArray[np.uint8] = stored.data.reshape(stored.height, stored.width, 3)
    return shrunk


def _view_id(facts: SampleFacts) -> int:
    return int(view_ids(np.frombuffer(facts.content_hash, np.uint8).reshape(1, HASH_BYTES))[0])
