"""Write a student for other libraries, load it there again, and compare: what differs is not written."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from manifests.base.files import scratch_folder, write_together
from manifests.errors import InputError, PruneError, UsageError
from prune_toolkit.export.export import refuse_existing, renamed_when_done
from prune_toolkit.model_export.check import Difference, difference
from prune_toolkit.model_export.exportable import Exportable
from prune_toolkit.model_export.formats import Format, quiet
from prune_toolkit.model_export.onnx_file import ONNX
from prune_toolkit.model_export.timm_folder import HF, TIMM
from prune_toolkit.model_export.torch_files import TORCH_EXPORT, TORCHSCRIPT
from trainer.models.zoos import reason

FORMATS: Mapping[str, Format] = {form.name: form for form in (ONNX, TORCHSCRIPT, TORCH_EXPORT, TIMM, HF)}


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """What was written, and how far it is from the module."""

    path: Path
    format: str
    bytes: int
    facts: dict[str, Any]
    difference: Difference

    def as_json(self) -> dict[str, Any]:
        """Return everything."""
        return {
            "path": str(self.path),
            "format": self.format,
            "bytes": self.bytes,
            "checked_images": self.difference.images,
            "largest_difference": self.difference.largest,
            "largest_logit": self.difference.largest_logit,
            **self.facts,
        }


def format_of(name: str, *, with_normalisation: bool) -> Format:
    """Return a format by its name; UsageError if it is unknown or cannot do what is asked."""
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r}", hint=f"known: {', '.join(FORMATS)}")
    form = FORMATS[name]
    if with_normalisation and not form.normalises:
        raise UsageError(
            f"--with-normalisation cannot be used with --to {name}: its folder says how images are normalised, and the "
            "library does it",
            hint="leave it out",
        )
    return form


def facts_path(path: Path) -> Path:
    """Return the path of the JSON beside an exported file."""
    return path.with_name(f"{path.name}.json")


def export_student(model: Exportable, form: Format, out: Path, images: torch.Tensor) -> ExportedModel:
    """Write a student to `out`, all or nothing; it is checked on uint8 images (n, 3, S, S).

    Raises UsageError if something is there already, or for a network that the format does not take; InputError if the
    other library fails or its logits differ.
    """
    refuse_existing(out, folder=form.is_folder)
    if not form.is_folder:
        refuse_existing(facts_path(out))
    with scratch_folder("export-model") as scratch:
        made = scratch / f"exported{out.suffix}"
        if form.is_folder:
            made.mkdir()
        compared = _made_and_compared(model, form, made, images)
        if form.is_folder:
            with renamed_when_done(out) as unfinished:
                shutil.copytree(made, unfinished, dirs_exist_ok=True)
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        else:
            data = made.read_bytes()
            text = json.dumps({"format": form.name, **model.facts()}, indent=1, ensure_ascii=False)
            write_together({facts_path(out): f"{text}\n".encode(), out: data})
            size = len(data)
    return ExportedModel(path=out, format=form.name, bytes=size, facts=model.facts(), difference=compared)


def _made_and_compared(model: Exportable, form: Format, path: Path, images: torch.Tensor) -> Difference:
    try:
        with quiet():
            form.write(model, path)
            exported = form.load(path)
        compared = difference(model, exported, images)
    except PruneError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise InputError(
            f"{model.info.spec} cannot be exported to {form.name}: {reason(error)}",
            hint="another format may take it: --to " + ", ".join(name for name in FORMATS if name != form.name),
        ) from error
    if not compared.is_small:
        raise InputError(
            f"exported to {form.name}, {model.info.spec} says something else: logits differ by {compared.largest:.3g} "
            f"on {compared.images} images (the largest is {compared.largest_logit:.3g}); nothing is written",
            hint="another format may keep them: --to " + ", ".join(name for name in FORMATS if name != form.name),
        )
    return compared
