"""`prune split`: write the samples of some classes, or of keys with a prefix, as one manifest, and the rest as another.

The pieces keep all class names, so that labels and logits keep their meaning and `prune merge` can join the pieces.
Torch-free, with one part in memory.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.base.layout import BETON_NAME
from manifests.base.progress import note
from manifests.errors import UsageError
from manifests.manifest import Manifest
from manifests.tables.rows import Share
from prune_toolkit.combine.alike import check_divisible
from prune_toolkit.combine.joined_samples import Samples
from prune_toolkit.combine.joined_tables import origin, plan_tables
from prune_toolkit.combine.joined_writing import ShareWork
from prune_toolkit.work.part_work import finished
from prune_toolkit.work.unfinished import check_unfinished


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """The options of `prune split`."""

    out: Path
    rest: Path | None = None
    classes: tuple[str, ...] = ()
    """Class names, one or several separated by commas in each text."""
    prefixes: tuple[str, ...] = ()
    """Prefixes of keys, such as train/n01."""

    def __post_init__(self) -> None:
        if bool(self.classes) == bool(self.prefixes):
            raise UsageError(
                "give either classes or prefixes of keys to split by", hint="--classes a,b or --prefix train/n01"
            )
        if "" in self.prefixes:
            raise UsageError("--prefix '' matches every key", hint="give the beginning of keys: --prefix train/n01")
        if self.rest is not None and os.path.realpath(self.rest) == os.path.realpath(self.out):
            raise UsageError(f"--out and --rest are both {self.out}", hint="name two different folders")


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A manifest, and the piece that each of its samples belongs to."""

    parent: Manifest
    samples: Samples
    by: dict[str, list[str]]
    """The classes or prefixes, sorted."""
    pieces: tuple[tuple[Path, NDArray[np.bool_]], ...]
    """The folder of each piece and the flags (N,) of its samples; the second piece has the rest."""

    @classmethod
    def of(cls, config: SplitConfig, parent: Manifest) -> "Split":
        """Find the samples; UsageError for an unknown class, a prefix that no key has, or a piece without an image."""
        check_divisible(parent)
        names = ["label", "problem", *(["key"] if config.prefixes else [])]
        table = parent.samples(names, check_all=True)
        samples = Samples.of(table)
        if config.classes:
            chosen = class_list(config.classes, parent.class_names)
            by = {"classes": sorted(chosen)}
            chosen_C = np.array([name in chosen for name in parent.class_names])
            chosen_N = chosen_C[samples.label_N]
        else:
            by = {"prefixes": sorted(set(config.prefixes))}
            chosen_N = np.zeros(samples.count, np.bool_)
            for prefix in config.prefixes:
                begins_N = pc.starts_with(table.column("key"), prefix).to_numpy()
                if not begins_N.any():
                    raise UsageError(
                        f"no key of {parent.where} begins with {prefix}",
                        hint=f"its first key is {table.column('key')[0].as_py()}",
                    )
                chosen_N |= begins_N
        pieces = ((config.out, chosen_N), *(() if config.rest is None else ((config.rest, ~chosen_N),)))
        for out, rows_N in pieces:
            if not (rows_N & samples.readable_N).any():
                raise UsageError(f"{out} would have no readable image", hint="choose other classes or another prefix")
        return cls(parent=parent, samples=samples, by=by, pieces=pieces)

    def resolved(self, *, rest: bool) -> dict[str, Any]:
        """Return everything a piece depends on, without paths."""
        whole = origin(self.parent.header)
        return {"command": "split", "parent": self.parent.id, "whole": whole, **self.by, "rest": rest}


def class_list(asked: Sequence[str], known: Sequence[str]) -> set[str]:
    """Parse texts of one class name or several separated by commas; UsageError for an unknown class."""
    names: set[str] = set()
    for text in asked:
        names |= {text} if text in known else {name.strip() for name in text.split(",") if name.strip()}
    for name in sorted(names):
        if name not in known:
            close = get_close_matches(name, known, n=3) or list(known[:3])
            raise UsageError(f"unknown class {name}", hint=f"there are {len(known):,}, such as {', '.join(close)}")
    if not names:
        raise UsageError("--classes is empty", hint="name the classes: --classes a,b")
    return names


def write_split(split: Split) -> list[Manifest]:
    """Write the pieces, one or two; an interrupted run is resumed. Raises UsageError if a folder is taken."""
    for number, (out, _) in enumerate(split.pieces):
        if finished(out, split.resolved(rest=number == 1)) is None:
            check_unfinished(out)
    if split.parent.header.file(BETON_NAME):
        note("the beton is not split: `prune select --data DATA` cuts a new one from the images")
    written = []
    for number, (out, rows_N) in enumerate(split.pieces):
        old_n = np.flatnonzero(rows_N)
        new_n = np.arange(len(old_n))
        samples = split.samples.only(rows_N)
        shares = (Share(manifest=split.parent, old_n=old_n, new_n=new_n),)
        plans, left_out = plan_tables(shares, samples.readable_N)
        written.append(
            ShareWork(
                out=out,
                resolved=split.resolved(rest=number == 1),
                parents=(split.parent,),
                shares=shares,
                samples=samples,
                plans=tuple(plans),
                left_out=tuple(left_out),
                what=f"splitting off {out}",
            ).write()
        )
    return written
