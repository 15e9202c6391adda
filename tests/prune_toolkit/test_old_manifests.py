"""Manifests of every released schema version are selected from like those of today."""

from pathlib import Path

import pytest

from manifests.errors import UsageError
from manifests.manifest import Manifest
from prune_toolkit.quotas.keep import Keep
from prune_toolkit.selection.choose_samples import plan_selection
from prune_toolkit.selection.select_config import SelectConfig
from prune_toolkit.selection.write_selection import write_selection

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
VERSIONS = ["1.0", "1.1", "1.2", "1.3", "1.4"]
THIRD = Keep.parse("1/3")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_third_of_an_old_scored_manifest_can_be_kept(version: str, tmp_path: Path) -> None:
    config = SelectConfig(keep=THIRD, out=tmp_path / "out", beton=False)
    plan = plan_selection(config, Manifest.open(GOLDEN / version / "scores"))
    assert plan.count == 4
    assert write_selection(config, plan).selection().column("keep").to_pylist().count(True) == 4


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["index", "selection"])
def test_another_kind_is_refused_as_it_always_was(version: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"of kind {kind}"):
        plan_selection(SelectConfig(keep=THIRD, out=tmp_path, beton=False), Manifest.open(GOLDEN / version / kind))
