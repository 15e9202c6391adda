import subprocess
import sys
from pathlib import Path

import pytest

from trainer.models.spec_names import TORCHVISION

COMMANDS = [
    (["score"], "--teacher is missing"),
    (["score", "--teacher", "resnet8"], "DATA is missing"),
    (["score", "photos", "--teacher", "resnet9x4"], "unknown model"),
    (["score", "photos", "--teacher", "missing.onnx"], "no such file"),
    (["score", "photos", "--teacher", "resnet8", "--checkpoint", "missing.pth"], "no such file"),
    (["score", "photos", "--teacher", "resnet8", "--checkpoint-key", "ema"], "needs the file it is in"),
    (["score", "photos", "--teacher", "microsoft/resnet-50"], "does not say which library"),
    (["score", "photos", "--teacher", "weights.pth"], "does not say for which network"),
]
SCRIPT = """
import sys
from trainer.cli import console
from prune_toolkit.main import cli
console._leave = lambda name, code: sys.exit(code)
for words in {commands}:
    try:
        console.run_cli(cli, words)
    except SystemExit as stopped:
        print(stopped.code, "torch" in sys.modules)
"""


def test_what_can_be_refused_without_torch_is(tmp_path: Path):
    script = SCRIPT.format(commands=[words for words, _ in COMMANDS])
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["False"] * len(COMMANDS)
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"2", "3"}
    for _, message in COMMANDS:
        assert message in done.stderr


def test_names_of_torchvision_are_known_without_it():
    from torchvision import models

    unknown = [name for name in models.list_models(module=models) if not TORCHVISION.fullmatch(name)]
    assert unknown == []


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "vgg8", "resnet32x4", "mobilenetv2", "wrn_40_2"])
def test_our_names_are_not_those_of_torchvision(name: str):
    assert not TORCHVISION.fullmatch(name)
