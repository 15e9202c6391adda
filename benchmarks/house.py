"""Figures of the structure of a checkout: rooms and floors, arrows up, circles, lines, names that stand twice.

python benchmarks/house.py [CHECKOUT ...]
"""

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

PACKAGES = ("manifests", "trainer", "prune_toolkit")
Graph = Mapping[str, set[str]]


def trees_of(root: Path) -> dict[str, ast.Module]:
    """Module name and syntax tree of every file of the three packages."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return {module_of(path.relative_to(root)): ast.parse(path.read_text("utf-8")) for path in paths}


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.Module, modules: Iterable[str]) -> Iterator[str]:
    known = set(modules)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)


def folded(graph: Graph, depth: int) -> Graph:
    """The graph of folders: names cut after `depth` parts."""
    result: dict[str, set[str]] = defaultdict(set)
    for name, others in graph.items():
        short = ".".join(name.split(".")[:depth])
        result[short] |= {".".join(other.split(".")[:depth]) for other in others} - {short}
    return result


def circles(graph: Graph) -> list[set[str]]:
    """Sets of rooms that reach each other (strongly connected, more than one)."""

    def reached(start: str) -> set[str]:
        seen, ahead = set[str](), [start]
        while ahead:
            for other in graph.get(ahead.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    ahead.append(other)
        return seen

    reach = {name: reached(name) for name in graph}
    found = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph if name in reach[name]}
    return [set(circle) for circle in found if len(circle) > 1]


def floors(graph: Graph) -> int:
    """Rooms on the longest way down; rooms of a circle count once each."""
    done: dict[str, int] = {}

    def floor(name: str, above: frozenset[str]) -> int:
        if name not in done:
            below = [floor(other, above | {name}) for other in graph.get(name, ()) if other not in above]
            done[name] = 1 + max(below, default=0)
        return done[name]

    return max((floor(name, frozenset()) for name in graph), default=0)


def report(root: Path) -> None:
    trees = trees_of(root)
    graph = {name: set(imports(tree, trees)) - {name} for name, tree in trees.items()}
    files = {
        path: path.read_text("utf-8").count("\n") for package in PACKAGES for path in (root / package).rglob("*.py")
    }
    longest = max(files, key=lambda path: files[path])
    print(f"files {len(files)}, lines {sum(files.values()):,}, longest {files[longest]} ({longest.relative_to(root)})")
    tests = [path.read_text("utf-8") for path in (root / "tests").rglob("*.py")]
    print(
        f"lines of tests {sum(text.count(chr(10)) for text in tests):,}, test functions "
        f"{sum(text.count(chr(10) + 'def test_') for text in tests):,}"
    )
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        if path.name not in ("__init__.py", "__main__.py"):
            by_folder[path.parent.relative_to(root)].append(path)
    print("rooms and floors per folder:")
    for folder, paths in sorted(by_folder.items()):
        names = {module_of(path.relative_to(root)) for path in paths}
        inside = {name: graph[name] & names for name in names}
        print(
            f"  {folder}/ {len(names)} files on {floors(inside)} floors, {sum(files[path] for path in paths):,} lines"
        )
    package_order = {package: floor for floor, package in enumerate(PACKAGES)}
    up = sum(
        package_order[name.partition(".")[0]] < package_order[other.partition(".")[0]]
        for name, others in graph.items()
        for other in others
    )
    folder_circles = circles(folded(graph, 2))
    print(f"arrows up between packages {up}, circles of folders {len(folder_circles)}, of files {len(circles(graph))}")
    for circle in [*folder_circles, *circles(graph)]:
        print(f"  circle: {', '.join(sorted(circle))}")
    counted = Counter(path.name for path in files if path.name not in ("__init__.py", "__main__.py"))
    print(f"file names that stand twice: {sum(count > 1 for count in counted.values())}")
    public = Counter(
        node.name
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and node.name != "command"
    )
    twice = sorted(name for name, count in public.items() if count > 1)
    print(f"public names that stand twice: {len(twice)} {', '.join(twice)}")


if __name__ == "__main__":
    for checkout in sys.argv[1:] or [str(Path(__file__).resolve().parents[1])]:
        print(f"== {Path(checkout).name}")
        report(Path(checkout))
