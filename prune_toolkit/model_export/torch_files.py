"""PyTorch's own files that need no code of ours: TorchScript and torch.export, with a dynamic batch axis."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from prune_toolkit.model_export.exportable import Exportable
from prune_toolkit.model_export.formats import Format, Network

FACTS_NAME = "prune-toolkit.json"
"""The extra file in which what belongs to the network is stored."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def batch_axis() -> tuple[dict[int, Any]]:
    """Return the shape of the input for exporters: any number of images, one too."""
    return ({0: torch.export.Dim("batch", min=1)},)


def write_script(model: Exportable, path: Path) -> None:
    """Write the network as TorchScript, traced."""
    with torch.no_grad():
        traced = torch.jit.trace(model.module, model.example(), check_trace=False)  # type: ignore[no-untyped-call]
    stream = io.BytesIO()
    torch.jit.save(traced, stream, _extra_files={FACTS_NAME: _facts(model)})
    path.write_bytes(_without_debug_files(stream.getvalue()))


def load_script(path: Path) -> Network:
    """Load it on the CPU."""
    script: Network = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return script


def write_program(model: Exportable, path: Path) -> None:
    """Write the network as an exported program."""
    with torch.no_grad():
        program = torch.export.export(model.module, (model.example(),), dynamic_shapes=batch_axis())
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                # It names files of this machine.
                node.meta.pop("stack_trace", None)
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={FACTS_NAME: _facts(model)})
    path.write_bytes(stream.getvalue())


def load_program(path: Path) -> Network:
    """Load it on the CPU."""
    network: Network = torch.export.load(str(path)).module()
    return network


def _facts(model: Exportable) -> str:
    return json.dumps(model.facts(), ensure_ascii=False)


def _without_debug_files(data: bytes) -> bytes:
    """Return an archive of TorchScript without the names of the files of this machine that its code comes from.

    Nor does it keep the id that is computed from them, which nothing needs to load it.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as kept:
        for name in whole.namelist():
            if not name.endswith((".debug_pkl", "/.data/serialization_id")):
                kept.writestr(zipfile.ZipInfo(name, _EPOCH), whole.read(name))
    return stream.getvalue()


TORCHSCRIPT = Format(
    name="torchscript", default="student.torchscript.pt", what="torch.jit.load", write=write_script, load=load_script
)
TORCH_EXPORT = Format(
    name="torch-export", default="student.pt2", what="torch.export.load", write=write_program, load=load_program
)
