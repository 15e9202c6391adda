"""Whether a spec names a network that may exist, found out before torch is imported. Torch-free."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from manifests.errors import UsageError
from trainer.models.built_in import MODELS
from trainer.models.spec_files import kind_of

ZOOS = ("torchvision", "timm", "hf")
TIMM_HUB = ("hf-hub:", "hf_hub:")
TORCHVISION = re.compile(
    r"alexnet|convnext_\w+|densenet\d+|efficientnet_\w+|googlenet|inception_v3|maxvit_\w+|mnasnet\w+|mobilenet_v\w+|"
    r"regnet_\w+|resnet(18|34|50|101|152)|resnext\w+|shufflenet_\w+|squeezenet\w+|swin_\w+|vgg(11|13|16|19)(_bn)?|"
    r"vit_[blh]_\d+|wide_resnet\w+"
)
"""Names of torchvision's networks, most of which timm has too."""


def check_spec(spec: str) -> None:
    """Raise UsageError for a spec that names no network, InputError for a file that is missing or of another kind.

    What zoos and modules hold is found out when they are imported.
    """
    if is_name(spec) or kind_of(spec) is not None:
        return
    module, colon, attribute = spec.partition(":")
    if colon and module in ZOOS:
        raise UsageError(f"unknown model {spec!r}", hint=f"did you mean {module}/{attribute}?")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", spec):
        raise UsageError(
            f"{spec} is not a file or folder here, and a name on a hub does not say which library it is for",
            hint=f"for transformers hf/{spec}, for timm timm/hf-hub:{spec}",
        )
    if not (module and attribute):
        raise UsageError(f"unknown model {spec!r}", hint=_near(spec))


def is_name(spec: str) -> bool:
    """Whether a spec is built in, or of a zoo or a hub."""
    family, slash, _ = spec.partition("/")
    return spec in MODELS or bool(slash and family in ZOOS) or spec.startswith(TIMM_HUB)


def is_file(spec: str) -> bool:
    """Whether a spec is a file or folder that is there."""
    return not is_name(spec) and bool(spec) and Path(spec).exists()


def did_you_mean(name: str, known: Sequence[str], *, prefix: str = "") -> str | None:
    """Return a hint with the closest known names, None if no name is close."""
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    return "did you mean " + " or ".join(prefix + match for match in near) + "?" if near else None


def _near(spec: str) -> str:
    if TORCHVISION.fullmatch(spec.lower()):
        return f"did you mean torchvision/{spec.lower()}?"
    forms = (
        f"built in: {', '.join(MODELS)}; or torchvision/NAME[:WEIGHTS], timm/NAME, hf/ORG/NAME, module:callable, a file"
    )
    return did_you_mean(spec.replace("-", "_"), list(MODELS)) or forms
