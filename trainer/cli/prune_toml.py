"""prune.toml: defaults for both commands, read from the current folder; flags win over it.

data = "photos"                  # top level: for every command that has the option
teacher = "torchvision/resnet50:IMAGENET1K_V2"

[train-student]                  # a table: for that command alone
epochs = 30
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from manifests.errors import UsageError

CONFIG_NAME = "prune.toml"
SHARED_OPTIONS = (
    "data", "split", "classes", "teacher", "student", "checkpoint", "val", "val_split", "seed", "workers", "device",
    "plugin", "timeout",
)  # fmt: skip
COMMANDS = (
    "index",
    "score",
    "import",
    "merge",
    "split",
    "suspects",
    "select",
    "label",
    "cut",
    "sweep",
    "eval",
    "export-model",
    "export",
    "show",
    "diff",
    "list",
    "verify",
    "card",
    "push",
    "pull",
    "train-student",
)

_IMAGES = ("data", "split", "classes")
FROM_OWN_TABLE = {
    "train-student": ("teacher", "checkpoint"),
    "split": ("classes",),
    "export-model": (*_IMAGES, "student"),
    "eval": ("teacher", "checkpoint", "split"),
    **dict.fromkeys(("import", "label", "cut", "export", "verify"), _IMAGES),
    "select": (*_IMAGES, "val", "val_split"),
}
"""Shared keys that these commands read from their own table only, where they mean something else: a teacher at the top
level scores, in the table it is a live teacher, or what is evaluated; data at the top level is what is scored, in the
table it replaces the images that the manifest names; val at the top level is what students are judged on, in the table
of `select` its copies are left out."""


def config_defaults(command: click.Command, folder: Path | None = None) -> Mapping[str, Any]:
    """Return prune.toml of `folder` (None: the working directory) as a click default map, {} if there is none.

    Raises UsageError for invalid TOML, for keys and tables that no command knows, and, once a command is called, for
    keys in its table that are not options of it.
    """
    path = (folder or Path.cwd()) / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    shared = {_name(key): value for key, value in content.items() if key not in tables}
    for key in sorted(shared.keys() - set(SHARED_OPTIONS)):
        hint = f"put it into the table of its command, [COMMAND]; keys for all commands: {', '.join(SHARED_OPTIONS)}"
        raise UsageError(f"{path}: unknown key {key!r}", hint=hint)
    for key in sorted(tables.keys() - set(COMMANDS)):
        raise UsageError(f"{path}: [{key}] is not a command", hint=f"known: {', '.join(COMMANDS)}")
    merged = partial(_merged, path, shared)
    if isinstance(command, click.Group):
        return _GroupDefaults(command, merged, tables)
    name = command.name or ""
    return merged(command, name, tables.get(name, {}))


class _GroupDefaults(Mapping[str, Any]):
    """The defaults of each command of a group, made when it is called: loading all commands takes half a second."""

    def __init__(
        self, group: click.Group, merged: Callable[..., dict[str, Any]], tables: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._group, self._merged, self._tables = group, merged, tables
        self._context = click.Context(group)

    def __getitem__(self, name: str) -> Any:
        command = self._group.get_command(self._context, name)
        if command is None:
            # An option of the group itself.
            return self._merged(self._group, str(self._group.name), {})[name]
        return self._merged(command, f"{self._group.name} {name}", self._tables.get(name, {}))

    def __iter__(self) -> Iterator[str]:
        return iter(self._group.list_commands(self._context))

    def __len__(self) -> int:
        return len(self._group.list_commands(self._context))


def _name(key: str) -> str:
    return key.replace("-", "_")


def _merged(
    path: Path, shared: Mapping[str, Any], command: click.Command, usage: str, own: Mapping[str, Any]
) -> dict[str, Any]:
    parameters = _parameters(command)
    for key in own:
        if _name(key) not in parameters:
            raise UsageError(f"{path}: [{command.name}] has no option {key!r}", hint=f"see: {usage} --help")
    not_shared = FROM_OWN_TABLE.get(command.name or "", ())
    merged = {parameters[key]: value for key, value in shared.items() if key in parameters and key not in not_shared}
    merged |= {parameters[_name(key)]: value for key, value in own.items()}
    repeatable = {parameter.name for parameter in command.params if getattr(parameter, "multiple", False)}
    # A single string counts as a list of one, as a flag given once does.
    return {name: [value] if name in repeatable and isinstance(value, str) else value for name, value in merged.items()}


def _parameters(command: click.Command) -> dict[str, str]:
    """Return the names of a command's parameters, keyed by these names and by their flags."""
    known = {}
    for parameter in command.params:
        if parameter.name is not None:
            known[parameter.name] = parameter.name
            known |= {_name(flag[2:]): parameter.name for flag in parameter.opts if flag.startswith("--")}
    return known
