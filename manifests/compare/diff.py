"""The differences between two manifests: data, teacher, scores, selections, labels, settings.

Sections are JSON-able; one that does not apply, because a side lacks the data, is None. Samples and scores are read
whole, labels part by part.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.compare.divergence import compare_labels
from manifests.compare.pairing import Pairs, Side, labels_in, pair_samples, sides
from manifests.images.identity import hash_words
from manifests.manifest import Manifest
from manifests.tables.rows import Ids

FIRST = 5
"""Keys listed per difference."""
SETTINGS = ("config", "views", "compute", "features", "selection", "labels")
Section = dict[str, Any] | None
Floats = NDArray[np.floating[Any]]


def compare(first: Manifest, second: Manifest, secret: bytes | None = None) -> dict[str, Any]:
    """Return all differences between two manifests of any kind; a secret is that of the hidden ones.

    Raises InputError if a part cannot be read, UsageError or MismatchError if a secret is not needed or wrong.
    """
    a, b = sides(first, second, secret)
    pairs = pair_samples(a, b)
    a, b = a.without("key"), b.without("key")
    data = compare_data(a, b, pairs)
    a, b = a.without("content_hash"), b.without("content_hash")
    return {
        "a": _who(first),
        "b": _who(second),
        "same": first.id == second.id,
        "data": data,
        "teacher": compare_teachers(first, second),
        "scores": compare_scores(a, b, pairs),
        "selections": compare_selections(a, b, pairs),
        "labels": compare_labels(a, b, pairs),
        "settings": compare_settings(first, second),
    }


def compare_data(a: Side, b: Side, pairs: Pairs) -> dict[str, Any]:
    """Count samples and classes in common, in one alone, or in both with another label or content."""
    ours, theirs = a.manifest.header.data, b.manifest.header.data
    to_b_C = labels_in(ours.class_names, theirs.class_names)
    relabelled = pairs.a_n[to_b_C[a.label_N[pairs.a_n]] != b.label_N[pairs.b_n]]
    halves = zip(hash_words(a.hash_N16), hash_words(b.hash_N16), strict=True)
    changed_n = np.logical_or(*(ours_N[pairs.a_n] != theirs_M[pairs.b_n] for ours_N, theirs_M in halves))
    only_a, only_b = _others(len(a), pairs.a_n), _others(len(b), pairs.b_n)
    return {
        "same": ours.fingerprint == theirs.fingerprint,
        "fingerprint": [ours.fingerprint, theirs.fingerprint],
        "name": [ours.name, theirs.name],
        "samples": [len(a), len(b)],
        "joined_by": pairs.by,
        "hidden": _hidden(a, b),
        "common": len(pairs.a_n),
        "only_a": _some(a, only_a),
        "only_b": _some(b, only_b),
        "another_label": _some(a, relabelled),
        "another_content": _some(a, pairs.a_n[changed_n]),
        "classes": {
            "count": [len(ours.class_names), len(theirs.class_names)],
            "same_order": ours.class_names == theirs.class_names,
            "only_a": [name for name, label in zip(ours.class_names, to_b_C, strict=True) if label < 0],
            "only_b": sorted(set(theirs.class_names) - set(ours.class_names)),
        },
    }


def _others(count: int, id_n: Ids) -> Ids:
    """Return the ids below `count`, ascending, that are not among these."""
    is_other_N = np.ones(count, np.bool_)
    is_other_N[id_n] = False
    return np.flatnonzero(is_other_N)


def _hidden(a: Side, b: Side) -> str | None:
    """Return why samples cannot be paired, though they may be the same."""
    checks = [None if block is None else block.check for block in (side.manifest.header.hidden for side in (a, b))]
    if checks[0] == checks[1] or a.secret is not None or b.secret is not None:
        return None
    if None not in checks:
        return "they are hidden by two different secrets"
    return f"{'B' if checks[0] is None else 'A'} is hidden: name the file with its secret: --secret FILE"


def compare_teachers(a: Manifest, b: Manifest) -> Section:
    """Compare the teachers: the main fields, and all that differ; None if neither has a teacher."""
    cards = [manifest.header.teacher for manifest in (a, b)]
    if cards == [None, None]:
        return None
    fields = [{} if card is None else dict(flat("", card.model_dump(mode="json", exclude_none=True))) for card in cards]
    shown = ("spec", "weights_sha256", "train_top1")
    return {
        "same": fields[0].get("weights_sha256") == fields[1].get("weights_sha256"),
        **{name: [side.get(name) for side in fields] for name in shown},
        "differing": _differing(fields[0], fields[1]),
    }


def compare_scores(a: Side, b: Side, pairs: Pairs) -> Section:
    """Return the rank correlation of every score of both, over the common samples and within every class of A."""
    specs = [
        [f"{spec.set}/{spec.name}" for spec in side.manifest.header.scores if "scores" not in side.manifest.not_pulled]
        for side in (a, b)
    ]
    if not any(specs):
        return None
    common = [name for name in specs[0] if name in specs[1]]
    return {
        "common": list(_correlations(a, b, pairs, common)),
        "only_a": [name for name in specs[0] if name not in specs[1]],
        "only_b": [name for name in specs[1] if name not in specs[0]],
    }


def _correlations(a: Side, b: Side, pairs: Pairs, names: list[str]) -> Iterator[dict[str, Any]]:
    classes = a.manifest.class_names
    for set_name in dict.fromkeys(name.partition("/")[0] for name in names):
        columns = [name.partition("/")[2] for name in names if name.partition("/")[0] == set_name]
        for name, x_N, y_M in zip(columns, _scores(a, set_name, columns), _scores(b, set_name, columns), strict=True):
            x_n, y_n = x_N[pairs.a_n], y_M[pairs.b_n]
            scored_n = ~(np.isnan(x_n) | np.isnan(y_n))
            x_n, y_n, label_n = x_n[scored_n], y_n[scored_n], a.label_N[pairs.a_n[scored_n]]
            yield {
                "score": f"{set_name}/{name}",
                "samples": len(x_n),
                "spearman": spearman(x_n, y_n),
                "equal": bool(np.array_equal(x_n, y_n)),
                "per_class": [
                    {"class": classes[label], "samples": count, "spearman": correlation}
                    for label, (count, correlation) in enumerate(spearman_by_class(x_n, y_n, label_n, len(classes)))
                    if count
                ],
            }


def spearman(x_N: Floats, y_N: Floats) -> float | None:
    """Return the Pearson correlation of the ranks, ties by mean rank; None for fewer than two or only equal values.

    Source: Spearman 1904.
    """
    if len(x_N) < 2:
        return None
    x_rank_N, y_rank_N = centred_ranks(x_N), centred_ranks(y_N)
    spread = np.sqrt((x_rank_N @ x_rank_N) * (y_rank_N @ y_rank_N))
    return float(np.clip((x_rank_N @ y_rank_N) / spread, -1, 1)) if spread > 0 else None


def centred_ranks(values_N: Floats) -> NDArray[np.float64]:
    """Return (N,) ranks, equal values sharing their mean rank, minus the mean of all."""
    order_N = np.argsort(values_N)
    sorted_N = values_N[order_N]
    first_G = np.flatnonzero(np.append(True, sorted_N[1:] != sorted_N[:-1])[: len(sorted_N)])
    count_G = np.diff(first_G, append=len(sorted_N))
    rank_G = first_G + (count_G - 1) / 2 - (len(values_N) - 1) / 2
    rank_N = np.empty(len(values_N))
    rank_N[order_N] = np.repeat(rank_G, count_G)
    return rank_N


def spearman_by_class(
    x_N: Floats, y_N: Floats, label_N: NDArray[np.int64], class_count: int
) -> list[tuple[int, float | None]]:
    """Return the sample count and rank correlation of every class."""
    order_N = np.argsort(label_N, kind="stable")
    ends = np.cumsum(np.bincount(label_N, minlength=class_count))
    per_class = np.split(order_N, ends[:-1])
    return [(len(rows), spearman(x_N[rows], y_N[rows])) for rows in per_class]


def _scores(side: Side, set_name: str, names: list[str]) -> Iterator[NDArray[np.float32]]:
    """Yield scores of a set in order, each (N,) by sample_id; nan where there is none."""
    for table in side.manifest.each_score(set_name, names):
        score_N = np.full(len(side), np.nan, np.float32)
        score_N[table.column("sample_id").to_numpy()] = table.column(1).to_numpy()
        del table
        yield score_N


def compare_selections(a: Side, b: Side, pairs: Pairs) -> Section:
    """Compare which samples both keep, or one alone, overall and by class; None unless both are selections."""
    if {a.manifest.kind, b.manifest.kind} != {"selection"}:
        return None
    keep_a, keep_b = (_kept(side) for side in (a, b))
    common_a, common_b = np.zeros(len(a), np.bool_), np.zeros(len(b), np.bool_)
    both_n = keep_a[pairs.a_n] & keep_b[pairs.b_n]
    common_a[pairs.a_n[both_n]] = common_b[pairs.b_n[both_n]] = True
    names = [*a.manifest.class_names, *sorted(set(b.manifest.class_names) - set(a.manifest.class_names))]
    b_in_union = labels_in(b.manifest.class_names, names)
    counts = {
        "a": np.bincount(a.label_N[keep_a], minlength=len(names)),
        "b": np.bincount(b_in_union[b.label_N[keep_b]], minlength=len(names)),
        "both": np.bincount(a.label_N[common_a], minlength=len(names)),
    }
    kept_a, kept_b, both = int(keep_a.sum()), int(keep_b.sum()), int(both_n.sum())
    either = kept_a + kept_b - both
    return {
        "kept": [kept_a, kept_b],
        "both": both,
        "jaccard": both / either if either else None,
        "only_a": _some(a, np.flatnonzero(keep_a & ~common_a)),
        "only_b": _some(b, np.flatnonzero(keep_b & ~common_b)),
        "per_class": [
            {"class": name, **{side: int(count_C[c]) for side, count_C in counts.items()}}
            for c, name in enumerate(names)
        ],
    }


def _kept(side: Side) -> NDArray[np.bool_]:
    return np.asarray(side.manifest.selection(["keep"]).column("keep").to_numpy(zero_copy_only=False))


def compare_settings(a: Manifest, b: Manifest) -> list[dict[str, Any]]:
    """Return the settings that differ, by path in the header, and formulas and views of scores with the same name.

    If different commands made the manifests, only the configuration that both have is compared.
    """
    blocks = [side.header.model_dump(mode="json", include=set(SETTINGS), exclude_none=True) for side in (a, b)]
    sides: list[dict[str, Any]] = [{}, {}]
    for name in SETTINGS:
        in_both = all(block.get(name) is not None for block in blocks)
        for side, block in zip(sides, blocks, strict=True):
            side.update(flat(name, block[name]) if in_both else {name: block.get(name)}.items())
    specs = [
        {f"{spec.set}/{spec.name}": spec.model_dump(mode="json") for spec in side.header.scores} for side in (a, b)
    ]
    for name in [name for name in specs[0] if name in specs[1]]:
        for side, of_side in zip(sides, specs, strict=True):
            side |= dict(flat(f"scores.{name}", of_side[name]))
    if a.header.config.get("command") != b.header.config.get("command"):
        both = sides[0].keys() & sides[1].keys()
        sides = [{key: side[key] for key in side if key in both or not key.startswith("config.")} for side in sides]
    return _differing(sides[0], sides[1])


def _who(manifest: Manifest) -> dict[str, str]:
    return {"path": manifest.where, "id": manifest.id, "kind": manifest.kind}


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"key": key, "a": a.get(key), "b": b.get(key)} for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)
    ]


def flat(prefix: str, content: Any) -> Iterator[tuple[str, Any]]:
    """Yield values of nested objects by their path, such as preprocessing.image_px."""
    if not isinstance(content, dict):
        yield prefix, content
        return
    for name, value in content.items():
        yield from flat(f"{prefix}.{name}" if prefix else name, value)


def _some(side: Side, ids: Ids) -> dict[str, Any]:
    """Return the number of samples, and the keys of the first few."""
    return {"count": len(ids), "first": side.keys(ids[:FIRST])}
