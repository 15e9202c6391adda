"""Pictures of the distributions of scores, as SVG beside the card; equal manifests give equal bytes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifests.manifest import Manifest
from manifests.stores.destinations import FolderDestination
from manifests.stores.store import LocalStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from manifests.format.header import ScoreSpec

COLUMNS, BINS = 3, 40
COLOUR, KEPT_COLOUR = "#8a8a8a", "#0072b2"
"""Colours of all samples, and of those that a selection keeps."""


def draw_scores(manifest: Manifest, folder: Path) -> list[str]:
    """Draw one picture per set of scores, `card/SET.svg` in `folder`; return their paths in it.

    Raises InputError if a link would lead one of them elsewhere.
    """
    paths, target = picture_paths(manifest), FolderDestination(LocalStore(folder))
    for set_name, path in paths.items():
        specs = [spec for spec in manifest.header.scores if spec.set == set_name]
        with target.writer(path) as stream:
            _draw(manifest, specs, set_name, stream)
    return list(paths.values())


def picture_paths(manifest: Manifest) -> dict[str, str]:
    """Return the path in the manifest of the picture of each set of scores, drawn or not."""
    paths = {}
    for number, set_name in enumerate(dict.fromkeys(spec.set for spec in manifest.header.scores)):
        if manifest.has(f"scores/{set_name}"):
            # A name from a header may not be a valid file name.
            safe = re.sub(r"[^A-Za-z0-9_-]", "_", set_name)[:64]
            paths[set_name] = f"card/{safe}.svg" if safe == set_name else f"card/{safe}-{number}.svg"
    return paths


@contextmanager
def svg_figure(width_in: float, height_in: float, stream: IO[bytes]) -> "Iterator[Figure]":
    """Give a figure to draw on, and write it as SVG; the same figure gives the same bytes."""
    # The object interface: pyplot would choose a backend, and keep the figure.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Text as paths: SVG without a script or a font of its own, and no text of the manifest is markup or mathematics.
    with rc_context(
        {"svg.hashsalt": "prune-toolkit", "svg.fonttype": "path", "text.parse_math": False, "font.size": 9}
    ):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure
        FigureCanvasSVG(figure).print_figure(stream, format="svg", metadata={"Date": None, "Creator": None})


def _draw(manifest: Manifest, specs: "list[ScoreSpec]", set_name: str, stream: IO[bytes]) -> None:
    table = manifest.scores(set_name)
    kept_N = _kept(manifest, table.column("sample_id").to_numpy())
    rows = -(-len(specs) // COLUMNS)
    with svg_figure(9.5, 0.4 + 1.9 * rows, stream) as figure:
        for position, spec in enumerate(specs):
            axes = figure.add_subplot(rows, COLUMNS, position + 1)
            _histogram(axes, table.column(spec.name).to_numpy(), kept_N)
            name = "".join(c if c.isprintable() else "?" for c in spec.name)[:40]
            axes.set_title(f"{name} ({spec.harder} is harder)", fontsize=9, loc="left")


def _kept(manifest: Manifest, ids: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """Return (n,) which of the scored samples a selection keeps; None if nothing was selected."""
    if manifest.kind != "selection" or not manifest.has("selection"):
        return None
    keep_N: NDArray[np.bool_] = manifest.selection(["keep"]).column("keep").to_numpy(zero_copy_only=False)
    return keep_N[ids]


def _histogram(axes: "Axes", value_N: NDArray[Any], kept_N: NDArray[np.bool_] | None) -> None:
    finite_N = np.isfinite(value_N)
    value_N = value_N[finite_N].astype(np.float64)
    if len(value_N):
        # The outermost thousandth on either side is counted in the last bar: a few outliers would flatten the rest.
        low, high = np.quantile(value_N, [0.001, 0.999])
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
        shown = [(value_N, COLOUR)] + ([] if kept_N is None else [(value_N[kept_N[finite_N]], KEPT_COLOUR)])
        for values, colour in shown:
            counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
            axes.stairs(counts, edges, fill=True, color=colour)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
