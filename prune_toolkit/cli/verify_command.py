"""`prune verify`."""

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manifests.base.progress import format_bytes
from manifests.errors import InputError, MismatchError, UsageError
from prune_toolkit.cli.copy_options import FLAGS, CheckOptions, check_options
from prune_toolkit.cli.options import (
    FOLDER,
    DataOptions,
    data_options,
    json_option,
    manifest_place,
    typed,
    workers_option,
)
from prune_toolkit.quotas.keep import parse_fraction
from trainer.cli.console import echo_json, echo_table

if TYPE_CHECKING:
    from manifests.copies.check import DataCheck
    from manifests.copies.data_report import DataReport
    from manifests.manifest import Manifest

SHOWN = 20
OF_DATA = (
    *FLAGS,
    *("allow_mismatch", "list_path", "split", "classes", "label"),
    *("configuration", "list_file", "file_column", "split_column", "unlabelled"),
)
_SPELLED = {"list_path": "list", "list_file": "image-list", "configuration": "config"}


@click.command(name="verify")
@click.argument("manifest", type=manifest_place, default="manifest")
@data_options
@check_options("hashes")
@click.option(
    "--allow-mismatch",
    metavar="F",
    help="Share of the samples that may be missing or differ, such as 0.001 or 0.1% [default: 0].",
)
@click.option(
    "--list", "list_path", type=FOLDER, metavar="FILE", help="Write everything that does not match to FILE, as CSV."
)
@workers_option
@json_option
def command(
    manifest: Path | str,
    images: DataOptions,
    check: CheckOptions,
    allow_mismatch: str | None,
    list_path: Path | None,
    workers: int,
    as_json: bool,
) -> None:
    """Check every file of MANIFEST: size, sha256, rows, and the contents of its beton. With --data, check images.

    A copy of the images, in any layout, is compared with the samples of MANIFEST. Exit code 4 means that too much is
    missing or differs; additional images are reported, but are not a mismatch.

    \b
    prune verify selection
    prune verify manifest --data photos --check sizes
    prune verify manifest --data smaller-photos --pixels
    """
    from manifests.base.reports import check_report
    from manifests.copies.data_report import LIST_SCHEMA
    from manifests.manifest import Manifest
    from prune_toolkit.api.verify_and_diff import verify_copy

    data = images.spec()
    if data is None:
        for name in (name for name in OF_DATA if name in typed()):
            flag = _SPELLED.get(name, name).replace("_", "-")
            raise UsageError(f"--{flag} needs --data: it is about images", hint="give --data DIR")
        _verify_files(manifest, as_json)
        return
    if list_path is not None and list_path.is_dir():
        raise UsageError(f"--list {list_path} is a folder", hint="name a file in it")
    if list_path is not None:
        check_report(list_path, LIST_SCHEMA.names)
    allowed, how, opened = _allowed(allow_mismatch), check.data_check(workers), Manifest.open(manifest)
    report = verify_copy(opened, data, how)
    ok = report.unmatched == 0 or Fraction(report.unmatched, report.checked) <= allowed
    if list_path is not None:
        report.write_list(list_path)
    if as_json:
        echo_json({"ok": ok, **report.as_json()})
    else:
        _echo_report(report, opened.where, data.data)
    if not ok:
        raise MismatchError(
            f"{data.data} does not match {opened.where}: {report.unmatched:,} of {report.checked:,} samples",
            hint=_next_steps(report, opened, how, is_listed=list_path is not None),
        )


def _verify_files(manifest: Path | str, as_json: bool) -> None:
    from manifests.integrity import verify
    from manifests.stores.store import without_password

    report, where = verify(manifest), without_password(str(manifest))
    if as_json:
        echo_json(report.as_json())
    elif report.ok:
        absent = f"; not here: {', '.join(report.absent)}" if report.absent else ""
        click.echo(
            f"{where}/ is intact: {report.files} files, {format_bytes(report.bytes)}, "
            f"id {report.manifest_id[:12]}{absent}"
        )
    else:
        echo_table([(f.path, f.problem) for f in report.findings[:SHOWN]], ("file", "problem"))
    if not report.ok:
        raise InputError(
            f"{where} is damaged: {len(report.findings)} problem(s)",
            hint="fetch or make the manifest again; nothing was changed",
        )


def _allowed(text: str | None) -> Fraction:
    """Return the share of --allow-mismatch; UsageError unless 0 <= share <= 1."""
    share = Fraction(0) if text is None else parse_fraction(text)
    if share is None or not 0 <= share <= 1:
        raise UsageError(
            f"--allow-mismatch {text!r} is not a share from 0 to 1", hint="for example 0.001, 1/1000 or 0.1%"
        )
    return share


def _next_steps(report: "DataReport", manifest: "Manifest", check: "DataCheck", *, is_listed: bool) -> str:
    """Return what to do about a mismatch; the share is the smallest, in hundredths of a percent, that passes.

    If most of the data does not match, no share is suggested: it is hardly what was scored.
    """
    from prune_toolkit.images.scored_thumbnails import thumbnails_at_hand

    hundredths = -(-10_000 * report.unmatched // report.checked)
    steps = [] if is_listed else ["list them: --list FILE"]
    is_mostly_other = 2 * (report.counts["another size"] + report.counts["other content"]) > report.checked
    if is_mostly_other and thumbnails_at_hand(manifest, check.workers) is not None:
        steps.append("if they were re-encoded: --pixels")
    if 2 * report.unmatched <= report.checked:
        steps.append(f"accept this many: --allow-mismatch {hundredths / 100:g}%")
    return "     ".join(steps) or "check that this is the data set and the split that was scored"


def _echo_report(report: "DataReport", manifest: str, data: str) -> None:
    matched = report.checked - report.unmatched
    click.echo(
        f"{data} against {manifest}, by {report.level}: {matched:,} of {report.checked:,} samples match "
        f"({100 * report.match_rate:.2f} %)"
    )
    found = ", ".join(f"{count:,} by {stage}" for stage, count in report.matched_by.items() if count)
    click.echo(f"found: {found or 'none'}")
    if report.ambiguous:
        click.echo(f"of the missing, {report.ambiguous:,} have a file name that is not unique within their class")
    if len(difference_n := report.pixel_difference_n):
        click.echo(
            f"re-encoded: {len(difference_n):,}, which differ by {difference_n.mean():.2f} grey levels on "
            f"average, {difference_n.max():.2f} at most"
        )
    rows: list[tuple[str, ...]] = [
        (what, f"{count:,}", ", ".join(report.first(what))) for what, count in report.told.items()
    ]
    if rows:
        echo_table(rows, ("what", "images", "first"))
