"""The state of a checkpoint -> a network and its optimiser; one that was altered is refused before it is used."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from manifests.errors import InputError
from trainer.loop.run_folder import CHECKPOINT_NAME, START_OVER, State


def restore(state: State, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, scaler: Any = None) -> None:
    """Load the network's weights, or with an optimiser its state and that of the scaler; none before the first epoch.

    Raises InputError for a state that is not of this network and optimiser.
    """
    if not state.history:
        return
    try:
        if optimizer is None:
            _check_alike(state.model, model.state_dict(), "weights")
            model.load_state_dict(state.model or {})
        else:
            _check_optimizer(state.optimizer, optimizer)
            _check_alike(state.scaler, scaler.state_dict(), "scaler")
            optimizer.load_state_dict(state.optimizer or {})
            scaler.load_state_dict(state.scaler or {})
    except ValueError as problem:
        raise InputError(f"{CHECKPOINT_NAME} does not hold the state of this run: {problem}", hint=START_OVER) from None


def check_losses(losses: Any, count: int) -> None:
    """Raise InputError unless the last losses are none, or those of so many samples."""
    if losses is not None and not (isinstance(losses, Tensor) and _form(losses) == (torch.float32, (count,))):
        raise InputError(
            f"{CHECKPOINT_NAME} does not hold the state of this run: its losses are not of {count:,} samples",
            hint=START_OVER,
        )


def _check_optimizer(state: Any, optimizer: torch.optim.Optimizer) -> None:
    fresh = optimizer.state_dict()
    _check_names(state, fresh, "optimizer")
    _check_alike(dict(enumerate(_listed(state["param_groups"]))), dict(enumerate(fresh["param_groups"])), "optimizer")
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    if not isinstance(state["state"], Mapping):
        raise ValueError("optimizer is not a mapping")
    for number, values in state["state"].items():
        if number not in range(len(parameters)) or not isinstance(values, Mapping):
            raise ValueError("optimizer has parameters that the network lacks")
        for name, value in values.items():
            shapes = (tuple(parameters[number].shape), ()) if name == "step" else (tuple(parameters[number].shape),)
            if value is not None and not (isinstance(value, Tensor) and tuple(value.shape) in shapes):
                raise ValueError(f"optimizer: {name} of parameter {number} has another shape")


def _check_alike(given: Any, wanted: Mapping[Any, Any], what: str) -> None:
    """Raise ValueError unless the names and the forms of the values are the wanted ones."""
    _check_names(given, wanted, what)
    for name, value in wanted.items():
        if isinstance(value, Mapping):
            _check_alike(given[name], value, what)
        elif _form(given[name]) != _form(value):
            raise ValueError(f"{what}: {str(name)[:60]} is of another kind or shape")


def _check_names(given: Any, wanted: Mapping[Any, Any], what: str) -> None:
    if not isinstance(given, Mapping) or given.keys() != wanted.keys():
        raise ValueError(f"{what} has other names than those of this run")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _form(value: Any) -> Any:
    """Return what two values have in common that may stand for each other: dtype and shape, or the kind of number."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape)
    if isinstance(value, bool) or value is None:
        return type(value)
    if isinstance(value, Real):
        return Real if math.isfinite(value) else None
    return [_form(each) for each in value] if isinstance(value, list | tuple) else type(value)
