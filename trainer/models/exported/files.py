"""Exported networks as teachers: TorchScript (.pt, .ts), torch.export (.pt2), ONNX (.onnx).

They say nothing of how images are prepared, except for their size in some. They run as they are, untrainable.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from manifests.errors import InputError, UsageError
from trainer.models.exported.network import Exported, ExportedNetwork
from trainer.models.exported.onnx_graph import read_onnx
from trainer.models.exported.torch_programs import read_pt2, read_torchscript
from trainer.models.info import Blueprint, Loaded

DEFAULT_PX = 224

_READERS: dict[str, Callable[[Path], Exported]] = {
    "torchscript": read_torchscript,
    "pt2": read_pt2,
    "onnx": read_onnx,
}


def exported_blueprint(path: Path, kind: str, image_px: int | None, *, pretrained: bool) -> Blueprint:
    """Return the blueprint of a file of kind torchscript, pt2 or onnx; it is read at once. Raises InputError."""
    if not pretrained:
        raise UsageError(
            f"{path} is an exported network, which cannot be trained further",
            hint="name the network, and its weights with --weights FILE",
        )
    exported = _READERS[kind](path)
    if exported.image_px is not None and image_px not in (None, exported.image_px):
        raise InputError(
            f"{path} was exported for {exported.image_px} px images, not for {image_px} px",
            hint="leave the image size out, or export it again with dynamic sizes",
        )
    spec = f"{kind}/{path.name}"

    def make(_: int) -> NoReturn:
        raise UsageError(f"{path} has its own weights", hint="leave --checkpoint out")

    return Blueprint(
        spec=spec,
        make=make,
        load=lambda: Loaded(ExportedNetwork(exported).eval(), spec, None),
        image_px=exported.image_px or DEFAULT_PX,
    )
