"""With which arguments a callable that makes a network is called."""

import inspect
from collections.abc import Callable

from manifests.errors import InputError


def arguments_of(build: Callable[..., object], spec: str, class_count: int) -> dict[str, int]:
    """Return what to call it with: num_classes, if it takes that, else nothing; InputError if it needs more."""
    asked = {"num_classes": class_count}
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):
        return asked
    for arguments in (asked, {}):
        try:
            signature.bind(**arguments)
        except TypeError:
            continue
        return arguments
    raise InputError(
        f"{spec}{signature} is called with num_classes alone, or without arguments: it needs others",
        hint="write a function that gives them: def build(num_classes): return ...",
    )
