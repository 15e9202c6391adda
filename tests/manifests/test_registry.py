"""Registries and the plug-ins that join them: here entry points by hand; test_plugins.py installs a package."""

import subprocess
import sys
from hashlib import sha256
from importlib.metadata import EntryPoint

import pytest

from manifests.base import registry
from manifests.base.registry import PLUGIN_FILES, PLUGIN_GROUP, Registry, load_plugin_file
from manifests.errors import UsageError


class Distribution:
    name, version = "tiny-methods", "1.2"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A function that makes a module of some code and names it as the one plug-in there is."""

    def install(code, name="tiny_plugin"):
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        entry = EntryPoint("tiny", name, PLUGIN_GROUP)
        vars(entry)["dist"] = Distribution()
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry] if group == PLUGIN_GROUP else [])
        monkeypatch.setattr(registry, "_PLUGINS", registry._Plugins())
        # What is loaded writes it for its children; set here, it is what it was after the test.
        monkeypatch.setenv(PLUGIN_FILES, "")

    return install


@pytest.fixture
def colours(monkeypatch):
    found = Registry("colour")
    found.add("red", 1)
    module = type(sys)("colours_of_test")
    module.COLOURS = found
    monkeypatch.setitem(sys.modules, "colours_of_test", module)
    return found


ADDS_BLUE = "from colours_of_test import COLOURS\nCOLOURS.add('blue', 2)\n"


@pytest.mark.parametrize(
    "look_up",
    [
        lambda found: found["blue"] == 2,
        lambda found: "blue" in found,
        lambda found: list(found) == ["red", "blue"],
        lambda found: len(found) == 2,
        lambda found: found.origin("blue") == "tiny-methods 1.2",
    ],
)
def test_every_way_to_look_something_up_knows_the_plug_ins(plugin, colours, look_up):
    plugin(ADDS_BLUE)
    assert look_up(colours)


def test_a_plug_in_is_imported_when_something_is_looked_up_and_then_once(plugin, colours):
    plugin(ADDS_BLUE)
    assert "tiny_plugin" not in sys.modules
    assert colours["red"] == 1
    assert "tiny_plugin" in sys.modules
    assert sorted(colours) == ["blue", "red"]
    assert colours.origin("red") is None


def test_a_plug_in_may_look_up_what_there_is(plugin, colours):
    plugin(ADDS_BLUE + "COLOURS.add('violet', COLOURS['red'] + COLOURS['blue'])\n")
    assert colours["violet"] == 3


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import no_such_module_at_all\n", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        (
            "from colours_of_test import COLOURS\nCOLOURS.add('red', 2)\n",
            "ValueError: colour 'red' is registered already",
        ),
        ("raise SystemExit\n", "SystemExit"),
        ("def f(:\n", "SyntaxError"),
    ],
)
def test_a_broken_plug_in_is_named_with_its_distribution_at_every_look_up(plugin, colours, code, reason):
    plugin(code)
    for _ in range(2):
        with pytest.raises(UsageError) as caught:
            colours["red"]
        assert caught.value.message.startswith(f"the plug-in tiny of tiny-methods 1.2 cannot be imported: {reason}")
        assert "tiny_plugin" in caught.value.hint


def imported_as(module, found, name):
    """What happens when a file of some package adds an entry while it is imported."""
    code = f"def entry(): ...\nfound.add({name!r}, entry)"
    exec(compile(code, "file.py", "exec"), {"__name__": module, "found": found})


def test_a_file_of_ours_that_a_plug_in_is_the_first_to_import_stays_ours(plugin, colours):
    colours.imported_as = imported_as
    plugin(
        "from colours_of_test import COLOURS\n"
        "COLOURS.imported_as('prune_toolkit.colours', COLOURS, 'ours')\n"
        "def add_one(name):\n    COLOURS.add(name, object())\n"
        "add_one('theirs')\n"
    )
    assert colours.origin("ours") is None
    assert colours.origin("theirs") == "tiny-methods 1.2"


EVERY_REGISTRY = """
from prune_toolkit.quotas.quotas import QUOTAS
from prune_toolkit.scoring import logit_scores
from prune_toolkit.scoring.score import SCORES
from prune_toolkit.selection.labels import LABELS
from prune_toolkit.selection.selectors import SELECTORS
from trainer.data.views import VIEW_RECIPES
from trainer.loop.dynamic import DYNAMIC
from trainer.loop.recipes import RECIPES
from trainer.loop.schedules import SCHEDULES
from trainer.losses import LOSSES
from trainer.models.built_in import MODELS

EVERY = QUOTAS, SCORES, LABELS, SELECTORS, VIEW_RECIPES, DYNAMIC, RECIPES, SCHEDULES, LOSSES, MODELS
"""


def test_none_of_our_methods_is_a_plug_ins_that_is_the_first_to_import_them(tmp_path):
    text = EVERY_REGISTRY + "RECIPES.add('theirs', {})\n"
    (tmp_path / "greedy.py").write_text(text)
    code = (
        "from pathlib import Path\n"
        "from manifests.base.registry import load_plugin_file\n"
        "load_plugin_file(Path('greedy.py'))\n"
        f"{EVERY_REGISTRY}"
        "assert all(map(len, EVERY))\n"
        "print([(name, found.origin(name)) for found in EVERY for name in found if found.origin(name)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    digest = sha256(text.encode()).hexdigest()[:12]
    assert done.stdout == f"[('theirs', 'greedy.py {digest}')]\n", done.stderr


def test_a_method_of_a_script_comes_from_its_module(plugin, colours):
    plugin("")
    imported_as("my_script", colours, "green")
    assert colours.origin("green") == "my_script"


def test_a_plug_in_that_takes_a_name_of_ours_first_is_named(plugin, colours):
    plugin(ADDS_BLUE)
    assert "blue" in colours
    with pytest.raises(UsageError, match=r"colour 'blue' of tiny-methods 1\.2 has the name of one of this toolkit's"):
        imported_as("trainer.colours", colours, "blue")
    with pytest.raises(ValueError, match="registered already by tiny-methods"):
        imported_as("elsewhere", colours, "blue")


def test_an_entry_of_a_class_of_ours_is_the_plug_ins_all_the_same(plugin):
    from trainer.loop.dynamic import DYNAMIC

    code = (
        "from trainer.loop.dynamic import DYNAMIC, DynamicMethod\n"
        "DYNAMIC.add('still', DynamicMethod(rows_of=None, formula='', source=''))\n"
    )
    plugin(code)
    try:
        assert DYNAMIC.origin("still") == "tiny-methods 1.2"
        assert DYNAMIC.origin("rs2") is None
    finally:
        del DYNAMIC._entries["still"], DYNAMIC._origins["still"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "from trainer.loop.dynamic import DYNAMIC, DynamicMethod\n"
            "DYNAMIC.add('own', DynamicMethod(rows_of=None, formula='', source='', options={'speed': 1.0}))\n",
            "ValueError: dynamic arm 'own' has an option 'speed'",
        ),
        (
            "from prune_toolkit.scoring.score import SCORES, Score\n"
            "SCORES.add('own', Score(name='own', set='teacher', harder='high', formula='', source='', needs=(),\n"
            "                        cost='', function=len))\n",
            "ValueError: score 'own' is a Score of set teacher, but that class is never computed",
        ),
        (
            "from prune_toolkit.scoring.logit_scores import LogitScore, SCORES\n"
            "SCORES.add('own', LogitScore(name='own', set='features', harder='high', formula='', source='', needs=(),\n"
            "                             cost='', function=len))\n",
            "ValueError: score 'own' is a LogitScore of set features, but that class is of set teacher",
        ),
    ],
)
def test_what_a_plug_in_adds_and_nothing_could_use_is_named(plugin, colours, code, reason):
    plugin(code)
    with pytest.raises(UsageError) as caught:
        colours["red"]
    assert reason in caught.value.message


def test_an_unknown_name_lists_the_known_ones(colours):
    with pytest.raises(UsageError, match="unknown colour 'green'") as caught:
        colours["green"]
    assert caught.value.hint == "known: red"


def test_a_name_can_be_taken_once(colours):
    with pytest.raises(ValueError, match="colour 'red' is registered already"):
        colours.add("red", 5)


def test_a_file_is_imported_once_as_a_plug_in_beside_those_installed(plugin, colours, tmp_path):
    plugin(ADDS_BLUE)
    file = tmp_path / "random.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom colours_of_test import COLOURS\n"
        "@dataclass\nclass Shade:\n    of: 'int' = COLOURS['blue']\n"
        "COLOURS.add('navy', Shade())\n"
    )
    for _ in range(2):
        load_plugin_file(file)
    assert [(name, colours.origin(name)) for name in colours] == [
        ("red", None),
        ("blue", "tiny-methods 1.2"),
        ("navy", f"random.py {sha256(file.read_bytes()).hexdigest()[:12]}"),
    ]
    assert sys.modules["random"].__file__ != str(file)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module_at_all\n", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("def f(:\n", "SyntaxError: invalid syntax"),
        (
            "from colours_of_test import COLOURS\nCOLOURS.add('blue', 2)\n",
            "ValueError: colour 'blue' is registered already by tiny-methods 1.2",
        ),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_the_reason(plugin, colours, tmp_path, code, reason):
    plugin(ADDS_BLUE)
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(UsageError) as caught:
        load_plugin_file(file)
    assert caught.value.message.startswith(f"the plug-in {file} cannot be imported: {reason}")
    # Nothing but the file is broken.
    assert colours.origin("blue") == "tiny-methods 1.2"


def test_what_is_not_a_python_file_is_not_a_plug_in(plugin, tmp_path):
    plugin("")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder.py").mkdir()
    for name in ("absent.py", "notes.txt", "folder.py"):
        with pytest.raises(UsageError, match=f"{name} is not a Python file"):
            load_plugin_file(tmp_path / name)
