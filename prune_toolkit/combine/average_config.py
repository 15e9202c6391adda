"""What `prune merge --average` works on, and checks that the manifests fit together.

The labels of an ensemble are the mean of its members' outputs for the same pixels: same samples, same views, same
crops. The order of the manifests does not matter: teachers are sorted before anything is added.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.progress import note
from manifests.errors import InputError, MismatchError, UsageError
from manifests.format.header import DataSet, FileEntry, TeacherCard, Views
from manifests.format.parts import part_count, soft_labels_of
from manifests.manifest import Manifest
from manifests.tables.thumbnails_table import carried_tables
from prune_toolkit.combine.alike import agreed, class_difference
from prune_toolkit.combine.mean_logits import average, check_logits
from prune_toolkit.scoring.logit_scores import TEACHER
from prune_toolkit.scoring.score import outside_scores
from prune_toolkit.scoring.view_flags import views_text, views_to_score

SCORE_TABLE = f"scores/{TEACHER}"
PIXELS = ("image_px", "resize_px", "interpolation")
"""The fields of a teacher's preprocessing that decide which pixels a view shows; normalisation may differ."""
_AND, _NOT_STATED = "; ", "not stated"
"""The separator of licences, and the text for a missing one."""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Manifests that can be averaged, sorted by their teachers."""

    out: Path
    average: str
    """logits or probabilities: what the mean is taken of."""
    parents: tuple[Manifest, ...]
    teachers: tuple[TeacherCard, ...]
    views: Views
    scored_views: range
    samples: pa.Table
    """key and label of every sample."""

    @classmethod
    def of(cls, manifests: Sequence[Manifest], *, out: Path, average: str, score_views: str | None) -> "Merge":
        """Check that manifests fit together; UsageError, MismatchError or InputError if they do not.

        score_views: all, 0 or train, the views whose scores are averaged; None: as in the manifests, if these agree.
        """
        if len(manifests) < 2:
            raise UsageError(
                "at least two scored manifests are needed to average",
                hint="prune merge manifest-a manifest-b --average logits",
            )
        cards = [(_scored_by(manifest), manifest) for manifest in manifests]
        cards.sort(key=lambda card: (card[0].spec, card[0].weights_sha256, card[1].id))
        parents, teachers = tuple(manifest for _, manifest in cards), tuple(teacher for teacher, _ in cards)
        _check_data(parents)
        views = _common_views(parents, teachers)
        times = Counter(teacher.weights_sha256 for teacher in teachers)
        for teacher in {teacher.weights_sha256: teacher for teacher in teachers}.values():
            if (count := times[teacher.weights_sha256]) > 1:
                note(f"{teacher.spec} is given {count} times with the same weights: it counts {count} times")
        return cls(
            out=out,
            average=average,
            parents=parents,
            teachers=teachers,
            views=views,
            scored_views=_scored_views(score_views, parents, views.count),
            samples=_common_samples(parents),
        )

    @cached_property
    def carrier(self) -> Manifest:
        """The manifest whose samples are carried over: the first with thumbnails, if there is one."""
        return next((parent for parent in self.parents if carried_tables(parent)), self.parents[0])

    @property
    def count(self) -> int:
        """Number of samples, including unreadable ones."""
        return len(self.samples)

    @property
    def class_count(self) -> int:
        """Number of classes."""
        return len(self.parents[0].class_names)

    @property
    def data(self) -> DataSet:
        """The data set; redistributable if every manifest says so."""
        blocks = [parent.header.data for parent in self.parents]
        changes = {
            "licence": licences([block.licence for block in blocks]),
            "redistributable": may_be_passed_on(blocks),
            "read_as": agreed([block.read_as for block in blocks]),
        }
        return blocks[0].model_copy(update=changes)

    @property
    def logits_tables(self) -> list[str]:
        """The tables of logits, one per view."""
        return [f"logits/view-{view:03d}" for view in range(self.views.count)]

    @cached_property
    def label_N(self) -> NDArray[np.int64]:
        """(N,) class of every sample."""
        return np.asarray(self.samples.column("label").to_numpy(), np.int64)

    @cached_property
    def _entries(self) -> dict[str, list[list[FileEntry]]]:
        """The parts of each table of logits in every manifest; InputError if some are missing."""
        found = {table: [parent.require(table) for parent in self.parents] for table in self.logits_tables}
        for table, per_parent in found.items():
            for parent, entries in zip(self.parents, per_parent, strict=True):
                if len(entries) != part_count(self.count):
                    raise InputError(f"{parent.where} has {len(entries)} of {part_count(self.count)} parts of {table}")
        return found

    def resolved(self) -> dict[str, Any]:
        """Return everything the result depends on, without paths."""
        return {
            "command": "merge",
            "average": self.average,
            "parents": [parent.id for parent in self.parents],
            "score_views": views_text(self.scored_views),
            **outside_scores(TEACHER),
        }

    def logits(self, table: str, part: int) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Return sample_id (n,) and averaged logits (n, C) of one part of a view; one part per teacher is in memory."""
        found: list[NDArray[np.float16]] = []
        ids_n, keys_n = np.empty(0, np.int64), []
        for parent, entries in zip(self.parents, self._entries[table], strict=True):
            path = parent.store.name(entries[part].path)
            ids, labels = soft_labels_of(parent.part(entries[part]), "logits", self.class_count)
            if labels.top_k is not None or (found and not np.array_equal(ids, ids_n)):
                raise InputError(f"{path} has other samples than the other manifests, or not all logits of each")
            if not found:
                ids_n, keys_n = ids, self.samples.column("key").take(pa.array(ids)).to_pylist()
            logits_nC = np.asarray(labels.logits(), np.float16)
            check_logits(logits_nC, keys_n, where=path, what="is not finite", hint="score with this teacher again")
            found.append(logits_nC)
        return ids_n, average(self.average, found, keys_n)


def licences(stated: Sequence[str | None]) -> str | None:
    """Join the licences that were stated, each once; None if there is none."""
    several = [(licence or _NOT_STATED).split(_AND) for licence in stated]
    known = list(dict.fromkeys(licence for of_one in several for licence in of_one))
    return None if known == [_NOT_STATED] else _AND.join(known)


def may_be_passed_on(blocks: Sequence[DataSet]) -> bool | None:
    """True if all blocks are redistributable, False if one is not, else None: one does not say."""
    allowed = [block.redistributable for block in blocks]
    return False if False in allowed else None if None in allowed else True


def _scored_by(manifest: Manifest) -> TeacherCard:
    header = manifest.header
    if header.kind != "scores" or header.teacher is None or header.views is None:
        raise UsageError(
            f"{manifest.where} is of kind {header.kind}: averaging needs scored manifests",
            hint="make them: prune score index --teacher TEACHER, once with each teacher",
        )
    if header.views.top_k is not None:
        raise UsageError(
            f"{manifest.where} has only the {header.views.top_k} largest logits of each view; an average needs all",
            hint="score again without --top-k",
        )
    return header.teacher


def _check_data(manifests: Sequence[Manifest]) -> None:
    first = manifests[0]
    if any(manifest.header.data.is_unlabelled for manifest in manifests):
        raise UsageError(
            "images without labels have a label from each teacher, so their manifests cannot be averaged",
            hint="average the logits elsewhere, and import them into the index: prune import FILE INDEX --logits",
        )
    for other in manifests[1:]:
        ours, theirs = first.header.data, other.header.data
        if (ours.fingerprint, ours.count) != (theirs.fingerprint, theirs.count):
            raise MismatchError(
                f"{first.where} and {other.where} have different data: {ours.name} with {ours.count:,} samples and "
                f"{theirs.name} with {theirs.count:,}, fingerprints {ours.fingerprint[:12]} and "
                f"{theirs.fingerprint[:12]}",
                hint="score the same index with each teacher",
            )
        if difference := class_difference(first, other):
            raise MismatchError(
                f"{first.where} and {other.where} number their classes differently: {difference}",
                hint="score the same index with each teacher",
            )


def _common_views(manifests: Sequence[Manifest], teachers: Sequence[TeacherCard]) -> Views:
    blocks = [manifest.header.views for manifest in manifests]
    first = blocks[0]
    assert first is not None
    for manifest, block, teacher in zip(manifests, blocks, teachers, strict=True):
        assert block is not None
        ours = first.model_dump() | teachers[0].preprocessing.model_dump(include=set(PIXELS))
        theirs = block.model_dump() | teacher.preprocessing.model_dump(include=set(PIXELS))
        for name in ours | theirs:
            if ours.get(name) != theirs.get(name):
                raise MismatchError(
                    f"{manifests[0].where} and {manifest.where} show different views: {name} is {ours.get(name)} and "
                    f"{theirs.get(name)}",
                    hint="score with the same view flags, image size and beton: an average needs the same crops",
                )
    return first


def _common_samples(manifests: Sequence[Manifest]) -> pa.Table:
    first = manifests[0].samples(["key", "label", "view_id", "problem"])
    for other in manifests[1:]:
        table = other.samples(["label", "view_id", "problem"])
        for name, differs in (
            ("label", np.not_equal),
            ("view_id", np.not_equal),
            ("problem", lambda a, b: a.is_valid().to_numpy() != b.is_valid().to_numpy()),
        ):
            if (rows := np.flatnonzero(differs(first.column(name), table.column(name)))).size:
                raise MismatchError(
                    f"{manifests[0].where} and {other.where} disagree on the {name} of {rows.size:,} samples; the "
                    f"first: {first.column('key')[int(rows[0])]}",
                    hint="score the same index with each teacher",
                )
    return first.select(["key", "label"])


def _scored_views(asked: str | None, manifests: Sequence[Manifest], count: int) -> range:
    """Return the views whose scores are averaged: those requested, else those of all manifests.

    Raises UsageError if the manifests have scores of different views.
    """
    if asked is not None or count == 1:
        return views_to_score(asked, count)
    specs = [spec for manifest in manifests for spec in manifest.header.scores if spec.set == TEACHER]
    texts = {spec.views for spec in specs}
    for which in ("train", "all", "0"):
        if texts == {views_text(views := views_to_score(which, count))}:
            return views
    raise UsageError(
        f"these manifests have scores of different views: {', '.join(sorted(map(str, texts)))}",
        hint="choose the views to score: --score-views train, all or 0",
    )
