"""Register your own scores and selectors from a notebook."""

import hashlib
import inspect
from collections.abc import Callable
from contextlib import suppress
from types import CodeType
from typing import Any, Literal, TypeVar

from manifests.base.registry import Registry, entries_from
from manifests.errors import UsageError
from prune_toolkit.scoring.dynamics_scores import dynamics_score
from prune_toolkit.scoring.feature_scores import feature_score
from prune_toolkit.scoring.logit_scores import score
from prune_toolkit.scoring.score import SCORES
from prune_toolkit.selection.selectors import SELECTORS, selector

F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["score", "feature_score", "dynamics_score", "selector"]
_KINDS: dict[str, tuple[Registry[Any], Callable[..., Any], dict[str, Any]]] = {
    "score": (SCORES, score, {}),
    "feature_score": (SCORES, feature_score, {"needs": ("features",), "cost": "one teacher pass"}),
    "dynamics_score": (SCORES, dynamics_score, {"needs": ("dynamics",), "cost": "one training run"}),
    "selector": (SELECTORS, selector, {"score": None}),
}
"""By kind: where it is registered, by which decorator, and facts that are the same for most."""


def register(kind: Kind, name: str, **facts: Any) -> Callable[[F], F]:
    """Register the decorated function as a method of this process; run the cell again to replace it.

    kind: score (a function of rows of logits), feature_score, dynamics_score or selector. facts: see docs/methods.md;
    above all harder="low" or "high" for a score, and score="loss" for a selector that ranks by a score. formula
    defaults to the first line of the docstring. Manifests record a digest of the function's source, so that results of
    another version are not mistaken for its own; functions that it calls are not included.
    """
    if kind not in _KINDS:
        raise UsageError(f"unknown kind of method: {kind!r}", hint=f"known: {', '.join(_KINDS)}")
    registry, decorate, usual = _KINDS[kind]

    def add(function: F) -> F:
        about = (inspect.getdoc(function) or name).partition("\n")[0]
        if str(registry.origin(name)).startswith(f"{function.__module__} "):
            registry.forget(name)
        with entries_from(_origin(function)):
            decorate(name, **{"formula": about, "source": "registered here", **usual, **facts})(function)
        return function

    return add


def _origin(function: Callable[..., Any]) -> str:
    """Return the module of a function with a digest of its source, or of its bytecode if the source is unknown."""
    if not inspect.isfunction(function):
        raise UsageError(f"a {type(function).__name__} is not a function", hint="register a def that calls it")
    text = _bytes_of(function.__code__)
    # Under this name Python 3.13 keeps the program of `python -c`, whatever function is asked for.
    if function.__code__.co_filename != "<string>":
        with suppress(OSError, TypeError):
            text = inspect.getsource(function).encode()
    return f"{function.__module__} {hashlib.sha256(text).hexdigest()[:12]}"


def _bytes_of(code: CodeType) -> bytes:
    inner = [_bytes_of(value) if isinstance(value, CodeType) else value for value in code.co_consts]
    return code.co_code + repr((inner, code.co_names)).encode()
