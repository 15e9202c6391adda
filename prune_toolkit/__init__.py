"""Images and a teacher in, manifests, selections and students out: from Python as from the shell.

import prune_toolkit as pt

manifest = pt.score("photos", teacher=my_module, preprocessing=pt.Preprocessing(...))
selection = pt.select(manifest, keep=0.5)
run = pt.train_student(selection, val="photos")
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifests.format.header import Preprocessing
    from manifests.manifest import Manifest
    from prune_toolkit.api.register import register
    from prune_toolkit.api.score_and_label import label, score
    from prune_toolkit.api.select import index, select
    from prune_toolkit.api.suspects import suspects
    from prune_toolkit.api.train import load_student, train_student
    from prune_toolkit.api.use import evaluate, export_model
    from prune_toolkit.api.verify_and_diff import diff, verify
    from prune_toolkit.images.data_spec import DataSpec
    from trainer.data.dataset import PrunedDataset
    from trainer.losses.kd import distillation_loss

__version__ = "0.1.0"

__all__ = [
    "DataSpec",
    "Manifest",
    "Preprocessing",
    "PrunedDataset",
    "__version__",
    "diff",
    "distillation_loss",
    "evaluate",
    "export_model",
    "index",
    "label",
    "load_student",
    "register",
    "score",
    "select",
    "suspects",
    "train_student",
    "verify",
]

_HOME = {
    "DataSpec": "prune_toolkit.images.data_spec",
    "Manifest": "manifests.manifest",
    "Preprocessing": "manifests.format.header",
    "PrunedDataset": "trainer.data.dataset",
    "diff": "prune_toolkit.api.verify_and_diff",
    "distillation_loss": "trainer.losses.kd",
    "evaluate": "prune_toolkit.api.use",
    "export_model": "prune_toolkit.api.use",
    "index": "prune_toolkit.api.select",
    "label": "prune_toolkit.api.score_and_label",
    "load_student": "prune_toolkit.api.train",
    "register": "prune_toolkit.api.register",
    "score": "prune_toolkit.api.score_and_label",
    "select": "prune_toolkit.api.select",
    "suspects": "prune_toolkit.api.suspects",
    "train_student": "prune_toolkit.api.train",
    "verify": "prune_toolkit.api.verify_and_diff",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: torch and pyarrow take longer than `prune --help` may."""
    if name not in _HOME:
        raise AttributeError(f"module 'prune_toolkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__


def _refuse_hidden_packages() -> None:
    """ImportError where a file of the user's has the name of a package of ours, and comes first on the path."""
    ours = Path(__file__).resolve().parents[1]
    for name in ("manifests", "trainer"):
        spec = find_spec(name)
        found = None if spec is None or spec.origin is None else Path(spec.origin)
        if found is not None and found.resolve() != ours / name / "__init__.py":
            raise ImportError(
                f"{found} hides the package {name!r} of prune-toolkit: rename it or run from another folder"
            )


_refuse_hidden_packages()
