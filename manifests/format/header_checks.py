"""The bounds of a header: every number that memory, a loop or an index depends on, checked before anything uses it."""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from manifests.base.layout import MAX_CLASSES, MAX_IMAGE_PX, MAX_PART_BYTES, MAX_VIEWS, PART_ROWS
from manifests.betons.labelled_views import LEAST_LABELS, MOST_VIEWS
from manifests.format.header import FileEntry, Header, Preprocessing
from manifests.untrusted.rules import is_file_of_a_manifest, path_problem, shortened

MAX_RESIZE_PX = 16_384
"""Of the shorter side: the longer one of the most oblong image, 1 by 65,535, still fits an int32."""
MAX_STORED_PX = 65_535
"""Side of an image in a beton."""
MAX_WIDTH = 1 << 20
MAX_THUMBNAIL_PX = 256
MAX_OUTPUTS = 1 << 24
"""Outputs of a teacher, of which some are the classes."""
MAX_SCALE = 1e6
"""Of means and deviations in units of the pixels' range: 1/255 and 255 are those of people who do not divide."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FREE = {"config", "run", "files"}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


class Bound(NamedTuple):
    """What a field may hold if it is set: values of a type, from the least to the largest."""

    least: float
    most: float
    kind: type[int | float] = int


BOUNDS: Mapping[str, Callable[[Header], Bound]] = {
    "data.count": lambda header: Bound(0, _rows_at_most(header)),
    "data.readable": lambda header: Bound(0, header.data.count),
    "teacher.parameters": lambda _: Bound(0, 1 << 60),
    "teacher.train_top1": lambda _: Bound(0, 1, float),
    "teacher.train_ece": lambda _: Bound(0, 1, float),
    "teacher.val_top1": lambda _: Bound(0, 1, float),
    "views.count": lambda _: Bound(1, MAX_VIEWS),
    "views.image_px": lambda _: Bound(1, MAX_IMAGE_PX),
    "views.max_side": lambda _: Bound(1, MAX_STORED_PX),
    "views.top_k": lambda header: Bound(1, _most_kept(header)),
    "views.pad_px": lambda _: Bound(0, MAX_IMAGE_PX),
    "views.scale_min": lambda _: Bound(0, 1, float),
    "views.scale_max": lambda _: Bound(0, 1, float),
    "views.ratio_min": lambda _: Bound(0, MAX_SCALE, float),
    "views.ratio_max": lambda _: Bound(0, MAX_SCALE, float),
    "views.flip": lambda _: Bound(0, 1, bool),
    "labels.views": lambda _: Bound(0, MAX_VIEWS),
    "labels.top_k": lambda header: Bound(1, _most_kept(header)),
    "labels.feature_width": lambda _: Bound(1, MAX_WIDTH),
    "labels.budget.first_views": lambda _: Bound(1, MOST_VIEWS),
    "labels.budget.labels": lambda header: Bound(0, header.data.count * MOST_VIEWS),
    "labels.budget.least": lambda _: Bound(1, MOST_VIEWS),
    "labels.budget.most": lambda _: Bound(1, MOST_VIEWS),
    "labels.budget.temperature": lambda _: Bound(0, MAX_SCALE, float),
    "features.width": lambda _: Bound(1, MAX_WIDTH),
    "thumbnails.side_px": lambda _: Bound(1, MAX_THUMBNAIL_PX),
    "compute.batch_size": lambda _: Bound(1, 1 << 40),
    "selection.count": lambda header: Bound(0, header.data.count),
    "selection.per_class_min": lambda _: Bound(0, 1 << 40),
    "selection.distill.count": lambda header: Bound(0, header.data.count),
}
"""The bounds of each number, by its place in the header."""


def check_header(header: Header) -> None:
    """Raise ValueError naming the first field of a header that is out of bounds."""
    seen = set()
    for entry in header.files:
        _check_file(entry)
        # Some file systems do not distinguish upper and lower case.
        if entry.path.casefold() in seen:
            raise ValueError(f"files: {shortened(entry.path)} is named twice")
        seen.add(entry.path.casefold())
    problems = chain(
        _bound_problems(header), _class_problems(header), _teacher_problems(header), _budget_problems(header)
    )
    if (problem := next(problems, None)) is not None:
        raise ValueError(problem)
    for where, text in _texts(header.model_dump(exclude=_FREE, exclude_none=True), ""):
        if _CONTROL.search(text):
            raise ValueError(f"{where}: {shortened(text)} holds a control character")


def preprocessing_problem(preprocessing: Preprocessing) -> str | None:
    """Return why no network can be shown images like this; None if one can. For headers, students and what is typed."""
    image_px, resize_px = preprocessing.image_px, preprocessing.resize_px
    for name, side, most in (("image_px", image_px, MAX_IMAGE_PX), ("resize_px", resize_px, MAX_RESIZE_PX)):
        if not 1 <= side <= most:
            return f"{name} is {side}, not from 1 to {most:,}"
    if [len(values) for values in (preprocessing.mean, preprocessing.std)] not in ([1, 1], [3, 3]):
        return "mean and std are not three numbers each, for red, green and blue, or one each, for grey images"
    if not all(abs(value) <= MAX_SCALE for value in preprocessing.mean):
        return f"a mean is not from -{MAX_SCALE:,.0f} to {MAX_SCALE:,.0f}"
    if not all(1 / MAX_SCALE <= value <= MAX_SCALE for value in preprocessing.std):
        return f"std is above 0: from {1 / MAX_SCALE:g} to {MAX_SCALE:,.0f}"
    return None


def _check_file(entry: FileEntry) -> None:
    if problem := path_problem(entry.path):
        raise ValueError(f"files: the path {shortened(entry.path)}: {problem}")
    if {".", ""} & set(entry.path.split("/")):
        raise ValueError(f"files: the path {shortened(entry.path)}: a name in it is empty or a dot")
    if not is_file_of_a_manifest(entry.path):
        raise ValueError(f"files: {shortened(entry.path)} is neither a part of a table nor a beton")
    is_part = entry.path.endswith(".parquet")
    for name, number, most in (
        ("bytes", entry.bytes, MAX_PART_BYTES if is_part else 1 << 60),
        ("rows", entry.rows, PART_ROWS if is_part else 1 << 48),
    ):
        if not 0 <= number <= most:
            raise ValueError(f"files: {shortened(entry.path)} has {number} {name}, not from 0 to {most:,}")


def _bound_problems(header: Header) -> Iterator[str]:
    for where, bound_of in BOUNDS.items():
        value, bound = _value(header, where), bound_of(header)
        if value is None:
            continue
        # A bool is an int to Python. Parameters of a recipe have no types of their own in the header.
        kinds = (int, float) if bound.kind is float else bound.kind
        if not isinstance(value, kinds) or isinstance(value, bool) != (bound.kind is bool):
            yield f"{where} is {shortened(str(value))}, not {_KINDS[bound.kind]}"
        elif not bound.least <= value <= bound.most:
            yield f"{where} is {value}, not from {bound.least:,} to {bound.most:,}"


def _class_problems(header: Header) -> Iterator[str]:
    names, labels = header.data.class_names, header.labels
    if not 1 <= len(names) <= MAX_CLASSES:
        yield f"data.class_names has {len(names):,} names, not from 1 to {MAX_CLASSES:,}"
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        yield f"data.class_names: two classes are named {shortened(twice)}"
    if labels is not None and (labels.codec == "features") != (labels.feature_width is not None):
        yield "labels.feature_width belongs to the codec features, and only one of the two is there"
    class_std = None if labels is None else labels.class_std
    if class_std is not None:
        if len(class_std) != len(names):
            yield f"labels.class_std has {len(class_std):,} numbers for {len(names):,} classes"
        if min(class_std, default=0) < 0 or max(class_std, default=0) <= 0:
            yield "labels.class_std holds a number below 0, or none above 0"


def _teacher_problems(header: Header) -> Iterator[str]:
    card = header.teacher
    if card is None:
        return
    if problem := preprocessing_problem(card.preprocessing):
        yield f"teacher.preprocessing: {problem}"
    if card.preprocessing.image_px > card.preprocessing.resize_px:
        yield "teacher.preprocessing: image_px is more than resize_px, which it is cut out of"
    if card.output_map is not None and card.output_groups is not None:
        yield "teacher: output_map and output_groups are both there"
    groups = card.output_groups if card.output_map is None else [[output] for output in card.output_map]
    if groups is None:
        return
    where = "teacher.output_map" if card.output_groups is None else "teacher.output_groups"
    if len(groups) != len(header.data.class_names):
        yield f"{where} is for {len(groups):,} classes of {len(header.data.class_names):,}"
    if not all(groups):
        yield f"{where}: a class has no output"
    if not all(0 <= output < MAX_OUTPUTS for group in groups for output in group):
        yield f"{where}: an output is not from 0 to {MAX_OUTPUTS - 1:,}"


def _budget_problems(header: Header) -> Iterator[str]:
    """Yield where the targets are not as many as the budget says, and not at least view 0's for every kept sample."""
    labels, chosen = header.labels, header.selection
    if labels is None or labels.budget is None:
        return
    budget = labels.budget
    if not labels.is_ragged:
        return
    if budget.least is None or budget.most is None or budget.least > budget.most:
        yield f"labels.budget: samples have {budget.least} to {budget.most} labels"
    elif not LEAST_LABELS <= budget.most <= labels.views <= MOST_VIEWS:
        yield f"labels.budget.most is {budget.most} of {labels.views} views; {LEAST_LABELS} to {MOST_VIEWS} can be"
    rows = [(entry.table, entry.rows) for entry in header.files if entry.table.startswith("targets/view-")]
    if rows and sum(count for _, count in rows) != budget.labels:
        yield f"labels.budget.labels is {budget.labels:,}, and the targets have {sum(n for _, n in rows):,} rows"
    kept = 0 if chosen is None else chosen.count
    if rows and (of_view_0 := sum(n for table, n in rows if table == "targets/view-000")) != kept:
        yield f"targets/view-000 has {of_view_0:,} rows for {kept:,} kept samples"


def _rows_at_most(header: Header) -> int:
    parts = sum(entry.kind == "samples" for entry in header.files)
    return parts * PART_ROWS if parts else 1 << 40


def _most_kept(header: Header) -> int:
    return max(1, len(header.data.class_names) - 1)


def _value(block: Any, where: str) -> Any:
    """Return the value at a path of fields; None if it, or a block above it, is not set."""
    for name in where.split("."):
        block = getattr(block, name, None)
    return block


def _texts(value: object, where: str) -> Iterator[tuple[str, str]]:
    """Yield every text in nested values, including names of fields, and where it stands."""
    if isinstance(value, str):
        yield where or "header", value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield where or "header", str(name)
            yield from _texts(inner, f"{where}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, where)
