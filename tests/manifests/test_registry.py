"""Registries and the plug-ins that join them: here entry points by hand; test_plugins.py installs a package."""

import sys
from importlib.metadata import EntryPoint

import pytest

from manifests.base import registry
from manifests.base.registry import PLUGIN_GROUP, Registry
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
    exec(compile(f"found.add({name!r}, object())", "file.py", "exec"), {"__name__": module, "found": found})


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
        "from trainer.loop.dynamic import Arm, DYNAMIC\n"
        "DYNAMIC.add('still', Arm(rows_of=None, formula='', source=''))\n"
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
            "from trainer.loop.dynamic import Arm, DYNAMIC\n"
            "DYNAMIC.add('own', Arm(rows_of=None, formula='', source='', options={'speed': 1.0}))\n",
            "ValueError: dynamic arm 'own' has an option 'speed'",
        ),
        (
            "from prune_toolkit.scoring.score import SCORES, Score\n"
            "SCORES.add('own', Score(name='own', set='teacher', harder='high', formula='', source='', needs=(),\n"
            "                        cost='', function=len))\n",
            "ValueError: score 'own' is a Score of set teacher, but none is computed from it",
        ),
        (
            "from prune_toolkit.scoring.logit_scores import LogitScore, SCORES\n"
            "SCORES.add('own', LogitScore(name='own', set='features', harder='high', formula='', source='', needs=(),\n"
            "                             cost='', function=len))\n",
            "ValueError: score 'own' is a LogitScore of set features, but one of those is of set teacher",
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
