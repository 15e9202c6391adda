"""What a data set was taken for, told before the work and recorded in the header."""

import pyarrow as pa

from manifests.base.progress import note
from manifests.errors import InputError
from manifests.format.header import DataReading
from manifests.sources.base import Source
from manifests.sources.sixteen_bit import sixteen_bit
from manifests.sources.telling import content_warnings, reading_lines, reading_warnings
from manifests.tables.rows import hash_matrix
from prune_toolkit.work.part_work import ALONE, WorkShare


def tell_reading(source: Source, *, strict: bool, ranks: WorkShare = ALONE) -> None:
    """Print what was taken for split, classes and images, what was left out, and what is probably not meant.

    strict: raise InputError in place of warnings. Of several processes, only the first one prints.
    """
    if not strict and ranks.rank != 0:
        return
    depth = sixteen_bit(source)
    for line in reading_lines(source, depth) if ranks.rank == 0 else ():
        note(line)
    _warn(reading_warnings(source, depth), strict=strict)


def tell_content(source: Source, samples: pa.Table, *, strict: bool) -> DataReading:
    """Return the record for the header, after warning of images that are there twice."""
    hashes = hash_matrix(samples.column("content_hash"))
    found = content_warnings(source.keys, source.labels_N, hashes)
    # The record stays as it is when messages change: it is part of the id.
    _warn(found if strict else [f"{line}; all of them: prune suspects" for line in found], strict=strict)
    read_as, depth = source.read_as, sixteen_bit(source)
    images = [line for line in (read_as.images, depth.conversion) if line is not None]
    return DataReading(
        labels=read_as.labels,
        split_found=read_as.split_found,
        other_splits=list(read_as.other_splits),
        images="; ".join(images) or None,
        left_out=dict(sorted(read_as.left_out.counts.items())),
        warnings=[*reading_warnings(source, depth), *found],
    )


def _warn(found: list[str], *, strict: bool) -> None:
    if strict and found:
        raise InputError(found[0], hint="without --strict this is a warning")
    for line in found:
        note(f"warning: {line}")
