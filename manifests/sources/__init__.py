"""Labelled image sets in the forms teams keep them, behind one small interface."""

from manifests.sources.base import Source
from manifests.sources.open import open_held_out, open_source

__all__ = ["Source", "open_held_out", "open_source"]
