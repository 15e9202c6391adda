"""`--timeout`: where it is, what it decides, and from where it is read."""

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import unruly
from made_manifests import make
from unruly import Unruly, serving

import prune_toolkit as pt
from manifests.errors import UnreachableError
from manifests.stores.patience import TIMEOUT_S, patience
from prune_toolkit.cli.options import manifest_place
from prune_toolkit.main import COMMANDS, cli

OPEN_URLS = ("push", "pull")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Unruly]:
    made = make(tmp_path / "made", ["a", "b"], [0, 1])
    paths = [path for path in made.folder.rglob("*") if path.is_file()]
    with serving({path.relative_to(made.folder).as_posix(): path.read_bytes() for path in paths}) as found:
        yield found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_takes_a_url_takes_a_timeout_and_no_other(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    takes_url = name in OPEN_URLS or any(
        getattr(parameter.type, "func", None) is manifest_place for parameter in command.params
    )
    assert takes_url == any("--timeout" in parameter.opts for parameter in command.params)


@pytest.mark.parametrize(
    "words",
    [
        ("show", "{url}"),
        ("verify", "{url}"),
        ("pull", "{url}", "out"),
        ("diff", "{url}", "{url}"),
        ("select", "{url}", "--keep", "1"),
    ],
    ids=lambda words: words[0],
)
def test_a_silent_server_is_given_up_after_the_timeout(
    server: Unruly, words: tuple[str, ...], prune: Callable, tmp_path: Path
) -> None:
    server.answers = [unruly.silent] * 4
    words = tuple(word.format(url=server.url) for word in words)
    done = prune(*words, "--timeout", "0.1", cwd=tmp_path, code=3)
    assert f"{server.url}/manifest.json: no answer for 0.1 s (4 attempts)" in done.stderr
    assert patience().timeout_s == TIMEOUT_S


@pytest.mark.parametrize("text", ["timeout = 0.1", "[show]\ntimeout = 0.1"])
def test_prune_toml_sets_it_and_the_command_line_wins(
    server: Unruly, text: str, prune: Callable, tmp_path: Path
) -> None:
    (tmp_path / "prune.toml").write_text(text)
    server.answers = [unruly.silent] * 4
    assert "no answer for 0.1 s" in prune("show", server.url, cwd=tmp_path, code=3).stderr
    server.answers = [unruly.silent] * 4
    assert "no answer for 0.2 s" in prune("show", server.url, "--timeout", "0.2", cwd=tmp_path, code=3).stderr


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e9"])
def test_a_timeout_that_is_not_a_time_is_refused(value: str, prune: Callable) -> None:
    done = prune("show", "http://127.0.0.1:1/m", f"--timeout={value}", code=2)
    assert "is not a time in seconds, above 0 and at most 86,400" in done.stderr


def test_python_takes_it_where_a_manifest_is_opened(server: Unruly) -> None:
    server.answers = [unruly.silent] * 4
    with pytest.raises(UnreachableError, match=r"no answer for 0\.1 s"):
        pt.Manifest.open(server.url, timeout_s=0.1)
    assert pt.Manifest.open(server.url, timeout_s=5).samples().num_rows == 2
