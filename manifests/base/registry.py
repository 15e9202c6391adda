"""One explicit registry per kind of method: scores, selectors, label transforms, losses, models.

Packages outside join through entry points of the group `prune_toolkit.plugins`. Each names a module, which is imported
when a registry is first looked up and adds its methods as our own files do:

[project.entry-points."prune_toolkit.plugins"]
mine = "my_package.my_scores"

A file joins without a package: `load_plugin_file`, which `--plugin FILE.py` calls.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Generic, TypeVar

from manifests.errors import UsageError

PLUGIN_GROUP = "prune_toolkit.plugins"
PLUGIN_FILES = "PRUNE_PLUGIN_FILES"
"""The environment variable that tells child processes which plug-in files to load."""
OWN_PACKAGES = ("manifests", "trainer", "prune_toolkit")
T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Names mapped to entries, in the order they were added; a duplicate name is an error.

    Looking up a name, or which there are, first imports the plug-ins; UsageError when one of them is broken.
    """

    def __init__(self, kind: str, check: Callable[[str, T], None] | None = None) -> None:
        """`check` of a name and its entry raises ValueError for one that nothing could use."""
        self.kind = kind
        self._check = check
        self._entries: dict[str, T] = {}
        self._origins: dict[str, str] = {}

    def add(self, name: str, entry: T, *, module: str | None = None) -> T:
        """Add an entry under a new name; ValueError when it is taken, UsageError when a plug-in took it from us.

        module: the one that adds the entry; needed only where the entry neither is nor holds a function or class.
        """
        module = module or _module_of(entry)
        # A plug-in may be the first to import a file of ours: that does not make its entries the plug-in's.
        is_own = module is not None and module.partition(".")[0] in OWN_PACKAGES
        taken = self._origins.get(name)
        if taken is not None and is_own:
            raise UsageError(
                f"{self.kind} {name!r} of {taken} has the name of one of this toolkit's",
                hint="rename it there, or do without that plug-in",
            )
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already" + (f" by {taken}" if taken else ""))
        if self._check is not None:
            self._check(name, entry)
        self._entries[name] = entry
        origin = None if is_own else _PLUGINS.loading or module
        if origin is not None:
            self._origins[name] = origin
        return entry

    def forget(self, name: str) -> None:
        """Remove an entry that is not this toolkit's, so that it can be added again; nothing where there is none."""
        if self._origins.pop(name, None) is not None:
            del self._entries[name]

    def origin(self, name: str) -> str | None:
        """Return the origin of an entry: a distribution with its version, or a file, or the module of a function.

        None for an entry of this toolkit.
        """
        _PLUGINS.load()
        return self._origins.get(name)

    def __getitem__(self, name: str) -> T:
        _PLUGINS.load()
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(self._entries)
            raise UsageError(f"unknown {self.kind} {name!r}", hint=f"known: {known}") from None

    def __contains__(self, name: object) -> bool:
        _PLUGINS.load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        _PLUGINS.load()
        return iter(self._entries)

    def __len__(self) -> int:
        _PLUGINS.load()
        return len(self._entries)


def _module_of(entry: object) -> str | None:
    """The module of the first function or class that an entry is or holds; None when there is none."""
    if is_dataclass(entry) and not isinstance(entry, type):
        held = [getattr(entry, field.name) for field in fields(entry)]
    else:
        held = [entry]
    return next((str(thing.__module__) for thing in held if callable(thing)), None)


@contextmanager
def entries_from(origin: str) -> Iterator[None]:
    """Record `origin` as where the entries come from that are added meanwhile."""
    before, _PLUGINS.loading = _PLUGINS.loading, origin
    try:
        yield
    finally:
        _PLUGINS.loading = before


def load_plugin_file(path: Path) -> None:
    """Import a Python file that adds methods, once, in this process and in its children.

    The origin of its entries is its name with a digest of its content: other code computes other scores. UsageError
    with the file and the reason when it cannot be imported.
    """
    _PLUGINS.load_file(path)


class _Plugins:
    """The plug-ins of this process: imported once; a broken package is reported at every look-up."""

    def __init__(self) -> None:
        self.loading: str | None = None
        """Origin of the plug-in that is being imported."""
        self._begun = False
        self._broken: UsageError | None = None
        self._files: list[Path] = []

    def load(self) -> None:
        """Import what is not imported yet; a plug-in may look up what is registered so far."""
        if self._broken is not None:
            raise self._broken
        if self._begun:
            return
        self._begun = True
        # About 30 ms with a hundred distributions, so not before a method is asked for.
        from importlib.metadata import entry_points

        for entry in sorted(entry_points(group=PLUGIN_GROUP), key=lambda entry: (entry.name, entry.value)):
            origin = "an unknown distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
            hint = f"correct or uninstall that package; its entry point is {entry.value}"
            try:
                with _importing(f"{entry.name} of {origin}", origin, hint):
                    entry.load()
            except UsageError as error:
                self._broken = error
                raise
        for file in filter(None, os.environ.get(PLUGIN_FILES, "").split(os.pathsep)):
            self.load_file(Path(file))

    def load_file(self, path: Path) -> None:
        """Import a file unless that is done."""
        self.load()
        file = path.expanduser().resolve()
        if file in self._files:
            return
        # Not the file's own name: a random.py of the user's is not Python's.
        spec = spec_from_file_location(f"plugin_{file.stem}", file)
        if spec is None or spec.loader is None or not file.is_file():
            raise UsageError(f"{path} is not a Python file", hint="name a file that ends in .py")
        module = module_from_spec(spec)
        origin = f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
        with _importing(str(path), origin, "correct that file, or leave it out"):
            # Dataclasses look for their module there.
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        self._files.append(file)
        os.environ[PLUGIN_FILES] = os.pathsep.join(map(str, self._files))


@contextmanager
def _importing(plugin: str, origin: str, hint: str) -> Iterator[None]:
    try:
        with entries_from(origin):
            yield
    except (Exception, SystemExit) as error:
        reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise UsageError(f"the plug-in {plugin} cannot be imported: {reason}", hint=hint) from error


_PLUGINS = _Plugins()
