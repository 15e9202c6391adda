"""`prune index`: read every image once and list the samples.

No model is needed. Images that cannot be decoded become rows with a `problem`; they are never selected.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.layout import BETON_NAME
from manifests.base.progress import Progress, note
from manifests.errors import InputError, UsageError
from manifests.format.child_header import Blocks
from manifests.format.header import DataSet
from manifests.format.parts import SAMPLES_SCHEMA, part_count, part_path, part_rows, read_part, write_part
from manifests.images.decode import ImageProblem, RawImage
from manifests.images.identity import HASH_BYTES, fingerprint, view_ids
from manifests.images.thumbnails import THUMBNAIL_BYTES
from manifests.manifest import Manifest, file_entry
from manifests.sources.base import Source, map_images
from manifests.tables.thumbnails_table import TABLE as THUMBNAILS
from manifests.tables.thumbnails_table import thumbnails_block, thumbnails_table
from manifests.untrusted.rules import check_keys
from prune_toolkit.images.data_spec import DataSpec, listing_digest
from prune_toolkit.images.examine import Check, SampleFacts, examine
from prune_toolkit.images.sample_images import SourceImages
from prune_toolkit.images.train_beton import write_train_beton
from prune_toolkit.indexing.reading import tell_content, tell_reading
from prune_toolkit.work.part_work import ALONE, Outcome, PartWork, Totals, WorkShare


def samples_table(
    source: Source, rows: Sequence[int], facts: Sequence[SampleFacts], label_n: NDArray[np.int32] | None = None
) -> pa.Table:
    """Return the `samples` rows of some images; InputError for a name that readers of a manifest would refuse.

    label_n (n,): labels in place of the source's.
    """
    keys = pa.array([source.keys[row] for row in rows], pa.string())
    check_keys(keys, source.name, hint="rename the file or its folder")
    hashes = [fact.content_hash for fact in facts]
    hash_n16 = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES)
    columns = [
        pa.array(rows, pa.int64()),
        keys,
        pa.array(source.labels_N[list(rows)] if label_n is None else label_n, pa.int32()),
        pa.array([fact.size_bytes for fact in facts], pa.int64()),
        pa.array(hashes, pa.binary(HASH_BYTES)),
        pa.array(view_ids(hash_n16), pa.uint64()),
        pa.array([fact.width for fact in facts], pa.int32()),
        pa.array([fact.height for fact in facts], pa.int32()),
        pa.array([fact.problem for fact in facts], pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SAMPLES_SCHEMA)


def thumbnails_of(rows: Sequence[int], facts: Sequence[SampleFacts]) -> pa.Table:
    """Return the `thumbnails` rows of the images that have one."""
    ids = [row for row, fact in zip(rows, facts, strict=True) if fact.thumbnail is not None]
    pixels = np.frombuffer(b"".join(fact.thumbnail or b"" for fact in facts), np.uint8)
    return thumbnails_table(np.array(ids, np.int64), pixels.reshape(-1, THUMBNAIL_BYTES))


def data_block(
    source: Source,
    samples: pa.Table,
    *,
    name: str | None,
    licence: str | None,
    redistributable: bool | None = None,
    strict: bool = False,
) -> DataSet:
    """Return the header block of the data set; InputError if no image is readable."""
    problems = samples.column("problem")
    readable = problems.null_count
    if readable == 0:
        first = problems[0].as_py()
        raise InputError(
            f"none of {len(samples):,} images could be read", hint=f"the first: {samples['key'][0].as_py()}: {first}"
        )
    names = np.array(source.class_names, object)[source.labels_N]
    return DataSet(
        name=name or source.name,
        source=source.kind,
        split=source.split,
        count=len(samples),
        readable=readable,
        class_names=list(source.class_names),
        fingerprint=fingerprint(
            samples.column("key").to_pylist(), names.tolist(), samples.column("content_hash").to_pylist()
        ),
        licence=licence,
        redistributable=redistributable,
        read_as=tell_content(source, samples, strict=strict),
        labels_from="none" if source.is_unlabelled else None,
    )


def read_samples(folder: Path, count: int) -> pa.Table:
    """Read the samples of an unfinished manifest, from its parts."""
    parts = [read_part(folder / part_path("samples", part)) for part in range(part_count(count))]
    return pa.concat_tables(parts).replace_schema_metadata(None)


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """The options of `prune index`."""

    data: DataSpec
    out: Path
    beton: bool = False
    max_side: int | None = None
    check: Check = "decode"
    thumbnails: bool = False
    """Store 8 x 8 pixels of each image, to compare copies with another encoding."""
    workers: int = 1
    ranks: WorkShare = ALONE
    name: str | None = None
    licence: str | None = None
    redistributable: bool | None = None
    """True if the images may be redistributed; None: not stated."""
    strict: bool = False
    """Stop where the data is probably not what is meant, in place of a warning."""

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < 8:
            raise UsageError(f"--max-side {self.max_side}: at least 8 pixels")
        if self.data.unlabelled and self.data.classes is not None:
            raise UsageError(
                "--unlabelled and --classes contradict each other: an index without labels has no classes",
                hint="name the classes when the teacher labels the images: prune score --classes FILE",
            )
        if self.thumbnails and self.check != "decode":
            raise UsageError("--thumbnails needs decoded images", hint=f"leave out --check {self.check}")

    def resolved(self, source: Source) -> dict[str, Any]:
        """Return everything the result depends on, without paths."""
        return {
            "command": "index",
            "kind": source.kind,
            "split": source.split,
            "listing": listing_digest(source),
            "check": self.check,
            "beton": self.beton,
            "max_side": self.max_side,
            "name": self.name or source.name,
            "licence": self.licence,
            # Left out if not given, so that such an index keeps the id it had before these options existed.
            **({"thumbnails": True} if self.thumbnails else {}),
            **({} if self.redistributable is None else {"redistributable": self.redistributable}),
        }


def build_index(config: IndexConfig) -> Manifest | None:
    """Write an index manifest; return None if other ranks have not finished their parts."""
    config.data.refuse_out(config.out)
    source = config.data.open()
    tell_reading(source, strict=config.strict, ranks=config.ranks)
    count, rate = len(source.keys), 0.0

    def facts_of(_row: int, image: RawImage | ImageProblem) -> SampleFacts:
        return examine(image, config.check, with_thumbnail=config.thumbnails)[0]

    def make(parts: list[int], digest: str) -> None:
        nonlocal rate
        with Progress(sum(len(part_rows(part, count)) for part in parts), "indexing") as progress:
            for part in parts:
                rows, facts = part_rows(part, count), []
                with closing(map_images(source, rows, facts_of, config.workers)) as read:
                    for fact in read:
                        facts.append(fact)
                        progress.advance(1)
                if config.thumbnails:
                    write_part(config.out / part_path(THUMBNAILS, part), thumbnails_of(rows, facts), digest)
                write_part(config.out / part_path("samples", part), samples_table(source, rows, facts), digest)
            rate = progress.rate()

    def finish(_parts: Totals, start: float) -> Outcome:
        samples, files = read_samples(config.out, count), []
        data = data_block(
            source,
            samples,
            name=config.name,
            licence=config.licence,
            redistributable=config.redistributable,
            strict=config.strict,
        )
        warn_problems(samples)
        local = config.data.local()
        if config.beton:
            rows_kept = write_train_beton(
                config.out / BETON_NAME,
                samples,
                images=SourceImages(source=source, local=local),
                workers=config.workers,
                max_side=config.max_side,
            )
            files.append(file_entry(config.out, BETON_NAME, rows_kept))
        blocks: Blocks = {
            "kind": "index",
            "data": data,
            "thumbnails": thumbnails_block() if config.thumbnails else None,
            "run": {"seconds": round(time.monotonic() - start, 3), "images_per_second": round(rate, 1)},
        }
        return Outcome(blocks=blocks, local=local, files=files)

    return PartWork(
        out=config.out,
        config=config.resolved(source),
        count=count,
        # The samples are last and complete a part.
        tables=[THUMBNAILS, "samples"] if config.thumbnails else ["samples"],
        make=make,
        finish=finish,
        ranks=config.ranks,
    ).run()


def warn_problems(samples: pa.Table) -> None:
    """Report the number of unreadable images, and the first one."""
    broken = samples.filter(samples.column("problem").is_valid())
    if len(broken):
        first = broken.slice(0, 1).to_pylist()[0]
        note(
            f"{len(broken):,} of {len(samples):,} images cannot be read and "
            f"{'is' if len(broken) == 1 else 'are'} left out; the first: {first['key']}: {first['problem']}"
        )
