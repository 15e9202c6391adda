"""Labelled image sets in the forms teams keep them, behind one small interface."""

from manifests.sources.base import ReadOptions, Source
from manifests.sources.open import open_held_out, open_source, read_source

__all__ = ["ReadOptions", "Source", "open_held_out", "open_source", "read_source"]
