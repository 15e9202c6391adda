"""A window of difficulties at a given position in each class, or where a proxy learns most."""

from dataclasses import replace
from fractions import Fraction

from manifests.base.progress import note
from manifests.errors import UsageError
from prune_toolkit.quotas.keep import parse_fraction
from prune_toolkit.selection.pool import Choice, Groups, Pool, keep_ranks, window_start
from prune_toolkit.selection.proxy import GRID, try_windows
from prune_toolkit.selection.selector import Parameter, Values, selector

AUTO = "auto"


def _parse_position(text: str) -> Fraction | str:
    if text == AUTO:
        return text
    position = parse_fraction(text)
    if position is None or position > 1:
        raise UsageError(
            f"position is {text!r}: it must be between 0 and 1, or auto",
            hint="0 keeps the easiest, 1/2 the middle, 1 the hardest samples",
        )
    return position


@selector(
    "window",
    formula="per class the K_c ranks from floor(p * (n_c - K_c)), easy to hard",
    source="window of BWS, ICML 2024; position auto: of 0, .1, .. 1 the one from which a ridge regression learns"
    " most, judged on a tenth that no window contains",
    score="loss",
    parameters={
        "position": Parameter(
            default="1/2",
            help="0 keeps the easiest, 1/2 the middle, 1 the hardest samples; auto: the best by a proxy",
            parse=_parse_position,
        )
    },
)
def window(pool: Pool, groups: Groups, seed: int, parameters: Values) -> Choice:
    """Keep consecutive ranks at a position between the easiest and the hardest of a class."""
    position: Fraction | str = parameters["position"]
    found: dict[str, str] = {}
    if isinstance(position, str):
        proxy = try_windows(pool, groups)
        position = proxy.position
        tried = ", ".join(f"{float(at):g}: {100 * top1:.2f} %" for at, top1 in zip(GRID, proxy.top1, strict=True))
        found = {
            "position": str(position),
            "position_by": f"auto, ridge regression from {proxy.vectors}",
            "proxy_top1": f"({tried})",
        }
        if len(set(proxy.top1)) == 1:
            note(f"position auto: from {proxy.vectors} the proxy learns equally well in every window; using 1/2")
    choice = keep_ranks(pool, groups, window_start(position, groups.size_G, groups.keep_G))
    return replace(choice, found=found)
