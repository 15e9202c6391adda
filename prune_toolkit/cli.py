"""`prune`: score a data set with a teacher once, select what is worth keeping, share the result."""

from importlib import import_module
from typing import NoReturn

import click

COMMANDS = {
    "index": "prune_toolkit.commands.index",
    "score": "prune_toolkit.commands.score",
    "import": "prune_toolkit.commands.import_",
    "merge": "prune_toolkit.commands.merge",
    "split": "prune_toolkit.commands.split",
    "select": "prune_toolkit.commands.select",
    "label": "prune_toolkit.commands.label",
    "cut": "prune_toolkit.commands.cut",
    "sweep": "prune_toolkit.commands.sweep",
    "export": "prune_toolkit.commands.export",
    "show": "prune_toolkit.commands.show",
    "diff": "prune_toolkit.commands.diff",
    "list": "prune_toolkit.commands.list",
    "verify": "prune_toolkit.commands.verify",
    "card": "prune_toolkit.commands.card",
    "push": "prune_toolkit.commands.push",
    "pull": "prune_toolkit.commands.pull",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The `command` object of the command's module."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name]).command
        return command


def _version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        click.echo(f"prune-toolkit {version('prune-toolkit')}")
        ctx.exit()


@click.group(name="prune", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
)
def cli() -> None:
    """Let the teacher look at the data once, and train students on the part worth keeping.

    \b
    prune score --data photos --teacher torchvision/resnet50:IMAGENET1K_V2
    prune select --keep 0.5
    train-student --manifest selection --val photos

    Defaults come from prune.toml in the current folder; flags win over it.
    """


def main() -> NoReturn:
    """Entry point of `prune`."""
    from manifests.console import run_cli

    run_cli(cli)
