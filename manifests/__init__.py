"""The on-disk contract: everything that passes between stages or teams. Imports neither torch nor ffcv."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifests.betons.reader import Beton
    from manifests.format.header import Header
    from manifests.integrity import verify
    from manifests.manifest import Manifest
    from manifests.sources import open_source

__all__ = ["Beton", "Header", "Manifest", "open_source", "verify"]

_HOME = {
    "Beton": "manifests.betons.reader",
    "Header": "manifests.format.header",
    "Manifest": "manifests.manifest",
    "open_source": "manifests.sources",
    "verify": "manifests.integrity",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: pyarrow and pydantic take longer than `prune --help` may."""
    if name not in _HOME:
        raise AttributeError(f"module 'manifests' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
