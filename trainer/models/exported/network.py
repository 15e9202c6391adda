"""Networks that were exported with their code, behind the interface of a module."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from manifests.base.progress import note
from manifests.errors import InputError, UsageError


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A network read from a file of its own, and what the file says of it."""

    run: Callable[[Tensor], Any]
    """Images (n, 3, S, S) float32 -> what it returns; a module, if it has parameters that may be moved."""
    sha256: str
    """Over its parameters by name, as of other networks; over the file if it has none that torch can see."""
    parameters: int
    batch: int | None = None
    """The only number of images it takes at once; None: any."""
    image_px: int | None = None
    """The only side of images it takes; None: not said."""
    versions: tuple[tuple[str, str], ...] = ()
    """Libraries besides torch on which its outputs depend."""
    by_torch: bool = True
    """Run by torch, also in lower precision; else by another library, in the precision of its file."""
    on_cuda: bool = True
    """Whether what runs it here can run it on CUDA."""


class ExportedNetwork(nn.Module):
    """An exported network behind the interface of a module: it keeps its mode, and takes any number of images."""

    def __init__(self, exported: Exported) -> None:
        super().__init__()
        self.exported, self.run = exported, exported.run

    def train(self, mode: bool = True) -> "ExportedNetwork":
        """Do nothing: its mode was fixed when it was exported."""
        return self

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, images: Tensor) -> Any:
        """Return what the program returns for images (n, 3, S, S)."""
        size, images = self.exported.batch, images.contiguous()
        if size is None:
            return self.run(images)
        outputs = []
        for chunk in images.split(size):  # type: ignore[no-untyped-call]
            padding = chunk.new_zeros(size - len(chunk), *chunk.shape[1:])
            outputs.append(self.run(torch.cat([chunk, padding])))
        return _pytree.tree_map(lambda *parts: torch.cat(parts)[: len(images)] if parts[0].ndim else parts[0], *outputs)


def image_shape(path: Path, shape_nchw: list[int | None]) -> tuple[int | None, int | None]:
    """Return the batch size and the side of the images that a graph fixes; InputError unless square, colour or grey."""
    batch, channels, height, width = shape_nchw
    if channels not in (1, 3, None) or (height is not None and width is not None and height != width):
        shown = "x".join("any" if size is None else str(size) for size in (channels, height, width))
        raise InputError(
            f"{path} takes {shown} images, not square ones of 1 or 3 channels", hint="wrap it in a module:callable"
        )
    return batch, height or width


def suited(
    exported: Exported, name: str, *, device: str, where: torch.device, dtype: str | None, exact: bool
) -> tuple[torch.device, str | None]:
    """Return where and in which precision a network runs, given what was asked for; what differs is told.

    where: the device that `device` stands for. dtype: None where nothing was asked for. exact: UsageError for a device
    that was named and cannot run it; else its images may be there while it runs on the CPU.
    """
    if where.type == "cuda" and not exported.on_cuda:
        told = f"{name} cannot run on {where}: the CUDA provider of onnxruntime is not installed"
        if exact and device != "auto":
            raise UsageError(told, hint="pip install onnxruntime-gpu, or take --device cpu")
        note(f"{told}; it runs on the CPU")
        where = torch.device("cpu") if exact else where
    if exported.by_torch:
        return where, dtype
    if dtype not in (None, "float32"):
        note(f"{name} computes in the precision of its file, not in {dtype}")
    return where, "float32"


def exported_in(module: nn.Module) -> Exported | None:
    """Return what is known of an exported network, None for other modules."""
    return module.exported if isinstance(module, ExportedNetwork) else None
