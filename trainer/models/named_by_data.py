"""Networks that data names: a header, a checkpoint's metadata, a run.

Data never decides which code is imported or which host is asked. Every spec that was not typed on this machine goes
through `own_spec`.
"""

import re
import shlex

from manifests.base.progress import one_line
from manifests.errors import UsageError
from trainer.models.built_in import MODELS

_FILES = ("torchscript/", "pt2/", "onnx/", "transformers/")
"""How the specs of exported networks and of folders of transformers begin in a header, which has no paths."""
_OF_THE_ZOOS = re.compile(r"torchvision/\w+(:\w+)?|timm/\w+(\.\w+)*", re.ASCII)


def is_own(spec: str) -> bool:
    """Tell whether a spec is a built-in network or a name of torchvision's or timm's own."""
    return spec in MODELS or _OF_THE_ZOOS.fullmatch(spec) is not None


def own_spec(spec: str, named_by: object, flags: str) -> str:
    """Return `spec` if `is_own`; raises UsageError for any other.

    flags: how the user names it, with SPEC for the spec, such as "--teacher SPEC".
    """
    if is_own(spec):
        return spec
    named = shlex.quote(one_line(spec))
    if spec.startswith(_FILES):
        raise UsageError(
            f"{named_by} names the network {named}: where its file is on this machine is not known, or it is a program",
            hint=f"if you trust it, name the file: {flags.replace('SPEC', 'PATH')}",
        )
    raise UsageError(
        f"{named_by} names the network {named}: data may not decide which code is run or which host is asked",
        hint=f"if you trust it, name it yourself: {flags.replace('SPEC', named)}",
    )
