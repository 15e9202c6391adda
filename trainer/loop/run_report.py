"""The reports of a run: a line per epoch, run.json, and the summary at the end."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from manifests.base.progress import format_seconds
from manifests.errors import InputError
from manifests.format.top_k import TEMPERATURES
from trainer.loop.dynamic import DYNAMIC, full_epochs
from trainer.loop.label_phases import described_phases
from trainer.loop.label_times import label_times, used_times
from trainer.loop.mixing import described_mixing
from trainer.loop.run_folder import EPOCHS_NAME, epoch_name
from trainer.loop.seta import window
from trainer.losses.annealing import spelled
from trainer.losses.settings import described

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from manifests.format.header import Header
    from trainer.config import TrainConfig
    from trainer.data.order import BatchPlan
    from trainer.data.stored import StoredLabels
    from trainer.data.task import Task, Validation
    from trainer.loop.budget import MatchTime
    from trainer.loop.run_folder import Row, State
    from trainer.loop.session import TrainingSession
    from trainer.models.info import ModelInfo

_PACKAGES = ("prune-toolkit", "torch", "torchvision", "timm", "ffcv", "numpy", "pyarrow", "pillow")


def opening_lines(task: Task, config: TrainConfig, plan: BatchPlan, match: MatchTime | None) -> list[str]:
    """Return lines about data, recipe and targets of a run."""
    manifest, selection = task.manifest, task.manifest.header.selection
    chosen = "" if selection is None else f" of {manifest.header.data.count:,}, {selection.method}"
    is_fixed = _has_fixed_steps(config)
    per_epoch = f"{'' if is_fixed else 'at most '}{plan.steps_per_epoch} steps of {plan.batch_size}"
    if match is not None:
        length = f"as many epochs of {per_epoch} as take {config.match_s:.4g} s, found by a trial"
    elif config.steps is not None:
        length = f"{config.steps:,} steps, {config.steps / plan.steps_per_epoch:.4g} epochs of {per_epoch}"
    else:
        length = f"{config.epochs} epochs x {per_epoch}"
    lines = [
        f"{manifest.path}: {manifest.kind} {manifest.id[:12]}, {task.beton.count:,} samples{chosen}",
        f"recipe {config.recipe}: {config.student} at {config.image_px} px, {length} ({budget(config, match)}), "
        f"loss {described(config)}",
        taught(task.stored, config),
    ]
    if task.is_unlabelled:
        lines.append(
            "no labels: the loss is KD alone, and training counts how often the student answers as the teacher"
        )
    if (tails := interpolated(config, task.stored.top_k)) is not None:
        lines.append(tails)
    if config.revise_eta is not None:
        which = "wrong ones" if config.revise_scope == "wrong" else "all of them"
        lines.append(f"labels are revised at T {spelled(config, 'temperature')}, eta {config.revise_eta:g}: {which}")
    if config.unsure_below is not None:
        lines.append(
            f"labels whose largest probability is below {config.unsure_below:g} are replaced by the true class, "
            f"smoothed by {config.unsure_smoothing:g}"
        )
    if config.label_schedule is not None:
        lines.append(described_phases(config, replays=config.policy == "replay" and config.augment != "none"))
    if config.mix_prob is not None:
        lines.append(described_mixing(config))
    if config.dot is not None:
        low, high = config.momentum - config.dot, config.momentum + config.dot
        lines.append(f"DOT: momentum {low:.4g} for the cross-entropy's gradient, {high:.4g} for that of the KD term")
    if config.dynamic is not None:
        lines.append(chosen_anew(config, plan, task.beton.count))
    if config.record_dynamics:
        norms = f", gradient norms in the first {config.record_grand}" if config.record_grand else ""
        norms += ", and how far predictions move" if config.record_kl else ""
        lines.append(f"dynamics of all samples are recorded in each epoch{norms}")
    if config.keep_epochs:
        lines.append(f"the student is kept after {_epochs(config.keep_epochs)}")
    if plan.batch_size < config.batch_size:
        lines.append(f"fewer samples than --batch-size {config.batch_size}: {plan.batch_size} per step")
    return lines


def interpolated(config: TrainConfig, top_k: int | None) -> str | None:
    """Return a line if stored labels of the K largest logits are used at temperatures at which they are not exact."""
    between = config.temperature not in TEMPERATURES or "temperature" in (config.annealed or {})
    if top_k is None or config.policy in (None, "online") or not between:
        return None
    exact = ", ".join(f"{temperature:g}" for temperature in TEMPERATURES)
    return f"labels of the {top_k} largest logits: their rest is stored for T {exact} and interpolated between these"


def chosen_anew(config: TrainConfig, plan: BatchPlan, count: int) -> str:
    """Return what a dynamic arm shows, on one line."""
    assert config.dynamic is not None
    if config.prune_ratio is not None and config.anneal is not None:
        last = full_epochs(config.epochs, config.anneal)
        full = "" if not last else "; the last epoch shows all" if last == 1 else f"; the last {last} epochs show all"
        return (
            f"{config.dynamic}: from epoch 2 a sample whose last loss is below the mean is left out with probability "
            f"{config.prune_ratio:g}, or counts {1 / (1 - config.prune_ratio):.3g} times{full}"
        )
    if config.groups is not None and config.window is not None and config.anneal is not None:
        drawn, last = plan.steps_per_epoch * plan.batch_size, full_epochs(config.epochs, config.anneal)
        full = f"; the last {f'{last} epochs show' if last > 1 else 'epoch shows'} all of these" if last else ""
        first, end = window(config.groups, config.window, 0)
        return (
            f"{config.dynamic}: {drawn:,} of {count:,} samples are drawn per epoch; from epoch 2 it shows "
            f"{end - first} of {config.groups} groups of them by last loss, in turn from easy to hard{full}"
        )
    if config.keep is not None:
        shown = plan.steps_per_epoch * plan.batch_size
        return f"{config.dynamic}: {shown:,} of {count:,} samples per epoch, different ones until all have been shown"
    return f"{config.dynamic}: {DYNAMIC[config.dynamic].formula}"


def _has_fixed_steps(config: TrainConfig) -> bool:
    return config.dynamic is None or DYNAMIC[config.dynamic].has_fixed_steps


def budget(config: TrainConfig, match: MatchTime | None) -> str:
    """Return what was held fixed: epochs, steps or time."""
    if match is not None:
        return f"time of {match.run}"
    return "fixed epochs" if config.steps is None else "fixed steps"


def taught(stored: StoredLabels, config: TrainConfig) -> str:
    """Return how views are taught, on one line."""
    shown = "view 0" if config.augment == "none" else f"fresh views of {config.augment}"
    if config.policy == "replay":
        views = stored.view_count - 1
        if stored.least_views is not None:
            return (
                f"replay: {_span(stored.least_views - 1, views)} training views of {config.augment} per sample, "
                f"{stored.mean_views - 1:.4g} on average, each with its own label; a view comes back after the others "
                "of its sample"
            )
        return (
            f"replay: {views} training view{'s' if views > 1 else ''} of {config.augment}, each with its own label; "
            f"a view comes back every {f'{views} epochs' if views > 1 else 'epoch'}"
        )
    if config.policy == "online":
        return f"online: {shown}, labelled by {config.teacher} as they are shown"
    if config.policy == "mean":
        over = f"{max(stored.view_count, stored.scored_views)} stored views"
        if stored.least_views is not None:
            span = _span(stored.least_views, stored.view_count)
            over = f"the {span} stored views of each sample, {stored.mean_views:.4g} on average"
        return f"mean: {shown}, the label is the mean over {over}"
    if config.policy is None:
        return f"labels alone: {shown}"
    if config.augment == "none":
        return "single: view 0 with its own label"
    return f"single: {shown} that the teacher did not score, with the label of view 0 (--augment none: only view 0)"


def _span(least: int, most: int) -> str:
    return f"{most}" if least == most else f"{least} to {most}"


_CHANGING = {"temperature": "T", "kd_weight": "kd", "hard_labels": "hard", "unsure": "unsure"}
"""Values of a row that change over the run, and their short names."""


def epoch_line(row: Row, config: TrainConfig, best: Row | None, plan: BatchPlan, *, unlabelled: bool = False) -> str:
    """Return the line about one epoch; unlabelled: top-1 in training is agreement with the teacher."""
    epochs = config.epochs
    parts = [
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}",
        f"lr {row['lr']:.4g}",
        f"loss {row['train_loss']:.4f}",
        f"{_top1_name(unlabelled)} {_percent(row['train_top1'])}",
    ]
    parts[2:2] = [f"{name} {row[value]:.3g}" for value, name in _CHANGING.items() if row.get(value) is not None]
    if not _has_fixed_steps(config):
        parts.insert(1, f"steps {row['steps']:>{len(str(plan.steps_per_epoch))}}/{plan.steps_per_epoch}")
    if row["val_top1"] is not None and best is not None:
        parts.append(f"val top-1 {_percent(row['val_top1'])} top-5 {_percent(row['val_top5'])}")
        parts.append(f"best {_percent(best['val_top1'])} ({best['epoch']})")
    parts.append(f"{row['images_per_s']:,.0f} images/s")
    return "  ".join(parts)


def _epochs(numbers: Sequence[int]) -> str:
    return f"epoch{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _top1_name(unlabelled: bool) -> str:
    return "agrees with the teacher" if unlabelled else "train top-1"


def run_report(
    session: TrainingSession,
    state: State,
    *,
    resolved: Mapping[str, Any],
    validation: Validation | None,
    match: MatchTime | None,
) -> dict[str, Any]:
    """Return the content of run.json."""
    import torch

    task, config, teacher = session.task, session.config, session.teacher
    header, plan, student, device = task.manifest.header, session.plan, session.student, session.student.device
    times = {
        name: sum(float(row[name] or 0.0) for row in state.history)
        for name in ("waiting_for_data_s", "compute_s", "recording_s", "evaluation_s", "total_s")
    }
    steps, samples_shown = (sum(int(row[name] or 0) for row in state.history) for name in ("steps", "samples_shown"))
    training_s = times["waiting_for_data_s"] + times["compute_s"]
    times["other_s"] = max(0.0, times["total_s"] - training_s - times["recording_s"] - times["evaluation_s"])
    times["training_s"] = training_s
    times["images_per_s"] = samples_shown / max(training_s, 1e-9)
    return {
        "config": dict(resolved),
        "manifest": {
            "id": task.manifest.id,
            "kind": task.manifest.kind,
            "data": header.data.name,
            **({"labels_from": header.data.labels_from} if task.is_unlabelled else {}),
            "selection": header.selection.method if header.selection is not None else None,
            "keep": header.selection.keep_got if header.selection is not None else 1.0,
        },
        "validation": None if validation is None else {"data": validation.identity, "count": validation.count},
        "student": _network(student.info, student.model),
        "teacher": None
        if teacher is None
        else {
            **_network(teacher.info, teacher.module),
            "weights_sha256": teacher.weights_sha256,
            "dtype": teacher.dtype,
        },
        "policy": config.policy,
        "samples": task.beton.count,
        "batch_size": plan.batch_size,
        "steps_per_epoch": plan.steps_per_epoch,
        "steps": steps,
        "steps_at_most": session.steps,
        "samples_shown": samples_shown,
        "dynamic": config.dynamic,
        "recorded": None
        if not config.record_dynamics
        else {"epochs": len(state.history), "grand_epochs": min(config.record_grand, len(state.history))},
        **({"epoch_students": {str(e): epoch_name(e) for e in config.keep_epochs}} if config.keep_epochs else {}),
        "budget": budget(config, match),
        "matched": None if match is None else {"asked_s": match.seconds, "got_s": training_s},
        "loader": session.loader.kind,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}",
        "threads": torch.get_num_threads(),
        "world_size": plan.world_size,
        "versions": versions(),
        "time": times,
        "labels_time": times_in_all(header, config.policy, training_s * plan.world_size),
        "last": _result(state.history[-1]),
        "best": _result(state.best),
    }


def times_in_all(header: Header, policy: str | None, training_s: float) -> dict[str, Any]:
    """Return the seconds that the manifest took, which of them the run used, and their sum with the training.

    All are sums over processes, training_s too; None if a header does not say.
    """
    labels = label_times(header)
    used = used_times(header, stored_labels=policy not in (None, "online"))
    known = [seconds for name in used if (seconds := labels[name]) is not None]
    return {**labels, "used": used, "total_s": training_s + sum(known) if len(known) == len(used) else None}


def _network(info: ModelInfo, model: nn.Module) -> dict[str, Any]:
    return {
        "spec": info.spec,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "preprocessing": info.preprocessing.model_dump(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what the result depends on; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def result_lines(report: Mapping[str, Any], out: str) -> str:
    """Return the summary of a finished run, for people."""
    manifest, times, last, best = (report[name] for name in ("manifest", "time", "last", "best"))
    learned = f"{report['samples']:,} samples of {manifest['kind']} {manifest['id'][:12]}"
    lines = [f"{report['student']['spec']} learned from {learned} in {format_seconds(times['total_s'])}"]
    if report["dynamic"] is not None:
        at_most = report["steps_at_most"]
        share = f", {100 * report['steps'] / at_most:.0f} % of {at_most:,}" if report["steps"] < at_most else ""
        lines.append(
            f"  {report['dynamic']}: {report['samples_shown']:,} images shown in {report['steps']:,} steps{share}"
        )
    if best is not None:
        lines += [_result_line("last", last), _result_line("best", best)]
    else:
        name = _top1_name("labels_from" in manifest)
        lines.append(f"  {name} {_percent(last['train_top1'])}; not validated: name images with --val")
    total_s = max(times["total_s"], 1e-9)
    shares = ", ".join(
        f"{what} {100 * times[name] / total_s:.0f} %"
        for what, name in (
            ("waiting for data", "waiting_for_data_s"),
            ("compute", "compute_s"),
            ("recording", "recording_s"),
            ("evaluation", "evaluation_s"),
            ("set-up and saving", "other_s"),
        )
        if times[name] or name != "recording_s"
    )
    kept = report["config"].get("keep_epochs", ())
    lines += [f"  {shares}; {times['images_per_s']:,.0f} images/s", _costs(report), f"  {out}/student.safetensors"]
    if kept:
        lines.append(f"  {out}/{EPOCHS_NAME}/: the student after {_epochs(kept)}")
    return "\n".join(lines)


def check_report(report: Mapping[str, Any], path: Path) -> None:
    """Raise InputError if the content of a run.json, at `path`, is not what a run writes."""
    try:
        result_lines(report, str(path.parent))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise InputError(
            f"{path} is not what train-student writes", hint="train it again with --fresh, or restore the file"
        ) from None


def _costs(report: Mapping[str, Any]) -> str:
    labels, ranks = report["labels_time"], report["world_size"]
    times = f" x {ranks} ranks" if ranks > 1 else ""
    parts = [f"training {format_seconds(report['time']['training_s'])}{times}"]
    for name in labels["used"]:
        if labels[name] is None or labels[name] > 0:
            parts.append(f"{name.removesuffix('_s')} {'?' if labels[name] is None else format_seconds(labels[name])}")
    whole = "" if labels["total_s"] is None else f" = {format_seconds(labels['total_s'])}"
    matched = report["matched"]
    asked = "" if matched is None else f"; {format_seconds(matched['asked_s'])} of training were requested"
    return f"  {' + '.join(parts)}{whole if len(parts) > 1 or ranks > 1 else ''}{asked}"


def _result_line(name: str, result: Mapping[str, Any]) -> str:
    return (
        f"  {name}  top-1 {_percent(result['top1'])}  top-5 {_percent(result['top5'])}  "
        f"loss {result['loss'] if result['loss'] is None else format(result['loss'], '.4f')}  (epoch {result['epoch']})"
    )


def _result(row: Row | None) -> dict[str, Any] | None:
    names = ("epoch", "val_top1", "val_top5", "val_loss", "train_loss", "train_top1")
    return None if row is None else {name.removeprefix("val_"): row[name] for name in names}


def _percent(fraction: float | int | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} %"
