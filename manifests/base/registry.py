"""One explicit registry per kind of method: scores, selectors, label transforms, losses, models.

Packages outside join through entry points of the group `prune_toolkit.plugins`. Each names a module, which is imported
when a registry is first looked up and adds its methods as our own files do:

[project.entry-points."prune_toolkit.plugins"]
mine = "my_package.my_scores"
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Generic, TypeVar

from manifests.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PLUGIN_GROUP = "prune_toolkit.plugins"
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

    def origin(self, name: str) -> str | None:
        """The distribution that brought an entry, with its version; None for an entry of this toolkit."""
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


class _Plugins:
    """The plug-ins of this process: imported once; a broken one is reported at every look-up."""

    def __init__(self) -> None:
        self.loading: str | None = None
        """The distribution whose plug-in is being imported."""
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

    def _import(self, entry: "EntryPoint") -> None:
        self.loading = "an unknown distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            lines = str(error).strip().splitlines()
            reason = ": ".join([type(error).__name__, *lines[:1]])
            self._broken = UsageError(
                f"the plug-in {entry.name} of {self.loading} cannot be imported: {reason}",
                hint=f"mend or uninstall that package; its entry point is {entry.value}",
            )
            raise self._broken from error
        finally:
            self.loading = None


_PLUGINS = _Plugins()
