"""README and docs against the code: links, command lines, and the snippets that read manifests without it."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from manifests.betons.reader import Beton, BetonColumns, write_beton
from manifests.manifest import Manifest
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.indexing.index import IndexConfig, build_index
from prune_toolkit.main import cli
from trainer.cli.prune_toml import COMMANDS, CONFIG_NAME, config_defaults
from trainer.cli.train_student import train_student

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(page.read_text("utf-8")) if language in languages]


def command_lines(page: Path) -> list[str]:
    """Every prune and train-student command of the fenced sh and console blocks, continuation lines joined."""
    lines = []
    for language in ("sh", "console"):
        for block in blocks(page, language):
            for line in block.replace("\\\n", " ").splitlines():
                if language == "console" and not line.startswith("$ "):
                    continue
                for part in re.split(r"\s[&|;]+\s|\s[&;]$", line.removeprefix("$ ").partition(" #")[0]):
                    words = shlex.split(part)
                    start = next((i for i, word in enumerate(words) if word in ("prune", "train-student")), None)
                    if start is not None:
                        lines.append(shlex.join(word for word in words[start:] if "=" not in word.partition("-")[0]))
    return lines


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    if words[0] == "train-student":
        return train_student, words[1:]
    if len(words) == 1 or words[1].startswith("-"):
        return cli, words[1:]
    command = cli.get_command(click.Context(cli), words[1])
    assert command is not None, f"there is no command prune {words[1]}"
    return command, words[2:]


def unknown_options(command: click.Command, arguments: list[str]) -> set[str]:
    context = click.Context(command)
    known = {spelling for option in command.get_params(context) for spelling in (*option.opts, *option.secondary_opts)}
    return {word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)} - known


def anchors(page: Path) -> set[str]:
    text = re.sub(FENCE, "", page.read_text("utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(FENCE, "", page.read_text("utf-8"))
    for link in LINK.findall(text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_line_uses_options_that_exist(page: Path) -> None:
    for line in command_lines(page):
        command, arguments = command_of(shlex.split(line))
        assert not unknown_options(command, arguments), f"{page}: {line}"


def test_the_pages_hold_commands_of_every_kind() -> None:
    lines = [line for page in PAGES for line in command_lines(page)]
    assert {"train-student" if line.startswith("train-student") else line.split()[1] for line in lines} >= {*COMMANDS}


def test_every_command_has_a_page_and_the_contents_link_to_every_page() -> None:
    pages = {page.name for page in (ROOT / "docs" / "commands").glob("*.md")}
    assert pages >= {f"{command}.md" for command in COMMANDS}
    contents = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert {link.partition("#")[0] for link in LINK.findall(contents)} == {f"commands/{page}" for page in pages}


def test_an_option_that_does_not_exist_is_found() -> None:
    command, arguments = command_of(shlex.split("prune select manifest --keep 0.5 --keeep 1 -q --labels=raw"))
    assert unknown_options(command, arguments) == {"--keeep", "-q"}


def test_the_example_of_prune_toml_is_accepted(tmp_path: Path) -> None:
    [example] = blocks(ROOT / "docs" / "commands" / "prune-toml.md", "toml")
    (tmp_path / CONFIG_NAME).write_text(example)
    assert config_defaults(train_student, tmp_path)["epochs"] == 30
    defaults = config_defaults(cli, tmp_path)
    assert defaults["score"]["batch_size"] == 128
    assert defaults["index"]["data"] == "photos"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index named `manifest` and a beton with targets, as the snippets call them."""
    folder = tmp_path_factory.mktemp("docs")
    generator = np.random.default_rng(0)
    for row in range(66):
        path = folder / "images" / ("čerň" if row % 2 else "bílá") / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    index = build_index(IndexConfig(data=DataSpec(data=str(folder / "images")), out=folder / "manifest", beton=True))
    assert index is not None
    beton = Beton.open(folder / "manifest" / "train.beton")
    write_beton(
        folder / "selection" / "train.beton",
        (beton.image(row) for row in range(beton.count)),
        BetonColumns(**{f"{name}_N": values for name, values in beton.columns.items()}),
        targets=np.arange(beton.count * 10, dtype=np.float16).reshape(-1, 1, 10),
        target_shape=(1, 10),
    )
    return folder


def snippet(word: str) -> str:
    [found] = [block for block in blocks(ROOT / "docs" / "manifest-format.md", "python") if word in block]
    return found


def printed_by(code: str, folder: Path) -> str:
    output, before = io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(output):
            exec(code, {})
    finally:
        os.chdir(before)
    return output.getvalue().strip()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_snippets_recompute_id_and_fingerprint_from_the_files_alone(work: Path) -> None:
    manifest = Manifest.open(work / "manifest")
    assert printed_by(snippet("sort_keys"), work) == manifest.id
    assert printed_by(snippet("read_table"), work) == manifest.header.data.fingerprint


@pytest.mark.slow
def test_the_ffcv_snippet_reads_the_targets_of_a_beton(work: Path) -> None:
    if find_spec("ffcv") is None:
        pytest.skip("ffcv is not installed")
    code = snippet("ffcv.loader") + "\n    print(*images.shape, *targets[0, 0, :3].tolist())\n"
    # A process of its own: importing ffcv changes torch's threads.
    child = subprocess.run([sys.executable, "-c", code], cwd=work, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == "64 8 8 3 0.0 1.0 2.0\n2 8 8 3 640.0 641.0 642.0"
