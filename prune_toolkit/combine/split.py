"""`prune split`: the rows of some classes, or of keys that begin alike, as a manifest of their own; and the rest.

Class names stay whole, so that labels and logits keep their meaning and `prune merge` puts the pieces together again.
Torch-free, a part in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.base.layout import BETON_NAME
from manifests.base.progress import note
from manifests.errors import UsageError
from manifests.manifest import Manifest
from manifests.tables.rows import Share, with_ids
from prune_toolkit.combine.alike import check_divisible
from prune_toolkit.combine.joined_samples import checked_samples, readable
from prune_toolkit.combine.joined_tables import origin, plan_tables
from prune_toolkit.combine.joined_writing import ShareWork
from prune_toolkit.work.part_work import finished


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """What `prune split` was asked to do."""

    out: Path
    rest: Path | None = None
    classes: tuple[str, ...] = ()
    """Names, or several of them with commas between."""
    prefixes: tuple[str, ...] = ()
    """Beginnings of keys, such as train/n01."""

    def __post_init__(self) -> None:
        if bool(self.classes) == bool(self.prefixes):
            raise UsageError(
                "split by classes or by the beginning of keys: one of them", hint="--classes a,b or --prefix train/n01"
            )
        if "" in self.prefixes:
            raise UsageError("--prefix '' is how every key begins", hint="--prefix train/n01")
        if self.rest is not None and self.rest.resolve() == self.out.resolve():
            raise UsageError(f"--out and --rest are both {self.out}", hint="name two folders")


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A manifest, and which of its samples go where."""

    config: SplitConfig
    parent: Manifest
    samples: pa.Table
    chosen_N: NDArray[np.bool_]

    @classmethod
    def of(cls, config: SplitConfig, parent: Manifest) -> "Split":
        """Find the samples; UsageError for a class there is not, a prefix of no key, or a piece without an image."""
        check_divisible(parent)
        samples = checked_samples(parent)
        if config.classes:
            names = class_list(config.classes, parent.class_names)
            chosen_C = np.array([name in names for name in parent.class_names])
            chosen_N = chosen_C[samples.column("label").to_numpy()]
        else:
            chosen_N = np.zeros(len(samples), np.bool_)
            for prefix in config.prefixes:
                begins_N = pc.starts_with(samples.column("key"), prefix).to_numpy()
                if not begins_N.any():
                    raise UsageError(
                        f"no key of {parent.where} begins with {prefix}",
                        hint=f"keys are such as {samples.column('key')[0].as_py()}",
                    )
                chosen_N |= begins_N
        split = cls(config=config, parent=parent, samples=samples, chosen_N=chosen_N)
        for out, rows_N in split.pieces():
            if not (rows_N & readable(samples)).any():
                raise UsageError(f"{out} would have no readable image", hint="choose other classes or another prefix")
        return split

    def pieces(self) -> list[tuple[Path, NDArray[np.bool_]]]:
        """Folder of each piece and its samples (N,)."""
        rest = [] if self.config.rest is None else [(self.config.rest, ~self.chosen_N)]
        return [(self.config.out, self.chosen_N), *rest]

    def resolved(self, *, rest: bool) -> dict[str, Any]:
        """What a piece depends on, without paths."""
        config = self.config
        by = {"classes": sorted(class_list(config.classes, self.parent.class_names))} if config.classes else {}
        return {
            "command": "split",
            "parent": self.parent.id,
            "whole": origin(self.parent.header),
            **(by or {"prefixes": sorted(set(config.prefixes))}),
            "rest": rest,
        }


def class_list(asked: Sequence[str], known: Sequence[str]) -> set[str]:
    """Class names out of texts that hold one or, with commas between, several; UsageError for one there is not."""
    names: set[str] = set()
    for text in asked:
        names |= {text} if text in known else {name.strip() for name in text.split(",") if name.strip()}
    for name in sorted(names):
        if name not in known:
            close = get_close_matches(name, known, n=3) or list(known[:3])
            raise UsageError(f"there is no class {name}", hint=f"there are {len(known):,}, such as {', '.join(close)}")
    if not names:
        raise UsageError("--classes names none", hint="--classes a,b")
    return names


def write_split(split: Split) -> list[Manifest]:
    """Write the pieces, one or two; what an interrupted run has done is kept. UsageError where one has no place."""
    for number, (out, _) in enumerate(split.pieces()):
        finished(out, split.resolved(rest=number == 1))
    if split.parent.header.file(BETON_NAME):
        note("the beton is not split: `prune select --data DATA` cuts a new one from the images")
    written = []
    for number, (out, rows_N) in enumerate(split.pieces()):
        old_n = np.flatnonzero(rows_N)
        new_n = np.arange(len(old_n))
        samples = with_ids(split.samples.filter(pa.array(rows_N)), new_n)
        shares = (Share(manifest=split.parent, old_n=old_n, new_n=new_n),)
        plans, left_out = plan_tables(shares, readable(samples))
        for what in left_out:
            note(f"left out: {what}")
        written.append(
            ShareWork(
                out=out,
                command="split",
                resolved=split.resolved(rest=number == 1),
                parents=(split.parent,),
                shares=shares,
                samples=samples,
                plans=tuple(plans),
                what=f"splitting off {out}",
            ).write()
        )
    return written
