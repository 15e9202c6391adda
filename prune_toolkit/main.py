"""`prune`: score a data set once with a teacher, select the samples worth keeping, share the result."""

from importlib import import_module
from typing import NoReturn

import click

from trainer.cli.shared_options import PLUGIN

COMMANDS = {
    "index": "prune_toolkit.cli.index_command",
    "score": "prune_toolkit.cli.score_command",
    "import": "prune_toolkit.cli.import_command",
    "merge": "prune_toolkit.cli.merge_command",
    "split": "prune_toolkit.cli.split_command",
    "suspects": "prune_toolkit.cli.suspects_command",
    "select": "prune_toolkit.cli.select_command",
    "label": "prune_toolkit.cli.label_command",
    "cut": "prune_toolkit.cli.cut_command",
    "sweep": "prune_toolkit.sweep.command",
    "eval": "prune_toolkit.cli.eval_command",
    "export-model": "prune_toolkit.cli.export_model_command",
    "export": "prune_toolkit.cli.export_command",
    "show": "prune_toolkit.cli.show_command",
    "diff": "prune_toolkit.cli.diff_command",
    "list": "prune_toolkit.cli.list_command",
    "verify": "prune_toolkit.cli.verify_command",
    "card": "prune_toolkit.cli.card_command",
    "push": "prune_toolkit.cli.push_command",
    "pull": "prune_toolkit.cli.pull_command",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the `command` object of the command's module."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name]).command
        return command


@click.group(name="prune", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="prune-toolkit", message="prune-toolkit %(version)s", help="Print the version.")
@click.option("--plugin", **PLUGIN)
def cli() -> None:
    """Run the teacher over the data once, and train students on the part worth keeping.

    \b
    prune score --data photos --teacher torchvision/resnet50:IMAGENET1K_V2
    prune select --keep 0.5
    train-student --manifest selection --val photos

    Defaults come from prune.toml in the working directory; flags override it.
    """


def main() -> NoReturn:
    """Entry point of `prune`."""
    from trainer.cli.console import run_cli

    run_cli(cli)


def train() -> None:
    """Entry point of `train-student`: in this package, which checks whether a file shadows a module it needs."""
    from trainer.cli.train_student import main

    main()
