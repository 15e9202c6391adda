"""`prune show`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.base.progress import format_bytes, format_seconds, one_line
from prune_toolkit.cli.options import json_option, manifest_place, timeout_option
from trainer.cli.console import echo_json, echo_table

if TYPE_CHECKING:
    from manifests.format.header import DataReading, Views
    from manifests.manifest import Manifest


@click.command(name="show")
@click.argument("manifest", type=manifest_place, default="manifest")
@timeout_option
@json_option
def command(manifest: Path | str, as_json: bool) -> None:
    """Describe MANIFEST: data, teacher, views, scores, selection, labels, files, and the time they took.

    \b
    prune show selection
    """
    from manifests.manifest import Manifest
    from trainer.loop.label_times import label_times

    opened = Manifest.open(manifest)
    if as_json:
        echo_json(
            {
                "id": opened.id,
                "path": opened.where,
                **opened.header.model_dump(mode="json", exclude_none=True),
                "bytes_per_sample_and_view": _bytes_per_vector(opened),
                "times": label_times(opened.header),
            }
        )
        return
    for title, value in _facts(opened):
        click.echo(f"{title:<10} {one_line(value)}")
    if opened.header.scores and "scores" not in opened.not_pulled:
        click.echo()
        _echo_scores(opened)
    if opened.kind == "selection":
        click.echo()
        _echo_classes(opened)


def _reading_text(reading: "DataReading") -> str:
    parts = [f"classes: {reading.labels}"]
    if reading.split_found is not None:
        others = f", beside {', '.join(reading.other_splits)}" if reading.other_splits else ""
        parts.append(f"split: {reading.split_found}{others}")
    if reading.images is not None:
        parts.append(f"images: {reading.images}")
    parts += [f"left out: {kind}: {count:,}" for kind, count in reading.left_out.items()]
    parts += [f"warning: {line}" for line in reading.warnings]
    return "; ".join(parts)


def _facts(manifest: "Manifest") -> list[tuple[str, str]]:
    from manifests.card.readme import has_particular_parameters, selection_lines, targets_text
    from trainer.loop.label_times import label_times

    header, data = manifest.header, manifest.header.data
    redistributable = {True: "; images may be redistributed", False: "; images must not be redistributed", None: ""}
    facts = [
        (header.kind, f"{manifest.where}  id {manifest.id[:16]}"),
        (
            "data",
            f"{data.name} ({data.source}{', ' + data.split if data.split else ''}): {data.readable:,} readable of "
            f"{data.count:,} samples, {data.classes_text}, fingerprint {data.fingerprint[:16]}",
        ),
        *([] if data.read_as is None else [("read as", _reading_text(data.read_as))]),
        ("licence", f"{data.licence or 'not stated'}{redistributable[data.redistributable]}"),
    ]
    if (teacher := header.teacher) is not None:
        val = "" if teacher.val_top1 is None else f", {100 * teacher.val_top1:.2f} % on validation"
        shown = teacher.preprocessing
        facts += [
            (
                "teacher",
                f"{teacher.spec}, {teacher.parameters:,} parameters, {teacher.top1_text}{val}{teacher.ece_text}",
            ),
            (
                "shown",
                f"shorter side to {shown.resize_px} px ({shown.interpolation}), "
                f"centre {shown.image_px}x{shown.image_px}",
            ),
        ]
    if header.views is not None:
        facts += [("views", _views_text(header.views))]
    if (chosen := header.selection) is not None:
        listed = {} if has_particular_parameters(header) else chosen.parameters
        parameters = "".join(f", {name} {value}" for name, value in listed.items())
        by = "" if chosen.score is None else f" over {chosen.score}"
        facts += [
            (
                "kept",
                f"{chosen.count:,} samples ({100 * chosen.keep_got:.2f} %, asked for {chosen.keep_asked}) by "
                f"{chosen.method}{by}{parameters}, quota {chosen.quota}, seed {chosen.seed}",
            ),
            *(("", line) for line in selection_lines(header)),
        ]
    size_of = _bytes_per_vector(manifest)
    if "logits" in size_of:
        facts += [("logits", f"{format_bytes(size_of['logits'])} per sample and view")]
    if header.features is not None:
        each = f", {format_bytes(size_of['features'])} per sample" if "features" in size_of else ""
        facts += [("features", f"{header.features.width} wide, the input of layer {header.features.layer}{each}")]
    if recorded := _dynamics_text(manifest):
        facts += [("dynamics", recorded)]
    if header.labels is not None:
        each = "per sample and view" if header.labels.views > 1 else "per sample"
        stored = f", {format_bytes(size_of['targets'])} {each}" if "targets" in size_of else ""
        facts += [("targets", f"{targets_text(header)}{stored}")]
    whats = (("not pulled", manifest.not_pulled), ("left out", header.left_out or ()))
    absent = "".join(f"; {what}: {', '.join(sorted(kinds))}" for what, kinds in whats if kinds)
    times = label_times(header)
    took = [f"{name.removesuffix('_s')} {format_seconds(seconds)}" for name, seconds in times.items() if seconds]
    facts += [
        ("files", f"{len(header.files)}, {format_bytes(sum(entry.bytes for entry in header.files))}{absent}"),
        *([("took", ", ".join(took))] if took else []),
        ("made by", f"{header.tool.name} {header.tool.version}, schema {header.schema_version}"),
        *(("parent", parent[:16]) for parent in header.parents),
    ]
    return facts


def _views_text(views: "Views") -> str:
    kept = "" if views.top_k is None else f", top-{views.top_k} logits of each"
    if views.recipe == "eval":
        return f"1, the evaluation view{kept}"
    extra = views.model_extra or {}
    how = {
        "pad_crop_flip": f"padded by {extra.get('pad_px')} px",
        "resized_crop_flip": f"areas from {extra.get('scale_min')}",
    }.get(views.recipe, f"version {views.version}")
    mirrored = "" if extra.get("flip", True) else ", not mirrored"
    drawn = f"{views.recipe} ({how}{mirrored})"
    if views.count == 1:
        return f"1, the evaluation view{kept}; others are drawn by {drawn}"
    return f"{views.count}: the evaluation view and {drawn}, seed {views.seed}{kept}"


def _dynamics_text(manifest: "Manifest") -> str:
    """Return the runs whose dynamics were scored; "" if there are none or a later version wrote them differently."""
    runs = manifest.header.config.get("dynamics")
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        return ""
    return "; ".join(
        f"{run.get('epochs')} epochs of {run.get('student')}, seed {run.get('seed')}, early scores at "
        f"epoch {run.get('early_epoch')}"
        for run in runs
    )


def _bytes_per_vector(manifest: "Manifest") -> dict[str, float]:
    """Return the bytes on disk of logits, features and targets, per sample and view."""
    sizes = {}
    for kind in ("logits", "features", "targets"):
        entries = [entry for entry in manifest.header.files if entry.path.startswith(f"{kind}/view-")]
        if rows := sum(entry.rows for entry in entries):
            sizes[kind] = round(sum(entry.bytes for entry in entries) / rows, 2)
    return sizes


def _echo_scores(manifest: "Manifest") -> None:
    """Print the distribution of every score: quartiles, and which end is harder."""
    import numpy as np

    rows: list[tuple[str, ...]] = []
    for set_name in dict.fromkeys(spec.set for spec in manifest.header.scores):
        table = manifest.scores(set_name)
        for spec in manifest.header.scores:
            if spec.set == set_name:
                values = table.column(spec.name).to_numpy()
                values = values[np.isfinite(values)]
                quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]) if len(values) else ()
                cells = [f"{value:.4g}" for value in quantiles] or ["-"] * 5
                rows.append((f"{set_name}/{spec.name}", spec.harder, *cells))
    echo_table(rows, ("score", "harder", "min", "25 %", "median", "75 %", "max"))


def _echo_classes(manifest: "Manifest") -> None:
    """Print how many samples were kept or dropped for which reason."""
    counted = manifest.selection(["reason"]).column("reason").value_counts().to_pylist()
    reasons: Counter[Any] = Counter({each["values"]: each["counts"] for each in counted})
    echo_table([(str(reason), f"{count:,}") for reason, count in reasons.most_common()], ("reason", "samples"))
