"""What a run says of itself: a line an epoch, run.json, and the summary at the end."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from manifests.console import format_seconds
from trainer.losses import LOSSES

if TYPE_CHECKING:
    import torch

    from trainer.order import BatchPlan
    from trainer.recipes import TrainConfig
    from trainer.run_record import Row, State
    from trainer.student import Student
    from trainer.task import Task, Validation

_PACKAGES = ("prune-toolkit", "torch", "torchvision", "timm", "ffcv", "numpy", "pyarrow", "pillow")


def opening_lines(task: Task, config: TrainConfig, plan: BatchPlan) -> list[str]:
    """What a run is about to do: the data, the recipe, and what may surprise."""
    manifest, selection = task.manifest, task.manifest.header.selection
    chosen = "" if selection is None else f" of {manifest.header.data.count:,}, {selection.method}"
    lines = [
        f"{manifest.path}: {manifest.kind} {manifest.id[:12]}, {task.beton.count:,} samples{chosen}",
        f"recipe {config.recipe}: {config.student} at {config.image_px} px, {config.epochs} epochs x "
        f"{plan.steps_per_epoch} steps of {plan.batch_size} (a fixed-epoch budget), loss {config.loss}",
    ]
    if plan.batch_size < config.batch_size:
        lines.append(f"fewer samples than --batch-size {config.batch_size}: {plan.batch_size} a step")
    augmented = config.augment not in ("replay", "none")
    if LOSSES[config.loss].needs_targets and augmented:
        lines.append(
            f"labels are those of view 0; {config.augment} shows crops that the teacher did not score "
            "(--augment none: only what it scored)"
        )
    return lines


def epoch_line(row: Row, epochs: int, best: Row | None) -> str:
    """One epoch on one line."""
    parts = [
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}",
        f"lr {row['lr']:.4g}",
        f"loss {row['train_loss']:.4f}",
        f"train top-1 {_percent(row['train_top1'])}",
    ]
    if row["val_top1"] is not None and best is not None:
        parts.append(f"val top-1 {_percent(row['val_top1'])} top-5 {_percent(row['val_top5'])}")
        parts.append(f"best {_percent(best['val_top1'])} ({best['epoch']})")
    parts.append(f"{row['images_per_s']:,.0f} images/s")
    return "  ".join(parts)


def run_report(
    task: Task,
    config: TrainConfig,
    plan: BatchPlan,
    student: Student,
    state: State,
    *,
    resolved: Mapping[str, Any],
    validation: Validation | None,
    loader: str,
) -> dict[str, Any]:
    """What run.json holds."""
    import torch

    header = task.manifest.header
    times = {
        name: sum(float(row[name] or 0.0) for row in state.history)
        for name in ("waiting_for_data_s", "compute_s", "evaluation_s", "total_s")
    }
    known_s = times["waiting_for_data_s"] + times["compute_s"] + times["evaluation_s"]
    times["other_s"] = max(0.0, times["total_s"] - known_s)
    images = plan.batch_size * plan.steps_per_epoch * config.epochs
    return {
        "config": dict(resolved),
        "manifest": {
            "id": task.manifest.id,
            "kind": task.manifest.kind,
            "data": header.data.name,
            "selection": header.selection.method if header.selection is not None else None,
            "keep": header.selection.keep_got if header.selection is not None else 1.0,
        },
        "validation": None if validation is None else {"data": validation.identity, "count": validation.count},
        "student": {
            "spec": student.info.spec,
            "parameters": sum(parameter.numel() for parameter in student.model.parameters()),
            "preprocessing": student.info.preprocessing.model_dump(),
        },
        "samples": task.beton.count,
        "batch_size": plan.batch_size,
        "steps_per_epoch": plan.steps_per_epoch,
        "budget": "fixed epochs",
        "loader": loader,
        "device": device_name(student.device),
        "threads": torch.get_num_threads(),
        "world_size": plan.world_size,
        "versions": versions(),
        "time": times | {"images_per_s": images / max(times["waiting_for_data_s"] + times["compute_s"], 1e-9)},
        "last": _result(state.history[-1]),
        "best": _result(state.best),
    }


def versions() -> dict[str, str]:
    """Versions of what the result depends on; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """The device as its maker calls it."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return f"cpu {platform.machine()}"


def summary(report: Mapping[str, Any], out: str) -> str:
    """The end of a run for people, four lines."""
    manifest, times, last, best = (report[name] for name in ("manifest", "time", "last", "best"))
    learned = f"{report['samples']:,} samples of {manifest['kind']} {manifest['id'][:12]}"
    lines = [f"{report['student']['spec']} learned from {learned} in {format_seconds(times['total_s'])}"]
    if best is not None:
        lines += [_result_line("last", last), _result_line("best", best)]
    else:
        lines.append(f"  train top-1 {_percent(last['train_top1'])}; not validated: name images with --val")
    total_s = max(times["total_s"], 1e-9)
    shares = ", ".join(
        f"{what} {100 * times[name] / total_s:.0f} %"
        for what, name in (
            ("waiting for data", "waiting_for_data_s"),
            ("compute", "compute_s"),
            ("evaluation", "evaluation_s"),
            ("set-up and saving", "other_s"),
        )
    )
    lines += [f"  {shares}; {times['images_per_s']:,.0f} images/s", f"  {out}/student.safetensors"]
    return "\n".join(lines)


def _result_line(name: str, result: Mapping[str, Any]) -> str:
    return (
        f"  {name}  top-1 {_percent(result['top1'])}  top-5 {_percent(result['top5'])}  "
        f"loss {result['loss'] if result['loss'] is None else format(result['loss'], '.4f')}  (epoch {result['epoch']})"
    )


def _result(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        "epoch": row["epoch"],
        "top1": row["val_top1"],
        "top5": row["val_top5"],
        "loss": row["val_loss"],
        "train_loss": row["train_loss"],
        "train_top1": row["train_top1"],
    }


def _percent(fraction: float | int | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} %"
