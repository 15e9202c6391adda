"""`prune list` of what belongs to no other command's tests."""

import json

from click.testing import CliRunner

from prune_toolkit.main import cli
from trainer.loop.dynamic import DYNAMIC


def test_dynamic_arms_are_listed_with_their_options_and_sources() -> None:
    result = CliRunner().invoke(cli, ["list", "dynamic", "--json"])
    entries = {entry["name"]: entry for entry in json.loads(result.stdout)}
    assert entries.keys() == set(DYNAMIC)
    assert entries["infobatch"]["options"] == "--prune-ratio 0.5, --anneal 0.125"
    assert entries["rs2"]["options"] == "--keep (required)"
    assert entries["seta"]["options"] == "--keep (required), --groups 10, --window 0.5, --anneal 0.125"
    assert "2305.18424" in entries["rs2"]["source"]


def test_losses_are_listed_with_their_options_and_published_values() -> None:
    result = CliRunner().invoke(cli, ["list", "losses", "--json"])
    entries = {entry["name"]: entry for entry in json.loads(result.stdout)}
    assert entries.keys() == {"ce", "kd", "dkd", "lskd", "lskd-dkd", "dist"}
    assert entries["dkd"]["options"] == "alpha 1, beta 8"
    assert entries["lskd"]["published"] == "kd_weight 9, ce_weight 0.1, temperature 2, kd_warmup_epochs 0"
    assert (entries["ce"]["needs"], entries["dist"]["needs"]) == ("labels alone", "targets")
    assert "2022" in entries["dist"]["source"]
