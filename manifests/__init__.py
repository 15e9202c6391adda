"""The on-disk contract: everything that passes between stages or teams. Imports neither torch nor ffcv."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifests.beton import Beton
    from manifests.header import Header
    from manifests.manifest import Manifest
    from manifests.sources import open_source
    from manifests.verify import verify

__all__ = ["Beton", "Header", "Manifest", "open_source", "verify"]

_HOME = {
    "Beton": "manifests.beton",
    "Header": "manifests.header",
    "Manifest": "manifests.manifest",
    "open_source": "manifests.sources",
    "verify": "manifests.verify",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: pyarrow and pydantic take longer than `prune --help` may."""
    if name not in _HOME:
        raise AttributeError(f"module 'manifests' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


class _Package(ModuleType):
    """Keeps `manifests.verify` the function: importing the module of that name would put the module there."""

    def __setattr__(self, name: str, value: object) -> None:
        named_alike = name in _HOME and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if named_alike else value)


sys.modules[__name__].__class__ = _Package
