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
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Generic, TypeVar

from manifests.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

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

    def add(self, name: str, entry: T) -> T:
        """Add an entry under a new name; ValueError when it is taken, UsageError when a plug-in took it from us."""
        taken, is_own = self._origins.get(name), _adds_our_own()
        if taken is not None and is_own:
            raise UsageError(
                f"{self.kind} {name!r} of {taken} has the name of one of this toolkit's", hint="uninstall that package"
            )
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already" + (f" by {taken}" if taken else ""))
        if self._check is not None:
            self._check(name, entry)
        self._entries[name] = entry
        # A plug-in may be the first to import a file of ours: that does not make its entries the plug-in's.
        if _PLUGINS.loading is not None and not is_own:
            self._origins[name] = _PLUGINS.loading
        return entry

    def forget(self, name: str) -> None:
        """Remove an entry that is not this toolkit's, so that it can be added again; nothing where there is none."""
        if self._origins.pop(name, None) is not None:
            del self._entries[name]

    def origin(self, name: str) -> str | None:
        """The distribution with its version, or the file, that brought an entry; None for one of this toolkit."""
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


def _adds_our_own() -> bool:
    """Whether a file of this toolkit is being imported, and so what it adds is ours, whoever imports it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    module = "" if frame is None else str(frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in OWN_PACKAGES


@contextmanager
def entries_from(origin: str) -> Iterator[None]:
    """Record `origin` as where the entries come from that are added meanwhile."""
    before, _PLUGINS.loading = _PLUGINS.loading, origin
    try:
        yield
    finally:
        _PLUGINS.loading = before


def load_plugin_file(path: Path) -> None:
    """Run a Python file that registers methods, once per process and in its child processes; UsageError when it fails.

    The digest of its content is part of what its entries say of their origin: other code computes other scores.
    """
    file = path.expanduser().resolve()
    if file in _PLUGINS.files:
        return
    try:
        source = file.read_bytes()
        module = ModuleType(f"plugin_{file.stem}")
        module.__file__ = str(file)
        sys.modules[module.__name__] = module
        with entries_from(f"{file.name} {hashlib.sha256(source).hexdigest()[:12]}"):
            exec(compile(source, str(file), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"the plug-in file {path} failed: {_reason(error)}", hint="correct it, or leave it out"
        ) from error
    _PLUGINS.files.append(file)
    os.environ[PLUGIN_FILES] = os.pathsep.join(map(str, _PLUGINS.files))


def _reason(error: BaseException) -> str:
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


class _Plugins:
    """The plug-ins of this process: imported once; a broken one is reported at every look-up."""

    def __init__(self) -> None:
        self.loading: str | None = None
        """What is adding entries: a distribution, or a file."""
        self.files: list[Path] = []
        """Plug-in files that were loaded."""
        self._begun = False
        self._broken: UsageError | None = None

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
            self._import(entry)
        for path in filter(None, os.environ.get(PLUGIN_FILES, "").split(os.pathsep)):
            load_plugin_file(Path(path))

    def _import(self, entry: "EntryPoint") -> None:
        self.loading = "an unknown distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            self._broken = UsageError(
                f"the plug-in {entry.name} of {self.loading} cannot be imported: {_reason(error)}",
                hint=f"mend or uninstall that package; its entry point is {entry.value}",
            )
            raise self._broken from error
        finally:
            self.loading = None


_PLUGINS = _Plugins()
