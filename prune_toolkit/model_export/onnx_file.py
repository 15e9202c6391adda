"""ONNX: one file with a dynamic batch axis; what belongs to the network is in its metadata_props."""

import json
from pathlib import Path

import torch

from prune_toolkit.model_export.exportable import INPUT, OUTPUT, Exportable
from prune_toolkit.model_export.formats import Format, Network, needed
from prune_toolkit.model_export.torch_files import batch_axis

EXTRA = "onnx"
QUIET_LEVEL = 3
"""Of onnxruntime: errors only."""


def write(model: Exportable, path: Path) -> None:
    """Write the network as ONNX."""
    onnx = needed("onnx", EXTRA)
    needed("onnxscript", EXTRA)
    program = torch.onnx.export(
        model.module,
        (model.example(),),
        dynamo=True,
        dynamic_shapes=batch_axis(),
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    # The exporter notes where in which file of this machine each node comes from.
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
    for part in (*proto.graph.value_info, *proto.graph.initializer):
        del part.metadata_props[:]
    facts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in model.facts().items()}
    onnx.helper.set_model_props(proto, facts)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def load(path: Path) -> Network:
    """Load it with onnxruntime, on the CPU."""
    runtime = needed("onnxruntime", EXTRA)
    options = runtime.SessionOptions()
    options.log_severity_level = QUIET_LEVEL
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run([OUTPUT], {INPUT: inputs.numpy()})[0])


ONNX = Format(name="onnx", default="student.onnx", what="ONNX Runtime and other runtimes", write=write, load=load)
