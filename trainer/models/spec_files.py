"""What a file or folder named as a teacher is, and what to do with one that cannot be read. Torch-free."""

import zipfile
from pathlib import Path
from typing import Literal

from manifests.errors import InputError, UsageError

Kind = Literal["safetensors", "torchscript", "pt2", "onnx", "run", "transformers"]

WEIGHT_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar", ".pkl", ".pickle")
NETWORK_SUFFIXES = (".safetensors", ".ts", ".pt2", ".onnx")
OTHER_SUFFIXES = {
    ".h5": "Keras",
    ".hdf5": "Keras",
    ".keras": "Keras",
    ".pb": "TensorFlow",
    ".tflite": "TensorFlow Lite",
    ".msgpack": "JAX",
}
CONFIG_NAME = "config.json"
STUDENT_NAME, RUN_NAME = "student.safetensors", "run.json"
IMPORT_LOGITS = "run it where it runs, and bring its logits: prune import logits.npy index --logits --teacher-name NAME"


def kind_of(spec: str) -> Kind | None:
    """Return what kind of file or folder a spec names, None if it names none.

    Raises InputError for a missing file and for files of other frameworks, UsageError for weights without a network.
    """
    if not spec:
        return None
    path = Path(spec)
    suffix = path.suffix.lower()
    refuse_other_frameworks(path)
    if path.is_dir():
        return _kind_of_folder(path)
    if suffix not in (*WEIGHT_SUFFIXES, *NETWORK_SUFFIXES):
        return None
    if suffix in WEIGHT_SUFFIXES and archive_kind(path) is None:
        raise UsageError(
            f"{spec} holds weights, but does not say for which network",
            hint=f"name the network, and the file as its weights: resnet32x4 --checkpoint {spec}",
        )
    if not path.is_file():
        what = "weights" if suffix == ".safetensors" else "network"
        raise InputError(f"no {what} at {path}: no such file", hint="check the path")
    if suffix in (".safetensors", ".onnx"):
        return "safetensors" if suffix == ".safetensors" else "onnx"
    found = archive_kind(path)
    if found is None:
        raise InputError(f"{path} is not a file of torch.jit.save or torch.export.save, or it is damaged")
    return found


def archive_kind(path: Path) -> Literal["torchscript", "pt2"] | None:
    """Return whether a file is of torch.jit.save or torch.export.save, None for any other."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return None
    inside = {name.partition("/")[2] for name in names}
    if "archive_format" in inside or "serialized_exported_program.json" in names:
        return "pt2"
    return "torchscript" if "constants.pkl" in inside else None


def refuse_other_frameworks(path: Path) -> None:
    """Raise InputError for networks of Keras, TensorFlow and JAX."""
    framework = OTHER_SUFFIXES.get(path.suffix.lower())
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            framework = "TensorFlow"
        elif (path / "_METADATA").is_file() or (path / "checkpoint").is_file():
            framework = "JAX"
    if framework is not None and path.exists():
        raise InputError(f"{path} is a network of {framework}, which is not run here", hint=IMPORT_LOGITS)


def _kind_of_folder(path: Path) -> Kind:
    if (path / RUN_NAME).is_file() and (path / STUDENT_NAME).is_file():
        return "run"
    if (path / CONFIG_NAME).is_file() and b'"architectures"' in (path / CONFIG_NAME).read_bytes():
        return "transformers"
    raise InputError(
        f"the folder {path} is not a teacher",
        hint=f"a folder of train-student holds {RUN_NAME} and {STUDENT_NAME}, one of transformers {CONFIG_NAME} with "
        "its architectures; or name a file",
    )
