"""The main plot of a sweep: the gain of each arm over random + KD at each keep, with its interval."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

from prune_toolkit.sweep.plots import Lines, Record, drawn, lines_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WITHIN = 4
"""The axis ends at this multiple of the median reach of an interval: one collapsed arm must not flatten all others."""
BETTER, WORSE, OPEN = "#0072b2", "#d55e00", "#6f6f6f"


def draw_differences(records: Sequence[Record], folder: Path, title: str) -> list[Path]:
    """Write difference.png and .svg, with one panel per keep; nothing if no row has a difference."""
    lines = {
        label: compared
        for label, rows in lines_of(records).items()
        if (compared := [row for row in rows if row["difference"] is not None])
    }
    if not lines:
        return []
    in_order = sorted(lines, key=lambda label: fmean(row["difference"] for row in lines[label]))
    keeps = sorted({row["keep"] for rows in lines.values() for row in rows})
    end = WITHIN * median(_reach(row) for rows in lines.values() for row in rows) or 1.0
    with drawn(folder / "difference", 3.0 + 2.6 * len(keeps), 1.5 + 0.3 * len(lines)) as (figure, written):
        panels = figure.subplots(1, len(keeps), sharey=True, squeeze=False)[0]
        for axes, keep in zip(panels, keeps, strict=True):
            _draw_keep(axes, in_order, lines, keep, end)
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        figure.supxlabel("top-1 minus that of random + KD, points; paired by seed, bars: 95 % interval", fontsize=10)
    return written


def _reach(row: Record) -> float:
    names = ("difference", "difference_low", "difference_high")
    return max(abs(float(row[name])) for name in names if row[name] is not None)


def _draw_keep(axes: "Axes", in_order: Sequence[str], lines: Lines, keep: float, end: float) -> None:
    axes.axvline(0, color="black", linewidth=1.2)
    for place, label in enumerate(in_order):
        for row in lines[label]:
            if row["keep"] != keep:
                continue
            gain, low, high = row["difference"], row["difference_low"], row["difference_high"]
            colour = OPEN if low is None or low <= 0 <= high else BETTER if gain > 0 else WORSE
            if abs(gain) > end:
                side = 1 if gain > 0 else -1
                axes.plot(side * end, place, marker=">" if side > 0 else "<", color=colour, clip_on=False)
                align = "right" if side > 0 else "left"
                axes.text(side * 0.93 * end, place, f"{gain:+.1f}", color=colour, ha=align, va="center", fontsize=9)
                continue
            if low is not None:
                axes.plot([max(low, -end), min(high, end)], [place, place], color=colour, linewidth=1.4)
            axes.plot(gain, place, marker="o", color=colour, markersize=5)
    axes.set_xlim(-end, end)
    axes.set_yticks(range(len(in_order)), in_order)
    axes.set_title(f"keep {keep:g}", fontsize=10)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
