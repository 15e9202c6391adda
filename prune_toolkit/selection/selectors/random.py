"""A random subset, the baseline for every other selector."""

from manifests.images.identity import hash_words, mix64
from prune_toolkit.selection.pool import NOT_DRAWN, Choice, Groups, Pool, keep_first
from prune_toolkit.selection.selector import Values, selector


@selector(
    "random",
    formula="per class the K_c samples with the smallest hash(seed, content hash)",
    source="random ranks, redrawn for every seed",
    score=None,
)
def random(pool: Pool, groups: Groups, seed: int, parameters: Values) -> Choice:
    """Keep a random subset; with the same seed, a larger keep fraction contains a smaller one."""
    return keep_first(pool, groups, mix64(seed, *hash_words(pool.content_hash_N16)), NOT_DRAWN)
