import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from manifests.errors import UsageError
from trainer.cli.prune_toml import COMMANDS, SHARED_OPTIONS, config_defaults

loaded: list[str] = []


class Lazy(click.Group):
    """As `prune` is: a command is made when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["score", "select"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        loaded.append(cmd_name)
        return {"score": score, "select": select}.get(cmd_name)


@click.command("score")
@click.argument("data", required=False)
@click.option("--teacher")
@click.option("--checkpoint", "--weights", "weights")
@click.option("--batch-size", type=int, default=64)
def score(**options: Any) -> None:
    click.echo(json.dumps(options))


@click.command("select")
@click.option("--keep", required=True)
@click.option("--max-side", type=int)
@click.option("--image-size", "image_px", type=int)
@click.option("--beton/--no-beton", default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--seed", type=int, default=0)
@click.option("--match", multiple=True)
def select(**options: Any) -> None:
    click.echo(json.dumps(options))


group = Lazy("prune")


def run(folder: Path, toml: str, *args: str, command: click.Command = group) -> dict[str, Any]:
    """What a command was called with, given a prune.toml and flags."""
    (folder / "prune.toml").write_text(toml)
    result = CliRunner().invoke(command, args, default_map=config_defaults(command, folder), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    options: dict[str, Any] = json.loads(result.output)
    return options


def refusal(folder: Path, toml: str, *args: str, command: click.Command = group) -> UsageError:
    with pytest.raises(UsageError) as caught:
        run(folder, toml, *args, command=command)
    assert str(folder / "prune.toml") in caught.value.message
    return caught.value


def test_without_the_file_there_are_no_defaults(tmp_path: Path) -> None:
    assert config_defaults(group, tmp_path) == {}
    (tmp_path / "prune.toml").mkdir()
    assert config_defaults(group, tmp_path) == {}


def test_the_current_folder_is_looked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prune.toml").write_text("seed = 3")
    monkeypatch.chdir(tmp_path)
    assert config_defaults(select) == {"seed": 3}


def test_top_level_keys_reach_every_command_that_has_the_option(tmp_path: Path) -> None:
    toml = 'data = "photos"\nteacher = "timm/x"\nseed = 7\n'
    assert run(tmp_path, toml, "score") == {"data": "photos", "teacher": "timm/x", "weights": None, "batch_size": 64}
    assert run(tmp_path, toml, "select", "--keep", "0.5")["seed"] == 7


def test_a_table_is_for_its_command_and_wins_over_the_top_level(tmp_path: Path) -> None:
    toml = "seed = 7\n[select]\nseed = 8\nkeep = 0.29\n[score]\nbatch_size = 5\n"
    options = run(tmp_path, toml, "select")
    assert (options["seed"], options["keep"]) == (8, "0.29")
    assert run(tmp_path, toml, "score")["batch_size"] == 5


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    toml = "seed = 7\n[select]\nkeep = 0.3\nbeton = false\n"
    assert run(tmp_path, toml, "select")["beton"] is False
    options = run(tmp_path, toml, "select", "--seed", "1", "--keep", "1/2", "--beton")
    assert (options["seed"], options["keep"], options["beton"]) == (1, "1/2", True)


@pytest.mark.parametrize("key", ["max-side", "max_side"])
def test_keys_may_be_spelled_with_dashes_or_underscores(tmp_path: Path, key: str) -> None:
    assert run(tmp_path, f"[select]\n{key} = 32\n", "select", "--keep", "1")["max_side"] == 32


def test_keys_are_the_flags_as_typed_whatever_the_parameter_is_called(tmp_path: Path) -> None:
    options = run(tmp_path, "[select]\nimage-size = 32\njson = true\n", "select", "--keep", "1")
    assert (options["image_px"], options["as_json"]) == (32, True)
    assert run(tmp_path, 'checkpoint = "a.pt"\n', "score")["weights"] == "a.pt"


def test_a_single_command_takes_its_own_table(tmp_path: Path) -> None:
    train = click.Command("train-student", params=select.params, callback=select.callback)
    toml = "seed = 4\n[train-student]\nkeep = 1\n[select]\nkeep = 2\n"
    assert run(tmp_path, toml, command=train)["keep"] == "1"
    assert refusal(tmp_path, "[train-student]\nepoch = 1", command=train).hint == "see: train-student --help"


def test_a_teacher_at_the_top_does_not_reach_train_student_one_in_its_table_does(tmp_path: Path) -> None:
    train = click.Command("train-student", params=score.params, callback=score.callback)
    toml = 'data = "photos"\nteacher = "timm/x"\ncheckpoint = "a.pt"\n'
    options = run(tmp_path, toml, command=train)
    assert (options["data"], options["teacher"], options["weights"]) == ("photos", None, None)
    options = run(tmp_path, toml + '[train-student]\nteacher = "resnet20"\ncheckpoint = "b.pt"\n', command=train)
    assert (options["teacher"], options["weights"]) == ("resnet20", "b.pt")
    assert run(tmp_path, toml, "score")["teacher"] == "timm/x"


def test_only_the_command_that_is_called_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "prune.toml").write_text("[select]\nkeep = 1\n[score]\nbatch_size = 5\n")
    loaded.clear()
    defaults = config_defaults(group, tmp_path)
    assert loaded == []
    assert list(defaults) == ["score", "select"]
    assert defaults.get("train-student") is None


def test_an_unknown_key_is_told_with_those_there_are(tmp_path: Path) -> None:
    error = refusal(tmp_path, 'date = "photos"', "score")
    assert "unknown key 'date'" in error.message
    assert error.hint is not None
    assert error.hint.endswith(", ".join(SHARED_OPTIONS))


def test_an_option_of_one_command_is_not_for_the_top_level(tmp_path: Path) -> None:
    error = refusal(tmp_path, "keep = 0.5", "select")
    assert error.hint is not None
    assert error.hint.startswith("put it into the table of its command, [COMMAND]")


def test_an_unknown_table_is_told_with_the_commands_there_are(tmp_path: Path) -> None:
    error = refusal(tmp_path, "[selekt]\nkeep = 1", "select")
    assert "[selekt] is not a command" in error.message
    assert error.hint == f"known: {', '.join(COMMANDS)}"


def test_an_unknown_option_of_a_table_is_told_when_its_command_is_called(tmp_path: Path) -> None:
    toml = "[select]\nkeep-fraction = 0.5"
    error = refusal(tmp_path, toml, "select")
    assert "[select] has no option 'keep-fraction'" in error.message
    assert error.hint == "see: prune select --help"
    assert run(tmp_path, toml, "score")["batch_size"] == 64


@pytest.mark.parametrize("content", [b"data = ", b"\xff\xfe", b"[select", b"a = 1\na = 2", b"data = " + b"[" * 9999])
def test_what_is_not_toml_is_a_usage_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "prune.toml").write_bytes(content)
    with pytest.raises(UsageError, match="is not valid TOML"):
        config_defaults(group, tmp_path)


def test_a_table_in_a_table_is_an_unknown_option(tmp_path: Path) -> None:
    assert "has no option 'deep'" in refusal(tmp_path, "[select.deep]\nkeep = 1", "select").message


def test_one_text_stands_for_a_list_of_it(tmp_path: Path) -> None:
    for written in ('"path,name"', '["path,name"]'):
        toml = f"[select]\nkeep = '0.5'\nmatch = {written}\n"
        assert run(tmp_path, toml, "select")["match"] == ["path,name"]
        assert run(tmp_path, toml, "select", "--match", "path")["match"] == ["path"]
