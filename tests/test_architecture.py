"""The rooms of the house and the floors they stand on: arrows point down, and nothing runs in a circle."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = """
manifests: errors images
manifests: base
manifests: betons stores untrusted
manifests: format
manifests: sources
manifests: manifest
manifests: card integrity tables
manifests: hidden share
manifests: compare copies
manifests: __init__
trainer: config
trainer: losses models
trainer: data teachers
trainer: loop
trainer: cli
trainer: __init__ __main__
prune_toolkit: quotas work
prune_toolkit: images
prune_toolkit: export indexing suspecting
prune_toolkit: model_export scoring
prune_toolkit: combine evaluation selection
prune_toolkit: imports labelling
prune_toolkit: api
prune_toolkit: cli
prune_toolkit: sweep
prune_toolkit: main
prune_toolkit: entry
prune_toolkit: __init__ __main__ demo
"""
"""From the ground up. A room (a folder, or a file beside the folders) may import from lower floors alone."""

FLOOR_OF = {
    f"{package}.{room}": floor
    for floor, (package, rooms) in enumerate(line.split(": ") for line in FLOORS.strip().splitlines())
    for room in rooms.split()
}


def sources() -> dict[str, str]:
    """Module name, and source, of every file of the three packages."""
    found = {}
    for package in ("manifests", "trainer", "prune_toolkit"):
        for path in sorted((ROOT / package).rglob("*.py")):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path.read_text("utf-8")
    return found


def imported(source: str, modules: Iterable[str]) -> Iterator[str]:
    """Modules that a file names: in an import anywhere in it, or as a string that is imported late."""
    known = {name.removesuffix(".__init__"): name for name in modules}
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else str(node.module) for name in inner]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            names = [node.value]
        yield from (known[name] for name in names if name in known)


def room_of(module: str) -> str:
    package, _, rest = module.partition(".")
    return f"{package}.{rest.partition('.')[0]}"


def arrows_up(files: Mapping[str, str]) -> list[str]:
    """Imports that do not lead to a lower floor, those within a room apart."""
    return [
        f"{module} -> {other}"
        for module, source in files.items()
        for other in imported(source, files)
        if room_of(module) != room_of(other) and FLOOR_OF[room_of(module)] <= FLOOR_OF[room_of(other)]
    ]


def test_every_room_stands_on_a_floor() -> None:
    assert {room_of(module) for module in sources()} == FLOOR_OF.keys()


def test_the_rooms_in_the_docs_are_these() -> None:
    told, package = [], ""
    for line in (ROOT / "docs" / "architecture.md").read_text("utf-8").splitlines():
        if line.startswith("### "):
            package = line.removeprefix("### ")
        elif row := re.match(r"\| (\d+) \| (`.*?`) \|", line):
            told += [(f"{package}.{room}", int(row[1])) for room in re.findall(r"`(\w+)`", row[2])]
    lowest: dict[str, int] = {}
    for room, floor in FLOOR_OF.items():
        lowest.setdefault(room.partition(".")[0], floor)
    assert told == [(room, floor - lowest[room.partition(".")[0]] + 1) for room, floor in FLOOR_OF.items()]


def test_every_arrow_points_down() -> None:
    assert not arrows_up(sources())


def test_no_files_import_each_other_in_a_circle() -> None:
    files = sources()
    faces = {name for name in files if name.endswith(".__init__")}
    graph = {name: set(imported(text, files)) - {name} for name, text in files.items()}
    # What is imported through a folder's face is imported from the files behind it.
    assert not any(graph[name] & {face} for face in faces for name in graph[face])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    "planted",
    [
        "from trainer.data.batches import Batch",
        "import prune_toolkit.main",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from manifests import Manifest",
        "def late():\n    from manifests.copies import check",
        "HOME = {'late': 'manifests.compare.diff'}",
    ],
)
def test_an_arrow_that_points_up_is_found_wherever_it_is_drawn(planted: str) -> None:
    files = sources()
    files["manifests.format.header"] += f"\n{planted}\n"
    assert len(arrows_up(files)) == 1


def test_a_circle_within_a_room_is_found() -> None:
    files = {
        "manifests.base.files": "import manifests.base.layout",
        "manifests.base.layout": "import manifests.base.files",
    }
    graph = {name: set(imported(text, files)) for name, text in files.items()}
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()
