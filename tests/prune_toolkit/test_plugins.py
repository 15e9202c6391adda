"""A tiny package, really installed, brings a score of each set and a selector."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from manifests.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "tiny-methods"
version = "1.2"

[project.entry-points."prune_toolkit.plugins"]
tiny = "tiny_methods"

[tool.setuptools]
py-modules = ["tiny_methods"]
"""


def methods_of_the_docs():
    """The example of docs/methods.md: the package of this test, word for word."""
    section = (ROOT / "docs" / "methods.md").read_text("utf-8").partition("## Methods of your own")[2]
    return re.search(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL).group(1)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the package was installed into."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "project").mkdir()
    (folder / "project" / "pyproject.toml").write_text(PROJECT)
    (folder / "project" / "tiny_methods.py").write_text(methods_of_the_docs())
    options = ("--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(folder / "project"))
    uv = shutil.which("uv") or (str(ROOT / ".uv/bin/uv") if (ROOT / ".uv/bin/uv").is_file() else None)
    # Asked of a child: looking for pip here makes setuptools warn of a distutils that is imported already.
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
        words = [sys.executable, "-m", "pip", "install", "--quiet", *options]
    elif uv is not None:
        words = [uv, "pip", "install", "--quiet", "--offline", "--python", sys.executable, *options]
    else:
        pytest.skip("neither pip nor uv is here to install a package with")
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return folder / "site"


@pytest.fixture
def with_plugin(installed, teachers, prune):
    """Run `prune ARGS` in a child in which the package can be imported."""

    def run(*arguments, **options):
        path = f"{installed}:{teachers}"
        return prune(*arguments, launcher=(sys.executable, "-m", "prune_toolkit"), PYTHONPATH=path, **options)

    return run


def test_an_installed_package_brings_scores_and_a_selector(with_plugin, tmp_path):
    listed = {entry["name"]: entry for entry in json.loads(with_plugin("list", "scores", "--json").stdout)}
    assert listed["gap"] | {"set": "teacher", "harder": "low", "from": "tiny-methods 1.2"} == listed["gap"]
    assert listed["length"]["set"] == "features"
    assert "from" not in listed["loss"]
    assert "first" in {entry["name"] for entry in json.loads(with_plugin("list", "selectors", "--json").stdout)}

    teacher = ("--teacher", "resnet8", "--random-weights", "--image-size", 8, "--threads", 1)
    with_plugin("score", "demo:digits", *teacher, "--features", "-o", tmp_path / "m")
    manifest = Manifest.open(tmp_path / "m")
    [(ids, logits)], [(_, features)] = manifest.logits(), manifest.features()
    logits, features = logits.astype(np.float64), features.astype(np.float64)
    np.testing.assert_allclose(
        manifest.scores().column("gap").to_numpy(), logits.max(axis=1) - logits.mean(axis=1), rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(
        manifest.scores("features").column("length").to_numpy(), np.linalg.norm(features, axis=1), rtol=1e-5
    )
    assert manifest.header.config["scores"] == {"gap": "tiny-methods 1.2", "length": "tiny-methods 1.2"}
    with_plugin(
        "select", tmp_path / "m", "--keep", 0.1, "--labels", "raw", "--score", "gap", "-o", tmp_path / "by-score"
    )
    with_plugin(
        "select",
        tmp_path / "m",
        "--keep",
        0.1,
        "--labels",
        "raw",
        "--selector",
        "first",
        "-o",
        tmp_path / "by-selector",
    )
    kept = Manifest.open(tmp_path / "by-selector").selection().to_pandas()
    label = manifest.samples().to_pandas()["label"]
    for _, of_class in kept.groupby(label)["keep"]:
        assert of_class.is_monotonic_decreasing
    assert kept["keep"].sum() == round(0.1 * len(ids))


def test_without_the_package_its_scores_are_unknown_and_its_parts_do_not_count(with_plugin, prune, tmp_path):
    teacher = ("--teacher", "teachers:linear", "--image-size", 8, "--threads", 1)
    with_plugin("score", "demo:digits", *teacher, "-o", tmp_path / "with")
    names = {entry["name"] for entry in json.loads(prune("list", "scores", "--json").stdout)}
    assert not names & {"gap", "length"}
    other = prune("score", "demo:digits", *teacher, "-o", tmp_path / "with", code=2)
    assert "made with other options (scores differ)" in other.stderr
    (tmp_path / "with" / "manifest.json").unlink()
    prune("score", "demo:digits", *teacher, "-o", tmp_path / "with")
    prune("score", "demo:digits", *teacher, "-o", tmp_path / "without")
    made = [Manifest.open(tmp_path / name) for name in ("with", "without")]
    assert made[0].id == made[1].id
    assert "gap" not in made[0].scores().column_names


def test_a_broken_package_is_named_by_every_command_that_looks_for_methods(installed, with_plugin, tmp_path):
    shutil.copytree(installed, tmp_path / "site")
    (tmp_path / "site" / "tiny_methods.py").write_text("import a_module_that_is_not_there\n")
    launcher = (sys.executable, "-m", "prune_toolkit")
    for words in (["list", "scores"], ["list", "selectors"]):
        run = subprocess.run(
            [*launcher, *words], env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True, check=False
        )
        assert run.returncode == 2
        assert "the plug-in tiny of tiny-methods 1.2 cannot be imported: ModuleNotFoundError" in run.stderr
        assert "Traceback" not in run.stderr
    run = subprocess.run(
        [*launcher, "--help"], env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0
