"""A draw that prefers one difficulty, as gently or sharply as wanted: by a Beta density over percentile ranks."""

import math

from manifests.errors import UsageError
from prune_toolkit.quotas.keep import parse_fraction
from prune_toolkit.selection.beta_search import AUTO, search
from prune_toolkit.selection.beta_weights import draw_order, log_weights, percentiles
from prune_toolkit.selection.pool import NOT_DRAWN, Choice, Groups, Pool, keep_first
from prune_toolkit.selection.selector import Parameter, Values, selector

MAX_SHARPNESS = 1_000_000.0


def _parse_mode(text: str) -> float | str:
    if text == AUTO:
        return text
    mode = parse_fraction(text)
    if mode is None or mode > 1:
        raise UsageError(
            f"mode is {text!r}: it must be between 0 and 1, or auto",
            hint="0 prefers the easiest, 0.5 the middle, 1 the hardest samples of each class",
        )
    return float(mode)


def _parse_sharpness(text: str) -> float | str:
    if text == AUTO:
        return text
    try:
        sharpness = float(text)
    except ValueError:
        sharpness = math.nan
    if not 0 <= sharpness <= MAX_SHARPNESS:
        raise UsageError(
            f"sharpness is {text!r}: it must be between 0 and {MAX_SHARPNESS:,.0f}, or auto",
            hint="0 draws at random, 4 prefers the mode gently, 1000 keeps a window around it",
        )
    return sharpness


@selector(
    "beta",
    formula="per class K_c draws without replacement, weight s^(tau mu) (1 - s)^(tau (1 - mu)), s the percentile rank"
    " from easy to hard, mu the mode, tau the sharpness",
    source="IF-Beta, ECCV 2026 (arXiv 2606.25488); auto: (mu, tau) from which a linear student of the teacher's"
    " features learns most, judged on images that the teacher never saw",
    score="margin",
    needs_held_out=lambda values: AUTO in (values["mode"], values["sharpness"]),
    parameters={
        "mode": Parameter(
            default=AUTO,
            help="0 prefers the easiest, 0.5 the middle, 1 the hardest samples; auto: by a search",
            parse=_parse_mode,
        ),
        "sharpness": Parameter(
            default=AUTO,
            help="0 draws at random, large values keep a window around the mode; auto: by a search",
            parse=_parse_sharpness,
        ),
    },
)
def beta(pool: Pool, groups: Groups, seed: int, parameters: Values) -> Choice:
    """Keep a draw weighted by difficulty; at sharpness 0 the same samples as `random` with this seed."""
    mode, sharpness = parameters["mode"], parameters["sharpness"]
    percentile_N = percentiles(pool, groups)
    found = None
    if AUTO in (mode, sharpness):
        found = search(pool, groups, percentile_N, mode=mode, sharpness=sharpness)
        mode, sharpness = found.mode, found.sharpness
    order_N = draw_order(pool, log_weights(percentile_N, mode, sharpness), seed)
    choice = keep_first(pool, groups, order_N, NOT_DRAWN)
    return choice if found is None else found.told_with(choice)
