"""Verify a manifest or a copy of its images, and compare two manifests. Torch-free except for check="pixels"."""

from collections.abc import Sequence
from typing import Any

from manifests.compare.diff import compare
from manifests.copies.check import DataCheck, check_data
from manifests.copies.data_report import DataReport
from manifests.integrity import Report
from manifests.integrity import verify as verify_files
from manifests.manifest import Manifest
from prune_toolkit.api.arguments import Place, data_check, data_spec, opened, secret_in
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.images.scored_thumbnails import thumbnails_at_hand
from prune_toolkit.images.where import open_copy


def verify(
    manifest: Manifest | Place = "manifest",
    data: Place | DataSpec | None = None,
    *,
    split: str | None = None,
    classes: Place | None = None,
    label: str | None = None,
    check: str = "hashes",
    match: str | Sequence[str] = (),
    class_map: Place | None = None,
    pixel_tolerance: float | None = None,
    secret: Place | None = None,
    workers: int | None = None,
) -> Report | DataReport:
    """Check every file of a manifest, or with `data` a copy of its images; like `prune verify`.

    Differences are reported, not raised: look at `.ok`, then at `.findings` for files, at `.told` and `.differences`
    for images.
    """
    spec = data_spec(data, split, classes, label)
    if spec is None:
        return verify_files(manifest.where if isinstance(manifest, Manifest) else manifest)
    how = data_check(check, match, class_map, pixel_tolerance, secret, workers)
    return verify_copy(opened(manifest), spec, how)


def verify_copy(manifest: Manifest, data: DataSpec, check: DataCheck) -> DataReport:
    """Compare a copy of the images with a manifest, at level pixels by thumbnails of the scored images."""
    thumbnails = thumbnails_at_hand(manifest, check.workers) if check.level == "pixels" else None
    return check_data(manifest, open_copy(data, manifest), check, thumbnails=thumbnails)


class Difference(dict[str, Any]):
    """The differences between manifests `a` and `b`, in the form of `prune diff --json`: data, teacher, scores, ..."""

    @property
    def same(self) -> bool:
        """True if the two manifests have the same id."""
        return bool(self["same"])

    def __repr__(self) -> str:
        a, b = (f"{self[side]['kind']} {self[side]['id'][:12]} at {self[side]['path']}" for side in ("a", "b"))
        sections = ", ".join(name for name in self if name not in ("a", "b") and self[name])
        return f"<Difference of {a} and {b}: {'equal ids' if self.same else sections}>"


def diff(a: Manifest | Place, b: Manifest | Place, *, secret: Place | None = None) -> Difference:
    """Compare two manifests of any kind; like `prune diff`."""
    return Difference(compare(opened(a), opened(b), secret_in(secret)))
