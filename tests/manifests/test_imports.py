import json
import pkgutil
import subprocess
import sys

import manifests

MODULES = sorted(module.name for module in pkgutil.walk_packages(manifests.__path__, "manifests."))
HEAVY = {"torch", "torchvision", "ffcv", "numba", "cv2", "pandas", "matplotlib", "sklearn"}


def loaded_by(code: str) -> set[str]:
    """Names of all modules that a fresh interpreter holds after some code."""
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_no_module_of_manifests_imports_torch_ffcv_or_a_floor_above() -> None:
    assert {"manifests.betons.reader", "manifests.base.progress", "manifests.sources.folder"} <= set(MODULES)
    loaded = loaded_by("\n".join(f"import {name}" for name in MODULES))
    assert not loaded & HEAVY
    assert not {name for name in loaded if name.partition(".")[0] in ("trainer", "prune_toolkit")}


def test_the_package_itself_and_the_console_load_neither_arrays_nor_tables() -> None:
    assert not loaded_by("import manifests, trainer.cli.console") & {"numpy", "pyarrow", "pydantic", "rich", "PIL"}


def test_public_names_are_sorted_and_all_there() -> None:
    assert manifests.__all__ == sorted(manifests.__all__)
    for name in manifests.__all__:
        assert getattr(manifests, name).__name__ == name
    assert {"Beton", "Manifest", "open_source", "verify"} <= set(manifests.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    assert not hasattr(manifests, "write_everything")


def test_verify_is_the_function_whatever_was_imported_before() -> None:
    for first in ("import manifests.integrity\n", "from manifests import Manifest, Beton, open_source, verify\n"):
        twice = "from manifests import verify\n" * 2
        loaded_by(f"{first}{twice}assert verify.__class__.__name__ == 'function', verify")
