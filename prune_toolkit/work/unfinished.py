"""How an unfinished manifest is told from a folder of the user's: by its parts, each of which carries a digest."""

import re
from pathlib import Path

from manifests.base.out_folder import check_out_folder
from manifests.card.readme import CARD_NAME, is_card
from manifests.format.parts import is_written_part
from manifests.untrusted.rules import is_file_of_a_manifest

TIMES = ".times"
FOLDERS = ("samples", "selection", "thumbnails", "logits", "features", "scores", "targets", "card", TIMES)
"""The folders in a manifest, finished or not."""
_TIME = re.compile(rf"{re.escape(TIMES)}/part-[0-9]{{5}}\.json")
_CARD_BYTES = 1 << 20


def check_unfinished(out: Path) -> None:
    """Raise UsageError unless a manifest may be written to `out`: see `check_out_folder`."""

    def of_ours(path: str) -> bool | None:
        if path == CARD_NAME:
            # It is no proof: people write it by hand, and copy ours.
            return None if _holds_card(out / path) else False
        if _TIME.fullmatch(path):
            return True
        return (path.endswith(".parquet") and is_file_of_a_manifest(path) and is_written_part(out / path)) or None

    check_out_folder(out, "manifest", FOLDERS, of_ours)


def _holds_card(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return is_card(stream.read(_CARD_BYTES).decode("utf-8", "replace"))
    except OSError:
        return False
