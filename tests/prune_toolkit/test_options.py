"""Options that stand above a class reach a command as one argument."""

from dataclasses import dataclass

import click
import pytest
from click.testing import CliRunner

from prune_toolkit.cli.options import gathered, made


@click.option("--height", type=int)
@click.option("--width", type=int, default=3)
@dataclass(frozen=True, kw_only=True)
class Size:
    height: int | None
    width: int


@click.option("--name", default="it")
@gathered("size", Size)
def thing(name: str, size: Size) -> tuple[str, Size]:
    return name, size


@click.command()
@click.option("--first", is_flag=True)
@gathered("thing", thing)
@click.option("--last")
def command(first: bool, thing: tuple[str, Size], last: str | None) -> None:
    """Say what there is."""
    click.echo((first, thing, last))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), (False, ("it", Size(height=None, width=3)), None)),
        (
            ("--height", "2", "--last", "x", "--first", "--name", "a"),
            (True, ("a", Size(height=2, width=3)), "x"),
        ),
    ],
)
def test_a_group_of_options_arrives_as_one_value_which_may_hold_another(words: tuple[str, ...], says: object) -> None:
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert result.output == f"{says}\n"


def test_options_stand_in_the_help_where_their_group_does() -> None:
    names = [parameter.name for parameter in command.params]
    assert names == ["first", "name", "height", "width", "last"]


def test_what_a_group_makes_can_be_had_without_running_the_command() -> None:
    context = command.make_context("command", ["--width", "5"])
    assert made(thing, context.params) == ("it", Size(height=None, width=5))
