"""The folder of a network on the hub as timm writes it, which transformers reads as well: config.json, weights.

torchvision's networks whose timm twin has the same name and weights of the same names become that twin.
"""

import json
import math
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from manifests.errors import UsageError
from prune_toolkit.model_export.exportable import Exportable
from prune_toolkit.model_export.formats import Format, Network, needed
from trainer.models.weights import bare_state

CONFIG_NAME, WEIGHTS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"
OTHERS = (
    "onnx, torchscript and torch-export take every network; timm and hf take timm/NAME, and some of torchvision/NAME"
)


def write_timm(model: Exportable, folder: Path) -> None:
    """Write config.json and model.safetensors."""
    network = _as_timm(model)
    config = json.dumps(timm_config(network, model), indent=2, ensure_ascii=False)
    (folder / CONFIG_NAME).write_text(f"{config}\n", "utf-8")
    weights = safetensors.torch.save(bare_state(network), metadata={"format": "pt"})
    (folder / WEIGHTS_NAME).write_bytes(weights)


def load_timm(folder: Path) -> Network:
    """Load it with timm."""
    network: nn.Module = needed("timm", "timm").create_model(f"local-dir:{folder}", pretrained=True)
    return network.eval()


def write_hf(model: Exportable, folder: Path) -> None:
    """Write the same, and a card for the hub."""
    needed("transformers", "hf")
    write_timm(model, folder)
    (folder / CARD_NAME).write_text(_card(model), "utf-8")


def load_hf(folder: Path) -> Network:
    """Load it with transformers."""
    network = needed("transformers", "hf").AutoModelForImageClassification.from_pretrained(
        str(folder), local_files_only=True
    )
    network.eval()

    def logits(inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = network(pixel_values=inputs).logits
        return found

    return logits


def timm_config(network: Any, model: Exportable) -> dict[str, Any]:
    """Return config.json in the format of timm: how to build the network, and how images are prepared for it."""
    shown, names, own = model.info.preprocessing, model.info.class_names, network.pretrained_cfg
    side = [3, shown.image_px, shown.image_px]
    return {
        "architecture": own["architecture"],
        "num_classes": network.num_classes,
        "num_features": network.num_features,
        **({} if names is None else {"label_names": list(names)}),
        # Networks that are built for one size.
        **({"model_args": {"img_size": shown.image_px}} if hasattr(network, "set_input_size") else {}),
        "pretrained_cfg": {
            "num_classes": network.num_classes,
            "input_size": side,
            "fixed_input_size": bool(own.get("fixed_input_size", False)),
            "crop_pct": crop_pct(shown.image_px, shown.resize_px),
            "crop_mode": "center",
            "interpolation": shown.interpolation,
            "mean": list(shown.mean),
            "std": list(shown.std),
            "first_conv": own.get("first_conv"),
            "classifier": own.get("classifier"),
        },
    }


def crop_pct(image_px: int, resize_px: int) -> float:
    """Return the share from which timm computes resize_px, as floor(image_px / share)."""
    share = image_px / resize_px
    return share if math.floor(image_px / share) == resize_px else math.nextafter(share, 0)


def _as_timm(model: Exportable) -> nn.Module:
    """Return the network if it is timm's, or its twin; UsageError, with what is possible, if there is none."""
    zoo, _, name = model.info.spec.partition("/")
    if zoo == "timm":
        return model.network
    name = name.partition(":")[0]
    refused = UsageError(
        f"{model.info.spec} is not an architecture of timm, which --to timm and --to hf need", hint=OTHERS
    )
    if zoo != "torchvision":
        raise refused
    timm = needed("timm", "timm")
    if not timm.is_model(name):
        raise refused
    state = model.network.state_dict()
    outputs = model.logits(torch.zeros(1, 3, model.image_px, model.image_px, dtype=torch.uint8)).shape[1]
    twin: nn.Module = timm.create_model(name, pretrained=False, num_classes=outputs)
    own = twin.state_dict()
    if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in state.items()}:
        raise refused
    twin.load_state_dict(state)
    return twin.eval()


def _card(model: Exportable) -> str:
    shown = model.info.preprocessing
    return (
        "---\n"
        "library_name: timm\n"
        "pipeline_tag: image-classification\n"
        "tags:\n- image-classification\n- timm\n- transformers\n"
        "---\n\n"
        f"# {model.info.spec.partition('/')[2].partition(':')[0]}\n\n"
        f"A student trained by distillation with prune-toolkit. Images: shorter side to {shown.resize_px} px "
        f"({shown.interpolation}), centre {shown.image_px}x{shown.image_px}; mean and std are in {CONFIG_NAME}.\n\n"
        "```python\n"
        "from transformers import pipeline\n\n"
        'classify = pipeline("image-classification", model="OWNER/NAME")  # or this folder\n'
        'print(classify("photo.jpg"))\n'
        "```\n"
    )


TIMM = Format(
    name="timm",
    default="student-timm",
    what='timm.create_model("local-dir:FOLDER", pretrained=True)',
    write=write_timm,
    load=load_timm,
    is_folder=True,
    normalises=False,
)
HF = Format(
    name="hf",
    default="student-hf",
    what="transformers, and the Hugging Face hub",
    write=write_hf,
    load=load_hf,
    is_folder=True,
    normalises=False,
)
