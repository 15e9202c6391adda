"""What labels cost, from the chain of run blocks in a header."""

import pytest
from trainer_support import trained

from manifests.format.header import DataSet, Header, Selection, Tool
from trainer.loop.label_times import label_times, used_times
from trainer.loop.run_report import result_lines, times_in_all

DATA = DataSet(name="d", source="folder", count=1, readable=1, class_names=["a"], fingerprint="f")
SCORED = {"command": "score", "seconds": 40.0}
SELECTED = {"command": "select", "seconds": 2.0, "parent_run": SCORED}
LABELLED = {"command": "label", "seconds": 10.0, "parent_run": SELECTED}
OTHER = {"command": "score", "seconds": 5.0}
MERGED = {"command": "merge", "seconds": 1.0, "parent_runs": [SCORED, OTHER]}
OLD = {"seconds": 2.0, "parent_run": {"seconds": 40.0, "images_per_second": 9.0}}


@pytest.mark.parametrize(
    ("kind", "run", "scoring_s", "selection_s", "labelling_s"),
    [
        ("selection", LABELLED, 40, 2, 10),
        ("selection", SELECTED, 40, 2, 0),
        ("selection", OLD, 40, 2, 0),
        ("scores", SCORED, 40, 0, 0),
        ("scores", {"seconds": 40.0}, 40, 0, 0),
        ("index", {"seconds": 3.0}, 0, 0, 0),
        ("index", {}, 0, 0, 0),
        ("selection", {}, None, None, None),
        ("selection", {"command": "select", "seconds": 2.0}, None, 2, None),
        ("selection", {"command": "select", "parent_run": SCORED}, 40, None, 0),
        ("selection", {"command": "label", "seconds": 3.0, "parent_run": LABELLED}, 40, 2, 13),
        ("selection", {"command": "cut", "seconds": 5.0, "parent_run": LABELLED}, 40, 7, 10),
        ("scores", MERGED, 46, 0, 0),
        ("scores", {"command": "merge", "seconds": 2.0, "parent_runs": [MERGED, OTHER]}, 53, 0, 0),
        ("scores", {"command": "merge", "seconds": 1.0, "parent_runs": [SCORED, {}]}, None, 0, 0),
        ("selection", {"command": "select", "seconds": 2.0, "parent_run": MERGED}, 46, 2, 0),
        ("selection", {"command": "label", "seconds": 3.0, "parent_run": "?"}, None, None, 3),
    ],
)
def test_each_command_of_the_chain_is_counted_under_its_name(kind, run, scoring_s, selection_s, labelling_s):
    header = Header(kind=kind, data=DATA, tool=Tool(name="t", version="0"), run=run)
    spent = {"scoring_s": scoring_s, "selection_s": selection_s, "labelling_s": labelling_s}
    assert label_times(header) == {"dynamics_s": 0, **spent}


CHOSEN = Selection(
    method="medium", parameters={}, score="loss", quota="", keep_asked="0.5", keep_got=0.5, count=1, seed=0
)
ALL = ["dynamics_s", "scoring_s", "selection_s", "labelling_s"]


@pytest.mark.parametrize(
    ("selection", "stored_labels", "used"),
    [
        (CHOSEN, True, ALL),
        (CHOSEN, False, ["scoring_s", "selection_s"]),
        (CHOSEN.model_copy(update={"score": None}), True, ALL),
        (CHOSEN.model_copy(update={"score": None}), False, []),
        (CHOSEN.model_copy(update={"keep_got": 1.0}), False, []),
        (None, False, []),
    ],
)
def test_without_stored_labels_a_run_used_only_what_chose_its_samples_by_a_score(selection, stored_labels, used):
    header = Header(kind="selection", data=DATA, tool=Tool(name="t", version="0"), run=LABELLED, selection=selection)
    assert used_times(header, stored_labels=stored_labels) == used
    for policy in ("replay", "mean", "single") if stored_labels else ("online", None):
        times = times_in_all(header, policy, 100)
        assert times["used"] == used
        spent = {"dynamics_s": 0, "scoring_s": 40, "selection_s": 2, "labelling_s": 10}
        assert times["total_s"] == 100 + sum(spent[name] for name in used)


@pytest.mark.parametrize(
    ("chosen_by", "used", "seconds"),
    [
        ([], [], 0),
        (["teacher"], ["scoring_s", "selection_s"], 42),
        (["features"], ["scoring_s", "selection_s"], 42),
        (["dynamics"], ["dynamics_s", "selection_s"], 302),
        (["dynamics", "teacher"], ["dynamics_s", "scoring_s", "selection_s"], 342),
    ],
)
def test_labels_alone_pay_for_what_chose_the_samples(chosen_by, used, seconds):
    selected = SELECTED | {"chosen_by": chosen_by, **({"dynamics_seconds": 300.0} if "dynamics" in chosen_by else {})}
    for run in (selected, {"command": "label", "seconds": 10.0, "parent_run": selected}):
        header = Header(kind="selection", data=DATA, tool=Tool(name="t", version="0"), run=run, selection=CHOSEN)
        assert used_times(header, stored_labels=False) == used
        assert times_in_all(header, None, 0)["total_s"] == seconds
        dynamics_s = 300 if "dynamics" in chosen_by else 0
        assert label_times(header)["dynamics_s"] == dynamics_s
        labelled_s = 10 if run is not selected else 0
        assert times_in_all(header, "single", 0)["total_s"] == 42 + dynamics_s + labelled_s


def test_cutting_a_selection_counts_as_selecting():
    cut = {"command": "cut", "seconds": 5.0, "parent_run": SELECTED | {"chosen_by": ["teacher"]}}
    header = Header(kind="selection", data=DATA, tool=Tool(name="t", version="0"), run=cut, selection=CHOSEN)
    assert used_times(header, stored_labels=False) == ["scoring_s", "selection_s"]
    assert times_in_all(header, None, 0)["total_s"] == 40 + 2 + 5


def test_on_many_ranks_training_counts_in_all_of_them(make_manifest, networks, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(networks))
    report = trained(make_manifest(count=30, views=1, run=LABELLED), tmp_path, epochs=1)
    report["world_size"], report["time"]["training_s"] = 4, 30.0
    report["labels_time"]["total_s"] = 172.0
    assert "training 30 s x 4 ranks + scoring 40 s + selection 2 s + labelling 10 s = 2 min 52 s" in result_lines(
        report, ""
    )


@pytest.mark.parametrize(("run", "known", "line"), [
    (LABELLED, True, " + scoring 40 s + selection 2 s + labelling 10 s = "),
    ({}, False, " + scoring ? + selection ? + labelling ?\n"),
])  # fmt: skip
def test_a_run_says_what_it_took_in_all(make_manifest, networks, monkeypatch, tmp_path, run, known, line):
    monkeypatch.syspath_prepend(str(networks))
    report = trained(make_manifest(count=30, views=1, run=run), tmp_path, epochs=1)
    total_s = report["labels_time"]["total_s"]
    assert total_s == (pytest.approx(report["time"]["training_s"] + 52) if known else None)
    assert line in result_lines(report, "run")


@pytest.mark.parametrize(
    "run",
    [
        {"command": [], "seconds": 2.0},
        {"command": "select", "seconds": 1e308, "parent_run": {"command": {"score": 1}}},
        {"command": "select", "seconds": -1, "parent_runs": [{"command": "select", "seconds": 10**400}]},
    ],
)
def test_a_forged_run_tells_no_times(run: dict[str, object]) -> None:
    header = Header(kind="selection", data=DATA, tool=Tool(name="t", version="0"), run=run)
    assert label_times(header)["selection_s"] is None
