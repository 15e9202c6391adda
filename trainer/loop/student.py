"""The student on its device: built, wrapped for ranks, trained step by step, and restored from a checkpoint."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from manifests.base.cores import core_count
from manifests.errors import UsageError
from manifests.format.header import Preprocessing
from trainer.config import TrainConfig
from trainer.data.order import Stream, stream_seed
from trainer.loop.distributed import Ranks
from trainer.loop.dot import DOT
from trainer.loop.restore import restore
from trainer.loop.run_folder import State
from trainer.models.build import ModelInfo, build_model

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, ranks: Ranks) -> torch.device:
    """Return the device; `auto` is CUDA if available, one device per local rank. Raises UsageError if it is missing."""
    available = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if available else "cpu") if name == "auto" else name)
    except RuntimeError:
        raise UsageError(f"--device {name} is not known", hint="known: auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name} is not supported", hint="known: auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return device
    if not available:
        raise UsageError(f"--device {name}: torch sees no CUDA device", hint="take --device cpu")
    index = device.index if device.index is not None else ranks.local_rank
    if index >= torch.cuda.device_count():
        raise UsageError(
            f"rank {ranks.rank} needs cuda:{index}, this machine has {torch.cuda.device_count()} CUDA devices",
            hint="start fewer ranks, or take --device cpu",
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def set_tf32(config: TrainConfig, device: torch.device) -> None:
    """Allow or forbid TF32 on CUDA."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = config.tf32


def worker_count(asked: int | None, ranks: Ranks) -> int:
    """Return the number of reading threads: as requested, else this rank's share of the cores; at most all cores."""
    cores = core_count()
    return min(asked, cores) if asked is not None else max(1, cores // ranks.local_world_size)


@dataclass(kw_only=True)
class Student:
    """A network and its optimiser."""

    model: nn.Module
    """The module whose weights are saved."""
    network: nn.Module
    """The module that is called in training: `model`, wrapped for ranks and compiled."""
    info: ModelInfo
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: str
    device: torch.device

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context that lowers the precision of the forward pass; it does nothing for fp32."""
        dtype = _AUTOCAST.get(self.precision)
        return torch.autocast(self.device.type, dtype) if dtype is not None else nullcontext()

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """Take one optimiser step at a learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state(self) -> dict[str, Any]:
        """Return the state dicts for a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return a fresh optimiser of the parameters that are trained."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    regular: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **regular)
    regular |= {"momentum": config.momentum, "nesterov": config.nesterov}
    if config.dot is not None:
        return DOT(parameters, **regular, delta=config.dot)
    return torch.optim.SGD(parameters, **regular)


def build_student(
    config: TrainConfig,
    *,
    class_names: tuple[str, ...],
    preprocessing: Preprocessing,
    state: State,
    device: torch.device,
    ranks: Ranks,
) -> Student:
    """Build the student of a configuration, or restore it from `state`.

    A network that starts from trained weights keeps their normalisation. A fresh one takes that of the task, and so
    does a module:callable, about which nothing is known.
    """
    torch.manual_seed(stream_seed(config.seed, Stream.INIT))
    model, built = build_model(
        config.student,
        class_count=len(class_names),
        checkpoint=Path(config.weights) if config.weights else None,
        image_px=config.image_px,
        pretrained=False,
    )
    unknown = config.weights is None and "/" not in config.student and ":" in config.student
    if built.weights != "random" and not unknown:
        known = built.preprocessing
        preprocessing = preprocessing.model_copy(update={"mean": known.mean, "std": known.std})
    info = replace(built, class_names=class_names, preprocessing=preprocessing)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    restore(state, model)
    model = model.to(device).to(memory_format=layout)
    network: nn.Module = model
    if ranks.world_size > 1:
        on = [device] if device.type == "cuda" else None
        network = nn.parallel.DistributedDataParallel(model, device_ids=on)
    if config.compile:
        # DOT goes backward twice through one forward pass, so nothing that it saved may be overwritten.
        torch._functorch.config.donated_buffer = config.dot is None
        network = cast(nn.Module, torch.compile(network))
    optimizer = build_optimizer(config, model)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    restore(state, model, optimizer, scaler)
    return Student(
        model=model,
        network=network,
        info=info,
        optimizer=optimizer,
        scaler=scaler,
        precision=config.precision,
        device=device,
    )
