"""What a search has tried so far, in a hidden file of the output folder: if killed, it goes on from there."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from manifests.base.files import write_atomic
from manifests.format.header import Search, Tried

JOURNAL_NAME = ".search.json"
"""Hidden files do not count as content of a folder: see manifests/base/out_folder.py."""
Pair = tuple[float, float]
"""Mode and sharpness."""
Losses = dict[Pair, list[float]]
_FORM = TypeAdapter(dict[str, list[Tried]])


@dataclass(frozen=True)
class SearchJournal:
    """Searches by a digest of everything that their losses depend on."""

    path: Path

    def tried(self, digest: str) -> Losses:
        """Return what a search tried; {} if it is not there, or the file is damaged."""
        return losses_of(self._read().get(digest, []))

    def write(self, digest: str, losses: Losses) -> None:
        """Keep what a search tried, in a single step, beside the other searches."""
        searches = {**self._read(), digest: tried_of(losses)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, _FORM.dump_json(searches))

    def remove(self) -> None:
        """Forget all searches, once their results are in a manifest."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, list[Tried]]:
        try:
            return _FORM.validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return {}


@dataclass(frozen=True)
class FinishedSearch:
    """The search of a finished selection with the same configuration: nothing is tried again."""

    search: Search

    def tried(self, digest: str) -> Losses:
        """Return what it tried."""
        return losses_of(self.search.tried)

    def write(self, digest: str, losses: Losses) -> None:
        """Keep nothing: a manifest does not change."""

    def remove(self) -> None:
        """Forget nothing."""


Journal = SearchJournal | FinishedSearch


def losses_of(tried: list[Tried]) -> Losses:
    """Return the losses by pair."""
    return {(one.mode, one.sharpness): one.loss for one in tried}


def tried_of(losses: Mapping[Pair, list[float]]) -> list[Tried]:
    """Return the pairs with their losses, in the order they were tried."""
    return [Tried(mode=mode, sharpness=sharpness, loss=loss) for (mode, sharpness), loss in losses.items()]
