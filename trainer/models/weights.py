"""Weights on disk: the students that we write, and the checkpoints of others that we read.

A student is a safetensors file whose metadata say how to rebuild it (format_version, model_spec, class_names,
preprocessing). It holds nothing executable, and the same weights give the same bytes.
"""

import argparse
import hashlib
import json
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from manifests.base.files import write_atomic
from manifests.base.progress import note
from manifests.errors import InputError
from manifests.format.header import Preprocessing
from manifests.format.header_checks import preprocessing_problem
from trainer.models.info import ModelInfo
from trainer.models.spec_files import IMPORT_LOGITS, archive_kind, refuse_other_frameworks
from trainer.models.state_dicts import COUNTER, best_match, flattened, inventory

FORMAT_MAJOR, FORMAT_MINOR = 1, 0
STUDENT_KEYS = ("format_version", "model_spec", "class_names", "preprocessing")
ALIGNMENT_BYTES = 8
NUMPY_NUMBERS = "?bhilBHILefd"
RESAVE = "re-save only the weights: torch.save(model.state_dict(), 'weights.pth')"


def save_student(path: Path, model: nn.Module, info: ModelInfo, extra: Mapping[str, str]) -> None:
    """Write the weights and how to rebuild the network, atomically; `extra` metadata may not reuse our keys."""
    if clash := set(extra) & {*STUDENT_KEYS, "format"}:
        raise ValueError(f"reserved metadata keys: {sorted(clash)}")
    metadata = {
        "format": "pt",
        "format_version": f"{FORMAT_MAJOR}.{FORMAT_MINOR}",
        "model_spec": info.spec,
        "class_names": json.dumps(info.class_names, ensure_ascii=False),
        "preprocessing": json.dumps(info.preprocessing.model_dump(mode="json"), sort_keys=True),
        **extra,
    }
    write_atomic(path, _with_metadata(safetensors.torch.save(bare_state(model)), metadata))


def read_student_info(path: Path) -> ModelInfo:
    """Return the facts in a student file; raises InputError if train-student did not write it."""
    info = find_student_info(path)
    if info is None:
        if path.suffix != ".safetensors":
            raise InputError(
                f"{path} is not a student that train-student wrote",
                hint="name the folder of a run, or its student.safetensors",
            )
        raise InputError(
            f"{path} does not say for which network its weights are: train-student did not write it",
            hint=f"name the network, and the file as its weights: resnet32x4 --checkpoint {path}",
        )
    return info


def find_student_info(path: Path) -> ModelInfo | None:
    """Return the facts in a file, None for weights of other origin; raises InputError if missing or damaged."""
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    if not metadata.keys() >= set(STUDENT_KEYS):
        return None
    version = metadata["format_version"]
    if version.partition(".")[0] != str(FORMAT_MAJOR):
        raise InputError(
            f"{path} has format version {version}; this tool reads {FORMAT_MAJOR}.x",
            hint="upgrade prune-toolkit to read it",
        )
    try:
        names = json.loads(metadata["class_names"])
        if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise ValueError("class_names is not a list of names")
        preprocessing = Preprocessing.model_validate_json(metadata["preprocessing"])
        if problem := preprocessing_problem(preprocessing):
            raise ValueError(f"preprocessing: {problem}")
    except (ValueError, ValidationError, RecursionError) as error:
        raise InputError(f"{path} has malformed metadata: {error}") from error
    return ModelInfo(
        spec=metadata["model_spec"],
        class_names=None if names is None else tuple(names),
        preprocessing=preprocessing,
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a safetensors or torch file on the CPU, by their dotted names.

    Nothing in the file is executed: torch files are read with weights_only=True.
    """
    if path.suffix == ".safetensors":
        try:
            return flattened(safetensors.torch.load_file(path))
        except (OSError, SafetensorError) as error:
            raise _unreadable(path, error) from error
    refuse_other_frameworks(path)
    content = _torch_load(path)
    if not isinstance(content, Mapping | list | tuple):
        raise InputError(f"{path} holds a {type(content).__name__}, not the weights of a network", hint=RESAVE)
    try:
        tensors = flattened(content)
    except RecursionError:
        raise InputError(f"{path} is nested without end", hint=RESAVE) from None
    if not tensors:
        names = ", ".join(map(str, list(content)[:5]))
        raise InputError(f"{path} holds no weights, only: {names or 'nothing'}", hint=RESAVE)
    return tensors


def load_state(
    model: nn.Module, tensors: Mapping[str, Tensor], *, origin: str, key: str | None = None, without_head: bool = False
) -> None:
    """Copy the best match among the tensors of a checkpoint into `model`, and tell what was taken or ignored.

    key: as for best_match, which raises for it. without_head: tensors whose shape differs keep the model's fresh
    values. Raises InputError with the first missing, unexpected and mis-shaped names; batch counters may be missing.
    """
    network = bare(model)
    wanted = network.state_dict()
    given, told = best_match(tensors, wanted, origin=origin, key=key)
    mis_shaped = [name for name in given if name in wanted and given[name].shape != wanted[name].shape]
    missing = [name for name in wanted if name not in given and not name.endswith(COUNTER)]
    unexpected = [name for name in given if name not in wanted]
    if missing or unexpected or (mis_shaped and not without_head):
        shapes = [f"{n} {tuple(given[n].shape)} for {tuple(wanted[n].shape)}" for n in mis_shaped]
        found = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        parts = [f"{len(names)} {what}: {_first(names)}" for what, names in found if names]
        raise InputError(
            f"{origin} does not fit the network: {'; '.join(parts)}",
            hint=f"the checkpoint must be of the same architecture and number of classes; {inventory(tensors, wanted)}",
        )
    for line in told:
        note(f"{origin}: {line}")
    network.load_state_dict({n: v for n, v in given.items() if n not in set(mis_shaped)}, strict=False)


def other_head(
    model: nn.Module, tensors: Mapping[str, Tensor], class_count: int, *, origin: str = "", key: str | None = None
) -> int | None:
    """Return the number of classes in the best match if only its classifier does not fit `model`, else None."""
    wanted = bare(model).state_dict()
    given = best_match(tensors, wanted, origin=origin, key=key).state
    differing = [
        (wanted[name].shape, given[name].shape)
        for name in wanted
        if name in given and wanted[name].shape != given[name].shape
    ]
    is_head = all(ours and theirs and ours[0] == class_count and ours[1:] == theirs[1:] for ours, theirs in differing)
    outputs = {theirs[0] for _, theirs in differing if theirs}
    return outputs.pop() if is_head and len(outputs) == 1 else None


def weights_sha256(model: nn.Module) -> str:
    """Return the hexadecimal sha256 over (name, dtype, shape, bytes) of the state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(bare_state(model).items()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name}\0{dtype}\0{list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def bare_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict on the CPU, row-major, without prefixes of torch.compile or DistributedDataParallel."""
    state = bare(model).state_dict()
    return {
        name.replace("_orig_mod.", ""): value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def bare(model: nn.Module) -> nn.Module:
    """The network inside the wrappers of torch.compile, DataParallel and DistributedDataParallel."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return bare(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return bare(compiled) if isinstance(compiled, nn.Module) else model


def _torch_load(path: Path) -> Any:
    scalar: Any = np.float64(0).__reduce__()[0]
    harmless: list[Any] = [
        argparse.Namespace,
        np.dtype,
        *(type(np.dtype(code)) for code in NUMPY_NUMBERS),
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(harmless):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        if blocked := re.search(r"(?:GLOBAL |got <class ')([\w.]+)", str(error)):
            raise InputError(
                f"{path} holds Python objects besides weights ({blocked[1]}), which are not loaded: they can run code",
                hint=f"if you trust it, {RESAVE}; without its classes here, {IMPORT_LOGITS}",
            ) from error
        if archive_kind(path) is not None or path.suffix == ".onnx":
            raise InputError(
                f"{path} is a network with its code, not weights for another one",
                hint=f"name it alone: --teacher {path}",
            ) from error
        raise InputError(f"{path} is not a torch checkpoint, or it is damaged", hint=RESAVE) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"no weights at {path}: no such file")
    if isinstance(error, OSError):
        return InputError(f"{path} cannot be read: {error.strerror or error}")
    return InputError(f"{path} is not a safetensors file, or it is damaged: {error}")


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """Set the metadata of a serialised safetensors file, sorted: the library writes them in a varying order."""
    (length,) = struct.unpack_from("<Q", data)
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _first(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
