"""A page that tells a story in commands: run them in order, and compare what they print with what the page says.

In a console block `a$ ` and `b$ ` are the prompts of two teams, each in a folder of its own. What follows a command is
what it printed, and `exit code N` where that is not 0.
"""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

PROMPT = re.compile(r"^(?P<team>[ab])\$ (?P<command>.*)$")
BLOCK = re.compile(r"(?<=^```console\n)(?P<body>.*?)(?=^```$)", re.MULTILINE | re.DOTALL)
_HEX = re.compile(r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{8,64}\b")
_NUMBER = re.compile(r"((?<=\s)-)?\d+(,\d{3})*(\.\d+)?(e-?\d+)?")
_TIME = re.compile(r"# (min # s|s|ms)\b")
_LISTED = {
    r"kept only in [AB]: ": r"[\w#]+/[\w#-]+\.png",
    r"classes differ, most: ": r"# # and #, both #",
    r"are left out: ": r"# (?:missing|another size|other content)",
}
"""What is listed after these words, and how much of it, depends on the last bits of a teacher's logits."""
_LISTS = [
    re.compile(f"(?<={words}){entry}(, {entry})*(, \\.\\.\\.)?$", re.MULTILINE) for words, entry in _LISTED.items()
]
_ROWS = re.compile(r"(?:^ +config\.copy\.left_out\..*\n)+", re.MULTILINE)


def retold(text: str, folders: Mapping[str, Path], environment: Mapping[str, str]) -> str:
    """The page with its commands run again, and what they print now in place of what was there."""
    return BLOCK.sub(lambda found: _run_block(found["body"], folders, environment), text)


def plain(text: str) -> str:
    """A page without what differs from one run or machine to the next.

    That is ids, numbers, the width of columns of them, and the length of lists that depend on a teacher.
    """
    # A busy machine answers late, and the commands say so.
    text = re.sub(r"^waiting for .*\n", "", text, flags=re.MULTILINE)
    text = _TIME.sub("#", _NUMBER.sub("#", _HEX.sub("#", text)))
    for found in _LISTS:
        text = found.sub("...", text)
    return re.sub(r" {2,}", " ", _ROWS.sub(" config.copy.left_out\n", text))


def _run_block(body: str, folders: Mapping[str, Path], environment: Mapping[str, str]) -> str:
    told, lines = [], iter(body.splitlines())
    for line in lines:
        found = PROMPT.match(line)
        if found is None:
            continue
        told.append(line)
        command = found["command"]
        while command.endswith("\\"):
            told.append(next(lines))
            command = command[:-1] + told[-1].lstrip()
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folders[found["team"]],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        told += done.stdout.splitlines()
        if done.returncode:
            told.append(f"exit code {done.returncode}")
    return "".join(f"{line}\n" for line in told)
