"""Batches of views, with the same bytes from every loader: FFCV for betons, or torch for all data.

Loaders return uint8; `normalise` turns it into network inputs on the device.
"""

from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from manifests.betons.reader import Beton
from manifests.errors import UsageError
from manifests.format.header import Preprocessing
from manifests.format.stored_form import StoredForm
from manifests.sources.base import Source
from trainer.data.batches import RowColumns, ViewLoader
from trainer.data.torch_loader import TorchLoader
from trainer.data.views import EVALUATION, ViewRecipe, check_sizes

KINDS = ("auto", "ffcv", "torch")


def open_loader(
    data: Beton | Source,
    *,
    kind: str = "auto",
    recipe: ViewRecipe = EVALUATION,
    preprocessing: Preprocessing,
    workers: int | None = None,
    device: torch.device | str = "cpu",
    view_id_N: NDArray[np.uint64] | None = None,
    form: StoredForm | None = None,
) -> ViewLoader:
    """Open the loader for a beton or a source; `kind` auto takes FFCV if possible.

    workers: FFCV's threads (None: all cores), or the processes of the torch loader (None: none). view_id_N: (N,)
    view ids of a source's rows, needed for augmented views. form: that of a beton's targets, needed for means over
    views if it is not float16. Raises UsageError if ffcv is requested but unusable.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown loader {kind!r}", hint=f"known: {', '.join(KINDS)}")
    columns, device = RowColumns(data, view_id_N), torch.device(device)
    check_sizes(preprocessing)
    reason = "asked for"
    if kind != "torch":
        available, reason = ffcv_available() if isinstance(data, Beton) else (False, "FFCV reads betons only")
        if available and isinstance(data, Beton):
            from trainer.data.ffcv_boundary import FfcvLoader

            return FfcvLoader(data, columns, recipe, preprocessing, workers, device, reason, form)
        if kind == "ffcv":
            raise UsageError(f"the ffcv loader cannot be used: {reason}", hint="take --loader torch")
    return TorchLoader(data, columns, recipe, preprocessing, workers or 0, device, reason, form)


@cache
def ffcv_available() -> tuple[bool, str]:
    """Return whether FFCV can read betons here, and why or why not. Imports ffcv, which takes seconds."""
    missing = next((name for name in ("ffcv", "numba") if find_spec(name) is None), None)
    if missing is not None:
        return False, f"{missing} is not installed"
    try:
        import trainer.data.ffcv_boundary  # noqa: F401
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        return False, f"ffcv does not work here: {error}"
    return True, "ffcv is installed"
