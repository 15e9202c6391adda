"""Programs of PyTorch on disk: TorchScript (.pt, .ts) and torch.export (.pt2)."""

import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from manifests.base.files import sha256_file
from manifests.errors import InputError
from trainer.models.exported.network import Exported, image_shape
from trainer.models.weights import weights_sha256

FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
CODE_MEMBERS = ("/custom_obj", "/opaque_obj", "/aotinductor/")
"""Members of a .pt2 that torch would unpickle or load as machine code."""
# fmt: off
SIZE_WORDS = frozenset((
    "Symbol", "Integer", "Float", "Rational", "Max", "Min", "Eq", "Ne", "Ge", "Le", "Gt", "Lt", "And", "Or",
    "Not", "Pow", "Add", "Mul", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing", "Where",
    "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "TruncToInt", "RoundToInt", "ToFloat", "FloorToInt",
    "CeilToInt", "Piecewise", "positive", "integer", "nonnegative", "real", "True", "False", "oo", "int_oo",
))
# fmt: on
"""Words in the expressions of a .pt2 for sizes, which torch evaluates."""


def read_torchscript(path: Path) -> Exported:
    """Read what torch.jit.save wrote; its code is run by the interpreter of TorchScript, which has no Python."""
    with _errors_of(path, "TorchScript archive"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        if hasattr(program, "training"):
            program.eval()
            return _of_module(path, program)

    @cache
    def frozen_on(device: torch.device) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]

    return Exported(run=lambda images: frozen_on(images.device)(images), sha256=sha256_file(path), parameters=0)


def read_pt2(path: Path) -> Exported:
    """Read what torch.export.save wrote, but nothing in it that is pickled code or compiled."""
    with _errors_of(path, "torch.export archive"), _weights_only():
        _refuse_code(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            module = program.module()
        inputs = program.graph_signature.user_inputs
        shapes = [
            node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs
        ]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise InputError(f"{path} takes {len(shapes)} inputs, not one batch of images (n, 3, S, S)")
    batch, side = image_shape(path, [size if isinstance(size, int) else None for size in shapes[0]])
    return _of_module(path, module, batch=batch, image_px=side)


def _of_module(path: Path, module: Any, *, batch: int | None = None, image_px: int | None = None) -> Exported:
    has_state = bool(module.state_dict())
    return Exported(
        run=module,
        sha256=weights_sha256(module) if has_state else sha256_file(path),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        batch=batch,
        image_px=image_px,
    )


def _refuse_code(path: Path) -> None:
    """Raise InputError for a .pt2 whose reading would run code: torch unpickles objects and evaluates sizes."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if any(part in name for part in CODE_MEMBERS):
                raise InputError(
                    f"{path} holds {name}, which would run code when it is read", hint="export the network alone"
                )
            if name.endswith(".json"):
                for text in _expressions(json.loads(archive.read(name))):
                    for word in re.findall(r"[^\W\d]\w*", text):
                        if word not in SIZE_WORDS and not re.fullmatch(r"[a-z]+\d+", word):
                            raise InputError(f"{path}: {name} has an expression that is not a size: {text[:80]!r}")


def _expressions(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "expr_str" and isinstance(value, str):
                yield value
            else:
                yield from _expressions(value)
    elif isinstance(content, list):
        for value in content:
            yield from _expressions(value)


@contextmanager
def _weights_only() -> Iterator[None]:
    """Keep torch.export from unpickling: it reads with weights_only=True first, but falls back to False."""
    before = os.environ.get(FORCE_WEIGHTS_ONLY)
    os.environ[FORCE_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FORCE_WEIGHTS_ONLY]
        else:
            os.environ[FORCE_WEIGHTS_ONLY] = before


@contextmanager
def _errors_of(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"{path} cannot be read as a {what}: {type(error).__name__}: {first}",
            hint="export it again with the version of torch that is installed here",
        ) from error
