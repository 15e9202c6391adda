"""A picture of the search of a selector's mode and sharpness, as SVG beside the card; equal searches, equal bytes."""

from pathlib import Path
from typing import TYPE_CHECKING

from manifests.card.score_plots import COLOUR, KEPT_COLOUR, svg_figure
from manifests.card.text import SEARCH_PICTURE
from manifests.manifest import Manifest
from manifests.stores.destinations import FolderDestination
from manifests.stores.store import LocalStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from manifests.format.header import Search, Tried

MOST_TRIED = 1000


def search_of(manifest: Manifest) -> "Search | None":
    """Return the search of a selection, None if there is none, or none that a picture can show."""
    chosen = manifest.header.selection
    if chosen is None or chosen.search is None or not 0 < len(chosen.search.tried) <= MOST_TRIED:
        return None
    return chosen.search if all(one.loss for one in chosen.search.tried) else None


def draw_search(manifest: Manifest, folder: Path) -> list[str]:
    """Draw the loss over the modes and over the sharpnesses into `folder`; return the picture's path, if any."""
    search = search_of(manifest)
    if search is None:
        return []
    with FolderDestination(LocalStore(folder)).writer(SEARCH_PICTURE) as stream, svg_figure(9.5, 2.8, stream) as figure:
        best = min(search.tried, key=lambda one: sum(one.loss) / len(one.loss))
        flat = [one for one in search.tried if not one.sharpness]
        first, second = figure.subplots(1, 2, sharey=True)
        for sharpness in sorted({one.sharpness for one in search.tried if one.sharpness}):
            of_it = [one for one in search.tried if one.sharpness == sharpness]
            if len(of_it) > 1:
                _curve(first, [(one.mode, one) for one in of_it], f"sharpness {sharpness:g}")
        _curve(second, [(one.sharpness, one) for one in search.tried if one.mode == best.mode], f"mode {best.mode:g}")
        for axes, name in ((first, "mode (0 easy, 1 hard)"), (second, "sharpness")):
            if flat:
                axes.axhline(sum(flat[0].loss) / len(flat[0].loss), color=COLOUR, linestyle=":", label="random draw")
            axes.set_xlabel(name)
            axes.legend(fontsize=8, frameon=False)
            axes.spines[["top", "right"]].set_visible(False)
        second.set_xscale("symlog", linthresh=1)
        first.set_ylabel("held-out loss, nats")
    return [SEARCH_PICTURE]


def _curve(axes: "Axes", points: "list[tuple[float, Tried]]", label: str) -> None:
    points = sorted(points, key=lambda point: point[0])
    mean = [sum(one.loss) / len(one.loss) for _, one in points]
    low, high = [min(one.loss) for _, one in points], [max(one.loss) for _, one in points]
    at = [place for place, _ in points]
    (line,) = axes.plot(at, mean, marker="o", markersize=3, label=label)
    axes.fill_between(at, low, high, alpha=0.15, color=line.get_color() or KEPT_COLOUR)
