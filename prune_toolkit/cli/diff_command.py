"""`prune diff`."""

import json
from pathlib import Path
from typing import Any

import click

from manifests.base.progress import one_line
from prune_toolkit.cli.options import json_option, manifest_place, secret_option, timeout_option
from trainer.cli.console import echo_json

SHOWN = 5
"""Number of classes, settings and samples printed per kind; --json has all but the samples."""
FOUND_BY = {
    "key": "",
    "content hash": ", matched by content: they have no key in common",
    "content hash, then row number": ", matched by content, then by row number",
}
WIDEST = 48
"""Largest number of characters printed of a setting."""


@click.command(name="diff")
@click.argument("a", type=manifest_place)
@click.argument("b", type=manifest_place)
@secret_option
@timeout_option
@json_option
def command(a: Path | str, b: Path | str, secret: Path | None, as_json: bool) -> None:
    """Print what differs between two manifests of any kind: data, teacher, scores, selections, labels, settings.

    Samples are matched by key, or by content if no key is in common or keys are row numbers.

    \b
    prune diff manifest ../theirs/manifest
    prune diff selection s3://bucket/selection
    prune diff manifest s3://bucket/hidden --secret secret.txt
    """
    from prune_toolkit.api.verify_and_diff import diff

    report = diff(a, b, secret=secret)
    if as_json:
        echo_json(report)
        return
    for side in ("a", "b"):
        who = report[side]
        click.echo(f"{side.upper():<10} {who['path']}  {who['kind']}, id {who['id'][:16]}")
    if report["same"]:
        click.echo("equal ids: nothing differs")
        return
    for name, title, lines_of in (
        ("data", "data", _data),
        ("teacher", "teacher", _teacher),
        ("scores", "scores", _scores),
        ("selections", "kept", _selections),
        ("labels", "labels", _labels),
        ("settings", "settings", _settings),
    ):
        for number, line in enumerate([] if report[name] is None else lines_of(report[name])):
            click.echo(f"{'' if number else title:<10} {one_line(line)}")


def _data(data: dict[str, Any]) -> list[str]:
    by = FOUND_BY[data["joined_by"]] if data["common"] else ""
    lines = [f"{data['common']:,} samples in common of {data['samples'][0]:,} and {data['samples'][1]:,}{by}"]
    if data["hidden"]:
        return [*lines, data["hidden"]]
    if data["same"]:
        lines = [f"the same: {data['samples'][0]:,} samples, fingerprint {data['fingerprint'][0][:16]}"]
    for name, what in (
        ("only_a", "only in A"),
        ("only_b", "only in B"),
        ("another_label", "with a different label"),
        ("another_content", "with different content"),
    ):
        lines += _some(data[name], what)
    classes = data["classes"]
    for name, side in (("only_a", "A"), ("only_b", "B")):
        if found := classes[name]:
            lines.append(f"{len(found):,} classes only in {side}: {_few(found)}")
    if not classes["same_order"] and not classes["only_a"] and not classes["only_b"]:
        lines.append("the same classes in a different order")
    return lines


def _teacher(teacher: dict[str, Any]) -> list[str]:
    specs = [spec or "none" for spec in teacher["spec"]]
    top1 = ["" if value is None else f" ({100 * value:.2f} % on its images)" for value in teacher["train_top1"]]
    if not teacher["differing"]:
        return [f"the same: {specs[0]}{top1[0]}"]
    same = "the same weights" if teacher["same"] else "different weights"
    return [
        f"{specs[0]}{top1[0]} and {specs[1]}{top1[1]}: {same}",
        *(_both(one) for one in teacher["differing"] if one["key"] not in ("spec", "train_top1", "weights_sha256")),
    ]


def _scores(scores: dict[str, Any]) -> list[str]:
    lines = []
    for score in scores["common"]:
        count = f"{score['samples']:,} samples"
        if not score["samples"]:
            continue
        if score["equal"]:
            text = f"equal on {count}"
        elif score["spearman"] is None:
            text = f"not ranked, one side has the same value for all {count}"
        else:
            ranked = [entry for entry in score["per_class"] if entry["spearman"] is not None]
            lowest = sorted(ranked, key=lambda entry: entry["spearman"])[:SHOWN]
            classes = ", ".join(f"{entry['class']} {entry['spearman']:.3f}" for entry in lowest)
            text = f"Spearman {score['spearman']:.4f} on {count}{'; lowest by class: ' + classes if classes else ''}"
        lines.append(f"{score['score']}: {text}")
    for name, side in (("only_a", "A"), ("only_b", "B")):
        if scores[name]:
            lines.append(f"only in {side}: {', '.join(scores[name])}")
    return lines


def _selections(kept: dict[str, Any]) -> list[str]:
    lines = [
        f"{kept['kept'][0]:,} and {kept['kept'][1]:,}, both keep {kept['both']:,}: Jaccard {_number(kept['jaccard'])}"
    ]
    for name, side in (("only_a", "A"), ("only_b", "B")):
        lines += _some(kept[name], f"kept only in {side}")
    changed = [entry for entry in kept["per_class"] if entry["both"] < max(entry["a"], entry["b"])]
    changed.sort(key=lambda entry: entry["both"] - max(entry["a"], entry["b"]))
    if changed:
        most = ", ".join(
            f"{one['class']} {one['a']:,} and {one['b']:,}, both {one['both']:,}" for one in changed[:SHOWN]
        )
        lines.append(f"{len(changed):,} of {len(kept['per_class']):,} classes differ, most: {most}")
    return lines


def _labels(labels: dict[str, Any]) -> list[str]:
    if labels["why"]:
        return [f"not compared: {labels['why']}"]
    lines = [
        f"{view['table']}: KL(A||B) {_number(view['kl_a_b'])}, KL(B||A) {_number(view['kl_b_a'])} nats, mean over "
        f"{view['samples']:,} samples"
        + (f"; {view['not_finite']:,} with labels that are not finite are left out" if "not_finite" in view else "")
        for view in labels["views"]
        if view["samples"] or "not_finite" in view
    ]
    return lines if labels["same_crops"] or not lines else [*lines, "views from 1 on have different crops"]


def _settings(settings: list[dict[str, Any]]) -> list[str]:
    lines = [_both(one) for one in settings[: 4 * SHOWN]]
    left = len(settings) - len(lines)
    return [*lines, f"and {left:,} more: --json"] if left else lines or ["the same"]


def _some(found: dict[str, Any], what: str) -> list[str]:
    return [f"{found['count']:,} {what}: {_few(found['first'], found['count'])}"] if found["count"] else []


def _few(names: list[str], count: int | None = None) -> str:
    left = (len(names) if count is None else count) - len(names[:SHOWN])
    return ", ".join(names[:SHOWN]) + (", ..." if left else "")


def _both(one: dict[str, Any]) -> str:
    return f"{one['key']}: {_short(one['a'])} and {_short(one['b'])}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"
