"""Plan which tables a manifest made of rows of others has, and where their columns come from. Torch-free.

A table is carried over if it covers every readable sample of the result; scores are, column by column. A score that
depends on all samples together (Moderate's distance, influence, prototypes, training dynamics) differs between a shard
and the whole; it is carried over only from a manifest that has all samples, or from the pieces of one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.errors import InputError, MismatchError
from manifests.format.header import Header, ScoreSpec
from manifests.format.parts import SAMPLES_SCHEMA, part_rows
from manifests.tables.rows import Share, SharedTable
from prune_toolkit.combine.joined_samples import AGAIN, SAMPLES, flags_of

CARRIED = ("logits", "features", "scores", "thumbnails")
"""Kinds of tables that can be carried over; a row of each belongs to one readable sample."""
TOGETHER = ("features", "dynamics")
"""Sets of scores that depend on all samples together, with the exceptions below."""
ROW_BY_ROW = frozenset({"grand"})


@dataclass(frozen=True, kw_only=True, eq=False)
class TableOrigin:
    """Origin of some columns of a table; a row that several shares have comes from the first."""

    shares: tuple[Share, ...]
    columns: tuple[str, ...] | None = None
    """None: all columns."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TablePlan:
    """One table of the result."""

    name: str
    sources: tuple[TableOrigin, ...]

    def as_it_is(self, count: int) -> Share | None:
        """Return the share whose table equals that of the result; None if there is none."""
        if len(self.sources) != 1:
            return None
        share, columns = self.sources[0].shares[0], self.sources[0].columns
        has = {spec.name for spec in share.manifest.header.scores if f"scores/{spec.set}" == self.name}
        return share if share.is_whole(count) and (columns is None or set(columns) == has) else None


def plan_tables(shares: Sequence[Share], readable_N: NDArray[np.bool_]) -> tuple[list[TablePlan], list[str]]:
    """Plan the tables of the result except `samples`, from shares in order of precedence.

    Returns the plans, and a line with the reason for each table that is left out. Raises MismatchError if scores of one
    name are different scores; InputError for a share whose logits are missing, or of which a table was not pulled.
    """
    plans: list[TablePlan] = []
    dropped: list[str] = []
    found = {entry.path.rpartition("/")[0] for share in shares for entry in share.manifest.header.files}
    for name in sorted(found - {SAMPLES, ""}):
        kind, _, rest = name.partition("/")
        having = tuple(share for share in shares if share.manifest.has(name))
        if kind == "scores":
            sources = tuple(_score_sources(having, rest, readable_N, dropped))
        elif kind in CARRIED and _covers(having, readable_N):
            sources = (TableOrigin(shares=having),)
        else:
            sources = ()
            dropped.append(f"{name}, which not every manifest has")
        if kind == "logits":
            for share in shares:
                header = share.manifest.header
                if header.teacher is not None and not share.manifest.has(name) and kind not in (header.left_out or ()):
                    raise InputError(f"{share.manifest.where} has no {name}", hint=AGAIN)
        for share in dict.fromkeys(share for source in sources for share in source.shares):
            share.manifest.require(name)
        if sources:
            plans.append(TablePlan(name=name, sources=sources))
    return plans, dropped


def _score_sources(
    shares: Sequence[Share], set_name: str, readable_N: NDArray[np.bool_], dropped: list[str]
) -> Iterator[TableOrigin]:
    """Yield the columns of one set of scores by their origin; add the columns left out to `dropped`."""
    specs = [{spec.name: spec for spec in share.manifest.header.scores if spec.set == set_name} for share in shares]
    together: dict[tuple[int, ...], list[str]] = {}
    for name in dict.fromkeys(name for of_share in specs for name in of_share):
        having = [number for number, of_share in enumerate(specs) if name in of_share]
        _check_spec(shares, having, [specs[number][name] for number in having])
        reason = "which not every manifest has"
        origins = {origin(shares[number].manifest.header) for number in having}
        if set_name in TOGETHER and name not in ROW_BY_ROW and len(origins) > 1:
            having = [number for number in having if shares[number].is_whole(len(readable_N))]
            reason = "which depends on all samples of a shard together"
        if having and _covers([shares[number] for number in having], readable_N):
            together.setdefault(tuple(having), []).append(name)
        else:
            dropped.append(f"scores/{set_name} {name}, {reason}")
    for numbers, names in together.items():
        yield TableOrigin(shares=tuple(shares[number] for number in numbers), columns=tuple(names))


def samples_plan(shares: Sequence[Share]) -> TablePlan:
    """Plan the table `samples`, which has a row for every sample."""
    return TablePlan(name=SAMPLES, sources=(TableOrigin(shares=tuple(shares), columns=tuple(SAMPLES_SCHEMA.names)),))


def joined_score_specs(shares: Sequence[Share], plans: Sequence[TablePlan]) -> list[ScoreSpec]:
    """Return the header entries of the scores that are carried over."""
    carried = {
        (plan.name, column)
        for plan in plans
        for source in plan.sources
        if plan.name.startswith("scores/")
        for column in source.columns or ()
    }
    specs = {(spec.set, spec.name): spec for share in reversed(shares) for spec in share.manifest.header.scores}
    order = dict.fromkeys((spec.set, spec.name) for share in shares for spec in share.manifest.header.scores)
    return [specs[key] for key in order if (f"scores/{key[0]}", key[1]) in carried]


def joined_part(tables: Sequence[SharedTable], part: int, has_row_N: NDArray[np.bool_]) -> pa.Table:
    """Put one part of a table together; InputError unless it has one row per sample that should have one."""
    span = part_rows(part, len(has_row_N))
    expected_n = span.start + np.flatnonzero(has_row_N[span.start : span.stop])
    fields: dict[str, pa.Field] = {}
    columns: dict[str, pa.ChunkedArray] = {}
    for table in tables:
        found = table.part(part)
        id_n = found.column("sample_id").to_numpy()
        if not np.array_equal(id_n, expected_n):
            wheres = ", ".join(share.manifest.where for share in table.shares)
            raise InputError(
                f"{table.table} of {wheres} has {len(id_n):,} rows for {len(expected_n):,} readable samples",
                hint=AGAIN,
            )
        fields |= {field.name: field for field in found.schema}
        columns |= dict(zip(found.column_names, found.columns, strict=True))
    return pa.Table.from_arrays(list(columns.values()), schema=pa.schema(list(fields.values())))


def opened(plan: TablePlan, count: int) -> list[SharedTable]:
    """Open the tables from which a table of `count` samples is put together, with a part of each in memory."""
    return [SharedTable(source.shares, plan.name, count, source.columns) for source in plan.sources]


def origin(header: Header) -> str:
    """Return the id of the manifest whose samples were scored together: for a piece of a split, the whole."""
    whole = header.config.get("whole") if header.config.get("command") == "split" else None
    return whole if isinstance(whole, str) else header.id


def _check_spec(shares: Sequence[Share], having: list[int], specs: list[ScoreSpec]) -> None:
    first = specs[0].model_dump()
    for number, spec in zip(having, specs, strict=True):
        for field, value in spec.model_dump().items():
            if value != first.get(field):
                raise MismatchError(
                    f"score {spec.set}/{spec.name} of {shares[having[0]].manifest.where} and "
                    f"{shares[number].manifest.where} is not the same score: {field} is {first.get(field)} and {value}",
                    hint="import them with the same options, or each into its own set: --set NAME"
                    if spec.source == "imported"
                    else "score the shards with the same options",
                )


def _covers(shares: Sequence[Share], readable_N: NDArray[np.bool_]) -> bool:
    """Return whether every readable sample is in one of the shares."""
    return not (readable_N & ~flags_of(shares, len(readable_N))).any()
