"""Make an index of images, and a selection from a scored manifest. Torch-free."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from manifests.manifest import Manifest
from prune_toolkit.api.arguments import Place, data_check, data_spec, opened, threads, whole
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.indexing.index import IndexConfig, build_index
from prune_toolkit.quotas.keep import Keep
from prune_toolkit.selection.choose_samples import plan_selection
from prune_toolkit.selection.select_config import SelectConfig
from prune_toolkit.selection.write_selection import write_selection
from prune_toolkit.work.part_work import WorkShare
from trainer.cli.shared_options import local_path

Number = str | float | Fraction
"""A number whose exact text becomes part of an id: 0.5, "50%", Fraction(1, 3)."""


def index(
    data: Place | DataSpec,
    *,
    split: str | None = None,
    classes: Place | None = None,
    label: str | None = None,
    out: Place = "index",
    beton: bool = False,
    max_side: int | None = None,
    check: Literal["decode", "header"] = "decode",
    thumbnails: bool = False,
    name: str | None = None,
    licence: str | None = None,
    redistributable: bool | None = None,
    strict: bool = False,
    workers: int | None = None,
) -> Manifest:
    """List every image of `data` with its key, label, size and content hash; like `prune index`.

    beton: also write train.beton, from which a student can be trained without a teacher. strict: stop where the data is
    probably not what is meant.
    """
    spec = data_spec(data, split, classes, label)
    assert spec is not None
    config = IndexConfig(
        data=spec,
        out=local_path(out),
        beton=beton,
        max_side=max_side,
        check=check,
        thumbnails=thumbnails,
        workers=threads(workers),
        ranks=WorkShare.resolve(None, None),
        name=name,
        licence=licence,
        redistributable=redistributable,
        strict=strict,
    )
    return whole(build_index(config))


def select(
    manifest: Manifest | Place = "manifest",
    *,
    keep: Number,
    selector: str | None = None,
    score: str | None = None,
    quota: str | None = None,
    per_class_min: int = 0,
    without: Manifest | Place | None = None,
    held_out: Manifest | Place | None = None,
    without_suspects: bool = False,
    val: Place | DataSpec | None = None,
    val_split: str | None = None,
    labels: str | None = None,
    eta: Number | None = None,
    revise_scope: str | None = None,
    max_confidence: Number | None = None,
    distill_fraction: Number | None = None,
    distill_by: str | None = None,
    views: int | None = None,
    policy: str | None = None,
    top_k: int | None = None,
    codec: str | None = None,
    preset: str | None = None,
    seed: int = 0,
    out: Place = "selection",
    beton: bool = True,
    max_side: int | None = None,
    data: Place | DataSpec | None = None,
    split: str | None = None,
    classes: Place | None = None,
    label: str | None = None,
    check: str = "sizes",
    match: str | Sequence[str] = (),
    class_map: Place | None = None,
    pixel_tolerance: float | None = None,
    secret: Place | None = None,
    trust_beton: bool = False,
    workers: int | None = None,
    **parameters: Number,
) -> Manifest:
    """Select the samples of a scored manifest worth keeping; like `prune select`.

    parameters: those of the selector, e.g. position=1 for `window`, beta=0.1 for `ccs`, mix="0.7 medium, 0.3 random".
    Numbers are converted to the text that Python prints: 0.5 is "0.5", the same selection as --keep 0.5; but 0.1 + 0.2
    is "0.30000000000000004": write "0.3" or Fraction(3, 10) if that matters.
    """
    config = SelectConfig(
        keep=Keep.parse(text_of(keep)),
        out=local_path(out),
        selector="mix" if selector is None and "mix" in parameters else selector,
        score=score,
        parameters={name: text_of(value) for name, value in parameters.items()},
        quota=quota,
        per_class_min=per_class_min,
        without=without.where if isinstance(without, Manifest) else without,
        held_out=held_out.where if isinstance(held_out, Manifest) else held_out,
        without_suspects=without_suspects,
        val=data_spec(val, val_split, classes, label, held_out=True),
        labels=labels,
        eta=None if eta is None else text_of(eta),
        revise_scope=revise_scope,
        max_confidence=None if max_confidence is None else text_of(max_confidence),
        distill_fraction=None if distill_fraction is None else text_of(distill_fraction),
        distill_by=distill_by,
        views=views,
        policy=policy,
        top_k=top_k,
        codec=codec,
        preset=preset,
        seed=seed,
        beton=beton,
        data=data_spec(data, split, classes, label),
        check=data_check(check, match, class_map, pixel_tolerance, secret, workers),
        max_side=max_side,
        trust_beton=trust_beton,
        workers=threads(workers),
    )
    return write_selection(config, plan_selection(config, opened(manifest), keep_search=True))


def text_of(number: Number) -> str:
    """Return the text of a number as typed on the command line; for a float, the shortest that gives this float."""
    return repr(float(number)) if isinstance(number, float) else str(number)
