"""`prune show`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prune_toolkit.commands.options import FOLDER, json_option

if TYPE_CHECKING:
    from manifests.manifest import Manifest


@click.command(name="show")
@click.argument("manifest", type=FOLDER, default="manifest")
@json_option
def command(manifest: Path, as_json: bool) -> None:
    """Say what MANIFEST is: data, teacher, scores, selection, labels, files.

    \b
    prune show selection
    """
    from manifests.console import echo_json
    from manifests.manifest import Manifest

    opened = Manifest.open(manifest)
    if as_json:
        echo_json({"id": opened.id, "path": str(manifest), **opened.header.model_dump(mode="json", exclude_none=True)})
        return
    for title, value in _facts(opened):
        click.echo(f"{title:<10} {value}")
    if opened.header.scores:
        click.echo()
        _echo_scores(opened)
    if opened.kind == "selection":
        click.echo()
        _echo_classes(opened)


def _facts(manifest: "Manifest") -> list[tuple[str, str]]:
    from manifests.console import format_bytes

    header, data = manifest.header, manifest.header.data
    size_bytes = sum(entry.bytes for entry in header.files)
    facts = [
        (header.kind, f"{manifest.path}  id {manifest.id[:16]}"),
        (
            "data",
            f"{data.name} ({data.source}{', ' + data.split if data.split else ''}): {data.readable:,} readable of "
            f"{data.count:,} samples, {len(data.class_names)} classes, fingerprint {data.fingerprint[:16]}",
        ),
        ("licence", data.licence or "not stated"),
    ]
    if (teacher := header.teacher) is not None:
        val = "" if teacher.val_top1 is None else f", {100 * teacher.val_top1:.2f} % on validation"
        shown = teacher.preprocessing
        facts += [
            (
                "teacher",
                f"{teacher.spec}, {teacher.parameters:,} parameters, top-1 {100 * teacher.train_top1:.2f} % on these "
                f"images{val}, ECE {teacher.train_ece:.4f}",
            ),
            (
                "shown",
                f"shorter side to {shown.resize_px} px ({shown.interpolation}), "
                f"centre {shown.image_px}x{shown.image_px}",
            ),
        ]
    if (chosen := header.selection) is not None:
        parameters = "".join(f", {name} {value}" for name, value in chosen.parameters.items())
        by = "" if chosen.score is None else f" over {chosen.score}"
        facts += [
            (
                "kept",
                f"{chosen.count:,} samples ({100 * chosen.keep_got:.2f} %, asked {chosen.keep_asked}) by "
                f"{chosen.method}{by}{parameters}, quota {chosen.quota}, seed {chosen.seed}",
            )
        ]
    if (labels := header.labels) is not None:
        facts += [("targets", f"{labels.transform}, {labels.views} view(s)")]
    facts += [
        ("files", f"{len(header.files)}, {format_bytes(size_bytes)}"),
        ("made by", f"{header.tool.name} {header.tool.version}, schema {header.schema_version}"),
    ]
    for parent in header.parents:
        facts.append(("parent", parent[:16]))
    return facts


def _echo_scores(manifest: "Manifest") -> None:
    """Distribution of every score: quartiles and which end is harder."""
    import numpy as np

    from manifests.console import echo_table

    rows: list[tuple[str, ...]] = []
    for set_name in dict.fromkeys(spec.set for spec in manifest.header.scores):
        table = manifest.scores(set_name)
        for spec in manifest.header.scores:
            if spec.set == set_name:
                values = table.column(spec.name).to_numpy()
                quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
                rows.append((f"{set_name}/{spec.name}", spec.harder, *(f"{value:.4g}" for value in quantiles)))
    echo_table(rows, ("score", "harder", "min", "25 %", "median", "75 %", "max"))


def _echo_classes(manifest: "Manifest") -> None:
    """Why samples were kept or dropped."""
    from collections import Counter

    from manifests.console import echo_table

    reasons: Counter[Any] = Counter(manifest.selection().column("reason").to_pylist())
    echo_table([(str(reason), f"{count:,}") for reason, count in reasons.most_common()], ("reason", "samples"))
