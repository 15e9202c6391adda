"""Plot a sweep's table: accuracy over keep, times and KD weight, and gains over random + KD; PNG and SVG."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from manifests.base.files import atomic_file
from prune_toolkit.sweep.grid import ALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
Lines = dict[str, list[Record]]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d1f", "#7f3c8d", "#56b4e9", "#e73f74", "#5f7f00", "#8a8a8a")
MARKERS = "sD^vP*X<>phd"
STYLES = ("-", "--", ":")
SPREAD = {"keep": 0.05, "kd_weight": 0.012}
"""Widths over which the arms at one place are spread, so that their bars can be distinguished."""
NAMES = {
    "keep": "share of the images kept",
    "training_s": "training, seconds",
    "total_s": "scoring, labelling and training, seconds",
}
"""Axis labels of the plots, by column: files plots/keep.png, ..."""
WITHIN = 4
"""The axis ends at this multiple of the median reach of an interval: one collapsed arm must not flatten all others."""
BETTER, WORSE, OPEN = "#0072b2", "#d55e00", "#6f6f6f"


def lines_of(records: Sequence[Record]) -> Lines:
    """Group rows by line: the arm, and the labels, loss, teacher and KD weight in which arms of one name differ."""
    lines: Lines = {}
    for record in records:
        lines.setdefault(_label(record, records), []).append(record)
    return {label: sorted(rows, key=lambda row: row["keep"]) for label, rows in lines.items()}


def _label(record: Record, records: Sequence[Record]) -> str:
    rows = [other for other in records if other["arm"] == record["arm"]]
    parts = [record["arm"]]
    for name in ("labels", "loss"):
        if len({row[name] for row in rows} - {"-"}) > 1:
            parts.append(record[name])
    if len({other["teacher"] for other in records}) > 1:
        parts.append(record["teacher"])
    row = record["row"]
    side_by_side = {
        other["row"].weight
        for other in rows
        if (other["row"].arm, other["teacher"], other["keep"]) == (row.arm, record["teacher"], record["keep"])
    }
    if len(side_by_side) > 1:
        parts.append(f"weight {row.weight}")
    return ", ".join(part for part in parts if part != "-")


def draw_plots(records: Sequence[Record], folder: Path, title: str) -> list[Path]:
    """Write every plot that the records allow, as PNG and SVG, and return the paths."""
    lines, paths = lines_of(records), list[Path]()
    for x, name in NAMES.items():
        known = {label: [row for row in rows if row[x] is not None] for label, rows in lines.items()}
        known = {label: rows for label, rows in known.items() if rows}
        if known:
            paths += _draw(known, x, name, folder / x.removesuffix("_s").replace("_", "-"), title)
    return paths


def draw_weights(records: Sequence[Record], folder: Path, title: str) -> list[Path]:
    """Plot accuracy over the KD weight, with a line per arm and keep; nothing if no line has two weights."""
    cells: dict[Any, list[Record]] = {}
    for record in records:
        if record["row"].weight is not None:
            cells.setdefault(record["row"].cell, []).append(record)
    cells = {cell: rows for cell, rows in cells.items() if len(rows) > 1}
    lines: Lines = {}
    for rows in cells.values():
        first = rows[0]
        same = [row for other in cells.values() for row in other[:1]]
        label = f"{_label(first, same)}, keep {first['keep']:g}" if first["arm"] != ALL else ALL
        lines[label] = sorted(rows, key=lambda row: row["kd_weight"])
    return _draw(lines, "kd_weight", "KD weight", folder / "kd-weight", title) if lines else []


@contextmanager
def drawn(path: Path, width_in: float, height_in: float) -> Iterator[tuple["Figure", list[Path]]]:
    """Yield a figure to draw on and a list; on exit, write PNG and SVG and add their paths to the list."""
    # The object interface: pyplot would choose a backend and keep the figure.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    written: list[Path] = []
    with rc_context({"svg.hashsalt": "prune-toolkit", "font.size": 10, "svg.fonttype": "path"}):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure, written
        for suffix, canvas, metadata in (
            (".png", FigureCanvasAgg, {"Software": None}),
            (".svg", FigureCanvasSVG, {"Date": None, "Creator": None}),
        ):
            target = path.with_name(path.name + suffix)
            with atomic_file(target) as stream:
                canvas(figure).print_figure(stream, format=suffix[1:], metadata=metadata, dpi=150)
            written.append(target)


def _draw(lines: Lines, x: str, name: str, path: Path, title: str) -> list[Path]:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    with drawn(path, 9.5, max(4.8, 1.4 + 0.26 * len(lines))) as (figure, written):
        axes = figure.add_subplot()
        # In the order of the right ends of the lines, top to bottom.
        in_order = sorted(lines, key=lambda label: -lines[label][-1]["mean"])
        style = {label: number for number, label in enumerate(lines)}
        for label in in_order:
            _draw_line(axes, label, lines[label], x, style[label], len(lines))
        if x in ("training_s", "total_s"):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        elif x == "keep":
            keeps = sorted({row["keep"] for rows in lines.values() for row in rows})
            axes.set_xticks(keeps, [f"{keep:g}" for keep in keeps])
        axes.set_xlabel(name)
        axes.set_ylabel("top-1, %")
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return written


def _draw_line(axes: "Axes", label: str, rows: Sequence[Record], x: str, number: int, count: int) -> None:
    """Draw one arm with its intervals; the first, random + KD, is the line to compare with."""
    at = [float(row[x]) for row in rows]
    if x in SPREAD:
        at = [place + SPREAD[x] * (number / max(1, count - 1) - 0.5) for place in at]
    mean = [row["mean"] for row in rows]
    half = [0.0 if row["high"] is None else row["high"] - row["mean"] for row in rows]
    style: dict[str, Any] = {"color": "black", "marker": "o", "linestyle": "-", "linewidth": 2.4, "zorder": 3}
    if number > 0:
        style = {
            "color": COLOURS[(number - 1) % len(COLOURS)],
            "marker": MARKERS[(number - 1) % len(MARKERS)],
            "linestyle": STYLES[(number - 1) // len(COLOURS) % len(STYLES)],
            "linewidth": 1.3,
            "zorder": 2,
        }
    style |= {"markersize": 5.5, "elinewidth": 0.9, "capsize": 2, "alpha": 0.9}
    axes.errorbar(at, mean, yerr=half if any(half) else None, label=label, **style)


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
