"""What an export format is, and what its file needs of other libraries."""

import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from manifests.errors import UsageError
from prune_toolkit.model_export.exportable import Exportable

Network = Callable[[torch.Tensor], torch.Tensor]
"""What the other library loaded: takes what `Exportable.inputs` returns, and returns logits (n, C)."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A form in which other libraries read networks."""

    name: str
    default: str
    """Name of the output where none is given."""
    what: str
    """Which library loads it."""
    write: Callable[[Exportable, Path], None]
    """Write the file, or into the folder, of that path."""
    load: Callable[[Path], Network]
    """Load it again by the other library."""
    is_folder: bool = False
    normalises: bool = True
    """The exported network can normalise images itself; else its files say how the library does it."""


def needed(module: str, extra: str) -> Any:
    """Return a module of another library; UsageError with the extra that installs it if it is missing."""
    try:
        with quiet():
            return importlib.import_module(module)
    except ImportError:
        raise UsageError(
            f"{module.partition('.')[0]} is needed for this and is not installed",
            hint=f"pip install 'prune-toolkit[{extra}]'",
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings, logs and progress bars of other libraries from the terminal; their errors are raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
