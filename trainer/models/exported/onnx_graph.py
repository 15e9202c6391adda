"""An ONNX graph as a teacher, run by onnxruntime on the CPU, or on CUDA where its provider is installed."""

import hashlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manifests.base.files import sha256_file
from manifests.errors import InputError, UsageError
from trainer.models.exported.network import Exported, image_shape

FLOATS: dict[int, type[np.floating[Any]]] = {1: np.float32, 10: np.float16}
"""ONNX's codes of the input types that images can have."""

CUDA = "CUDAExecutionProvider"


def read_onnx(path: Path) -> Exported:
    """Return a graph with one input of images, (n, C, S, S) or (n, S, S, C), in float32 or float16.

    Its sha256 is that of the file, or over the names and sha256 of its files if the weights are in others. Raises
    UsageError without onnxruntime, InputError for other graphs.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            f"{path} needs {error.name}, which is not installed", hint="pip install 'prune-toolkit[onnx]'"
        ) from None
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:
        raise InputError(f"{path} is not an ONNX graph, or it is damaged") from error
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    shapes = [[size.dim_value or None for size in value.type.tensor_type.shape.dim] for value in inputs]
    if len(inputs) != 1 or len(shapes[0]) != 4:
        raise InputError(f"{path} takes {len(inputs)} inputs, not one batch of images (n, 3, S, S)")
    dtype = FLOATS.get(inputs[0].type.tensor_type.elem_type)
    if dtype is None:
        raise InputError(
            f"{path} does not take images as float32 or float16", hint="export it without its own normalisation"
        )
    shape = shapes[0]
    is_nhwc = shape[3] in (1, 3) and shape[1] not in (1, 3, None)
    batch, side = image_shape(path, [shape[0], *((shape[3], *shape[1:3]) if is_nhwc else shape[1:])])
    return Exported(
        run=_Session(path, dtype, is_nhwc=is_nhwc),
        sha256=_digest(path, sorted(set(_external(path, graph)))),
        parameters=sum(prod(tensor.dims) for tensor in graph.initializer if tensor.data_type in FLOATS),
        batch=batch,
        image_px=side,
        versions=(("onnxruntime", onnxruntime.__version__),),
        by_torch=False,
        on_cuda=CUDA in onnxruntime.get_available_providers(),
    )


class _Session:
    """A graph, opened on first use: its provider depends on the device of the images."""

    def __init__(self, path: Path, dtype: type[np.floating[Any]], *, is_nhwc: bool) -> None:
        self.path, self.dtype, self.is_nhwc = path, dtype, is_nhwc
        self.session: Any = None

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...] | torch.Tensor:
        if self.session is None:
            self.session = _opened(self.path, on_cuda=images.is_cuda)
        given = images.permute(0, 2, 3, 1) if self.is_nhwc else images
        array = given.float().cpu().contiguous().numpy().astype(self.dtype, copy=False)
        try:
            outputs = self.session.run(None, {self.session.get_inputs()[0].name: array})
        except Exception as error:
            raise RuntimeError(str(error).strip().splitlines()[0]) from error
        found = tuple(torch.from_numpy(out).to(images.device) for out in outputs if isinstance(out, np.ndarray))
        return found[0] if len(found) == 1 else found


def _opened(path: Path, *, on_cuda: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    wanted = [CUDA, "CPUExecutionProvider"] if on_cuda else ["CPUExecutionProvider"]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise InputError(f"{path} cannot be run by onnxruntime: {str(error).strip().splitlines()[0]}") from error


def _external(path: Path, graph: Any) -> Iterator[str]:
    """Yield the files beside the graph that hold weights; InputError for one elsewhere."""
    for tensor in graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                place = (path.parent / entry.value).resolve()
                if not place.is_relative_to(path.parent.resolve()):
                    raise InputError(f"{path} has weights outside its folder, in {entry.value!r}")
                if not place.is_file():
                    raise InputError(f"{path} needs its weights in {place}: no such file")
                yield entry.value


def _digest(path: Path, external: list[str]) -> str:
    whole = sha256_file(path)
    if not external:
        return whole
    lines = [f"\0{whole}\n", *(f"{name}\0{sha256_file(path.parent / name)}\n" for name in external)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
