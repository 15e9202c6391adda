"""Weights and runs that lie: safetensors, torch files with and without a tripwire, checkpoints, tables of a run."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from mutating import damaged

from campaign.forging.headers import VALUES, encoded, forged
from campaign.forging.tables import flipped, truncated

Forge = Callable[[bytes, Random], bytes]
CODE = (
    "tripwire:build",
    "timm/hf-hub:somebody/network",
    "timm/local-dir:received",
    "../../tripwire:build",
    "os:system",
)


class Tripwire:
    """Unpickled as code would be, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def lying_tensors(data: bytes, rng: Random) -> bytes:
    """Let the header of a safetensors file lie: offsets, dtypes, shapes, names."""
    content, tensors = _split(data)
    name = rng.choice([each for each in content if each != "__metadata__"])
    size = len(tensors)
    match rng.randrange(6):
        case 0:
            content[name]["dtype"] = rng.choice(["F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "X", "", None])
        case 1:
            content[name]["shape"] = rng.choice([[], [0], [-1], [1 << 62, 2], [1 << 40], [1] * 64, "x", None, [1.5]])
        case 2:
            content[name]["data_offsets"] = rng.choice(
                [[0, 0], [0, size], [size, size + 8], [8, 4], [-8, 0], [0], None]
            )
        case 3:
            content[rng.choice(["", "../x", "\0", "x" * 5000, "fc.weight", "conv1.weight"])] = content.pop(name)
        case 4:
            del content[name]
        case _:
            return _joined(forged(content, rng)[1], tensors)
    return _joined(encoded(content), tensors)


def lying_metadata(data: bytes, rng: Random) -> bytes:
    """Forge what a student says of itself: its spec, classes and preprocessing."""
    content, tensors = _split(data)
    said = content["__metadata__"]
    name = rng.choice(list(said))
    if name == "model_spec" or rng.random() < 0.3:
        said["model_spec"] = rng.choice(
            [*CODE, "resnet32", "torchvision/vit_h_14", "", "x" * 5000, "resnet8\n", "a\0b"]
        )
    elif name in ("class_names", "preprocessing"):
        value = json.loads(said[name])
        holder = {"x": value}
        said[name] = json.dumps(json.loads(forged(holder, rng)[1]).get("x")) if rng.random() < 0.7 else "{"
    else:
        said[name] = rng.choice([json.dumps(rng.choice(VALUES[:20])), "9.9", "", None, 3])
    return _joined(encoded(content), tensors)


def lying_length(data: bytes, rng: Random) -> bytes:
    """Let a safetensors file lie in the length of its header."""
    return struct.pack("<Q", rng.choice([0, 1, len(data), len(data) - 8, 1 << 31, 1 << 40, (1 << 64) - 1])) + data[8:]


def strange_weights(data: bytes, rng: Random) -> bytes:
    """Make all weights of a safetensors file NaN, infinite or huge."""
    _, tensors = _split(data)
    number = struct.pack("<f", rng.choice([float("nan"), float("inf"), 3e38]))
    return data[: len(data) - len(tensors)] + number * (len(tensors) // 4)


def other_state(data: bytes, rng: Random) -> bytes:
    """Change one entry of a torch file, or of one of the mappings in it."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    holder: Any = content
    while True:
        name = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if isinstance(holder[name], dict | list) and holder[name] and rng.random() < 0.8:
            holder = holder[name]
            continue
        break
    value = rng.choice([None, -1, 0, 10**12, "x", [], {}, float("nan"), torch.zeros(0), torch.zeros(3, 3), 1 << 70,
                        torch.full((2,), torch.nan), torch.zeros(1, dtype=torch.int64), True,
                        ["x"] * 1000])  # fmt: skip
    if rng.random() < 0.2 and isinstance(holder, dict):
        del holder[name]
    else:
        holder[name] = value
    return _saved(content)


def huge_by_strides(data: bytes, rng: Random) -> bytes:
    """Put a tensor of few bytes that declares petabytes, by strides of zero, in place of another one."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    state = content["model"] if isinstance(content.get("model"), dict) else content
    name = rng.choice(list(state))
    state[name] = torch.zeros(1).expand(*rng.choice([(1 << 40,), (1 << 20, 1 << 20), (100_000, 100_000)]))
    return _saved(content)


def zip_bomb(data: bytes, rng: Random) -> bytes:
    """Pack a torch file whose storages unpack to gigabytes of zeros, or cut its archive."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as new:
        entries = old.namelist()
        victim = rng.choice(entries)
        for name in entries:
            new.writestr(name, bytes(1 << 28) if name == victim else old.read(name))
    return sink.getvalue()


def pickled(path: Path, data: bytes, rng: Random) -> bytes:
    """Return a pickle, bare or in a torch file, that makes the file `path` when somebody runs it."""
    wired = {"state_dict": Tripwire(path), "epoch": 3}
    match rng.randrange(3):
        case 0:
            return pickle.dumps(wired)
        case 1:
            return _saved(wired)
        case _:
            content = torch.load(io.BytesIO(data), weights_only=True)
            return _saved({**content, "more": Tripwire(path)})


def other_json(data: bytes, rng: Random) -> bytes:
    """Put a wrong value into a JSON file, or into the first line of several."""
    first, rest = (data, b"") if b"\n " in data else (data.partition(b"\n")[0], data.partition(b"\n")[2])
    return forged(json.loads(first), rng)[1] + b"\n" + rest


def other_csv(data: bytes, rng: Random) -> bytes:
    """Put a wrong value into a table of text."""
    rows = [line.split(",") for line in data.decode().splitlines()]
    row = rng.choice(rows)
    row[rng.randrange(len(row))] = rng.choice(["nan", "inf", "-1", "x", "", '"', "1e999", "\0", "9" * 400, "\u202e"])
    return "\n".join(map(",".join, rows)).encode()


OF_ALL: tuple[Forge, ...] = (flipped, truncated, damaged)
OF_SAFETENSORS: tuple[Forge, ...] = (
    *OF_ALL,
    lying_tensors,
    lying_metadata,
    lying_metadata,
    lying_length,
    strange_weights,
)
OF_JSON: tuple[Forge, ...] = (*OF_ALL, other_json, other_json, other_json)
OF_CSV: tuple[Forge, ...] = (*OF_ALL, other_csv)


def of_torch(tripwire: Path) -> tuple[Forge, ...]:
    """Return what is done to torch files; `tripwire` is the file that code in one would make."""
    wired = partial(pickled, tripwire)
    wired.__name__ = pickled.__name__  # type: ignore[attr-defined]
    return (*OF_ALL, other_state, other_state, huge_by_strides, zip_bomb, wired, wired)


def as_torch(data: bytes) -> bytes:
    """Return the weights of a safetensors file as a torch file."""
    import safetensors.torch

    return _saved(dict(safetensors.torch.load(data)))


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _joined(text: bytes, tensors: bytes) -> bytes:
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + tensors


def _saved(content: Any) -> bytes:
    sink = io.BytesIO()
    torch.save(content, sink)
    return sink.getvalue()
