"""Numbers of a sweep: intervals, differences, tables, plots; from runs that nobody trained."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sweep_support import pretend

from prune_toolkit.quotas.keep import Keep
from prune_toolkit.sweep.grid import Arm, Grid
from prune_toolkit.sweep.plots import draw_differences, draw_plots, draw_weights, lines_of
from prune_toolkit.sweep.results import TABLE, markdown, paired, run_records, summarise, table_records, write_tables
from prune_toolkit.sweep.runs import PlannedRun, Row
from prune_toolkit.sweep.study import Phase, Study, SweepConfig, chosen_weights, final_phase, one_weight
from prune_toolkit.sweep.sweep_folder import SweepFolder

GRID = Grid(keeps=(Keep.parse("0.5"),), selects=("random", "medium"), seeds=2)
RANDOM = Arm(name="random", select=("--selector", "random", "--labels", "raw"), train=("--loss", "kd"))
MEDIUM = Arm(name="medium", select=("--selector", "medium", "--labels", "raw"), train=("--loss", "kd"))
ALL = Arm(name="all data", kind="all", select=RANDOM.select, train=RANDOM.train)


def test_the_interval_of_one_two_three_by_hand() -> None:
    got = summarise([1.0, 2.0, 3.0])
    assert (got.n, got.mean, got.deviation) == (3, 2.0, 1.0)
    # t(.975, 2) = 4.302653, over the root of 3.
    assert got.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert got.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert summarise([5.0]) == (1, 5.0, None, None, None)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_summaries_agree_with_scipy(values: list[float]) -> None:
    got = summarise(values)
    deviation = float(np.std(values, ddof=1))
    assert got.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert got.deviation == pytest.approx(deviation, abs=1e-9)
    half = stats.t.ppf(0.975, len(values) - 1) * deviation / math.sqrt(len(values))
    assert (got.low, got.high) == (pytest.approx(got.mean - half, abs=1e-7), pytest.approx(got.mean + half, abs=1e-7))


def test_pairs_are_of_the_same_seed_and_what_has_no_partner_is_left_out() -> None:
    got = paired({0: 3.0, 1: 5.0, 2: 100.0}, {1: 4.0, 0: 1.0, 7: 50.0})
    assert got is not None
    assert (got.n, got.mean) == (2, 1.5)
    known = stats.ttest_rel([3.0, 5.0], [1.0, 4.0]).confidence_interval()
    assert (got.low, got.high) == (pytest.approx(known.low), pytest.approx(known.high))
    assert paired({0: 1.0}, {1: 1.0}) is None


def run(key: str, seed: int, labels: str = "raw") -> PlannedRun:
    selection: Any = SimpleNamespace(key=f"s{key}", labels=labels, command=("m", "--keep", "0.5"), count=10)
    flags = ("--seed", str(seed))
    return PlannedRun(key=key, selection=selection, flags=flags, budget=(), loss="kd", seed=seed, images=640)


def row(arm: Arm, keys: str, keep: str = "0.5", weight: str | None = None) -> Row:
    return Row(
        arm=arm,
        teacher="t",
        keep=Keep.parse(keep),
        weight=weight,
        runs=tuple(run(k, s) for s, k in enumerate(keys.split())),
    )


def study(folder: Path, *rows: Row, tuning: tuple[Row, ...] | None = None, grid: Grid = GRID) -> Study:
    config = SweepConfig(grid=grid, manifests=(), out=folder, val="test")
    return Study(
        config=config,
        teachers=(),
        tuning=None if tuning is None else Phase(rows=tuning, val="held", judged_on="hold-out"),
        final=Phase(rows=rows, val="test", judged_on="test"),
    )


@pytest.fixture
def finished(tmp_path: Path) -> Study:
    """random 80 and 82, medium 83 and 84 with training of 4 s and 2 s of scoring, all data 90 in 10 s."""
    done = study(tmp_path, row(RANDOM, "r0 r1"), row(MEDIUM, "m0 m1"), row(ALL, "a0 a1", "1"))
    short = {"time": {"training_s": 4.0, "total_s": 5.0}, "labels_time": {"total_s": 24.0}}
    for key, top1, facts in (
        ("r0", 0.80, {"labels_time": {"total_s": None}}),
        ("r1", 0.82, {}),
        ("m0", 0.83, short),
        ("m1", 0.84, short),
        ("a0", 0.90, {}),
    ):
        pretend(done, key, top1, **facts)
    return done


def records(of: Study) -> dict[str, dict[str, Any]]:
    return {record["arm"]: record for record in table_records(of, run_records(of, of.final))}


def test_the_table_by_hand(finished: Study) -> None:
    found = records(finished)
    random, medium, whole = found["random"], found["medium"], found["all data"]
    assert (random["n"], random["mean"], random["difference"]) == (2, pytest.approx(81), None)
    assert random["deviation"] == pytest.approx(math.sqrt(2))
    # 3 and 2 points ahead of random + KD, seed by seed.
    assert (medium["mean"], medium["difference"]) == (pytest.approx(83.5), pytest.approx(2.5))
    half = 12.7062047 * math.sqrt(0.5) / math.sqrt(2)
    assert (medium["difference_low"], medium["difference_high"]) == (
        pytest.approx(2.5 - half, abs=1e-6),
        pytest.approx(2.5 + half, abs=1e-6),
    )
    assert (whole["n"], whole["deviation"], whole["difference"]) == (1, None, None)


def test_a_row_says_after_how_many_students_scoring_has_paid(finished: Study) -> None:
    found = records(finished)
    # 20 s of scoring and selecting once, 6 s of training saved each time: the fourth student.
    assert (found["medium"]["training_s"], found["medium"]["total_s"], found["medium"]["pays_from"]) == (4, 24, 4)
    assert found["random"]["total_s"] is None
    assert found["random"]["pays_from"] is None
    assert found["all data"]["pays_from"] is None


def test_a_run_that_was_suspended_does_not_count_as_time(tmp_path: Path) -> None:
    done = study(tmp_path, row(RANDOM, "r0 r1 r2"))
    for key, training_s in (("r0", 10.0), ("r1", 2270.0), ("r2", 12.0)):
        total_s = training_s + 3
        times = {"time": {"training_s": training_s, "total_s": total_s}, "labels_time": {"total_s": total_s}}
        pretend(done, key, 0.8, **times)
    found = records(done)["random"]
    assert (found["training_s"], found["total_s"]) == (12, 15)


def test_tables_are_the_same_in_every_format(finished: Study, tmp_path: Path) -> None:
    table = list(records(finished).values())
    write_tables(finished.folder, "table", table, TABLE)
    parquet = pq.read_table(tmp_path / "table.parquet").to_pylist()
    with (tmp_path / "table.csv").open(newline="") as stream:
        text = list(csv.DictReader(stream))
    assert [line["arm"] for line in parquet] == [line["arm"] for line in text] == ["random", "medium", "all data"]
    for binary, typed in zip(parquet, text, strict=True):
        assert list(binary) == list(typed) == TABLE.names
        assert {name: "" if value is None else str(value) for name, value in binary.items()} == typed
    told = markdown(table, "test")
    assert "| medium | 0.5 | 0.9 | 2 | 83.50 ± 0.71 | 77.15 to 89.85 | +2.50 | -3.85 to +8.85 |" in told
    assert "labels raw; loss kd; teacher t; budget fixed epochs" in told


def test_rows_of_the_same_runs_stand_once_and_all_the_data_is_what_stays(tmp_path: Path) -> None:
    done = study(tmp_path, row(RANDOM, "x", "1"), row(MEDIUM, "x", "1"), row(ALL, "x", "1"), row(MEDIUM, "y"))
    for key in "xy":
        pretend(done, key, 0.5)
    table = table_records(done, run_records(done, done.final))
    assert len(table) == 4
    lines = [
        line for line in markdown(table, "test").splitlines() if line.startswith(("| random", "| medium", "| all"))
    ]
    assert [line.split(" | ")[0] for line in lines] == ["| all data", "| medium"]


def test_all_the_data_in_as_many_steps_is_shown_at_each_keep_that_it_is_compared_at(tmp_path: Path) -> None:
    same = Arm(name="all data, same steps", kind="fewer", select=RANDOM.select, train=RANDOM.train)
    randoms = (row(RANDOM, "r1", "0.1"), row(RANDOM, "r3", "0.3"))
    done = study(tmp_path, *randoms, row(same, "a", "0.1"), row(same, "a", "0.3"), row(ALL, "a", "1"))
    for key, top1 in (("r1", 0.7), ("r3", 0.8), ("a", 0.9)):
        pretend(done, key, top1)
    lines = markdown(table_records(done, run_records(done, done.final)), "test").splitlines()
    told = [line.strip("| ").split(" | ") for line in lines if line.startswith("| all data")]
    # Arm, keep, KD weight, top-1, interval, difference.
    assert [[cells[0], cells[1], cells[5]] for cells in told] == [
        ["all data, same steps", "0.1", "+20.00"],
        ["all data, same steps", "0.3", "+10.00"],
        ["all data", "1", "-"],
    ]


def test_one_run_beside_two_teachers_is_compared_with_each(tmp_path: Path) -> None:
    labels = replace(RANDOM, train=("--loss", "ce"))
    rows = [replace(row(RANDOM, f"r{name}"), teacher=name) for name in "tu"]
    rows += [replace(row(labels, "c"), teacher=name) for name in "tu"]
    done = study(tmp_path, *rows)
    for key, top1 in (("rt", 0.7), ("ru", 0.8), ("c", 0.6)):
        pretend(done, key, top1)
    told = markdown(table_records(done, run_records(done, done.final)), "test")
    assert "-10.00" in told
    assert "-20.00" in told


def test_rows_that_nothing_tells_apart_are_written_once(tmp_path: Path) -> None:
    raw, reshaped = (
        replace(MEDIUM, select=("--selector", "medium", "--labels", labels), train=("--loss", "ce"))
        for labels in ("raw", "reshape")
    )
    shared = [replace(row(arm, "c0 c1"), runs=(run("c0", 0, labels), run("c1", 1, labels))) for arm, labels in (
        (raw, "raw"), (reshaped, "reshape")
    )]  # fmt: skip
    # The same runs by another name, and other labels where they count, are rows of their own.
    other, kd = row(replace(raw, name="half"), "c0 c1"), row(MEDIUM, "k0 k1")
    kd_reshaped = replace(kd, arm=replace(reshaped, train=MEDIUM.train), runs=(run("q0", 0, "reshape"),))
    done = study(tmp_path, *shared, other, kd, kd_reshaped)
    for key in ("c0", "c1"):
        pretend(done, key, 0.6, config={"loss": "ce", "kd_weight": 0.9, "policy": None})
    for key in ("k0", "k1", "q0"):
        pretend(done, key, 0.7)
    runs = run_records(done, done.final)
    assert [(record["arm"], record["labels"], record["seed"]) for record in runs] == [
        ("medium", "-", 0),
        ("medium", "-", 1),
        ("half", "-", 0),
        ("half", "-", 1),
        ("medium", "raw", 0),
        ("medium", "raw", 1),
        ("medium", "reshape", 0),
    ]
    assert [(record["arm"], record["labels"], record["n"]) for record in table_records(done, runs)] == [
        ("medium", "-", 2),
        ("half", "-", 2),
        ("medium", "raw", 2),
        ("medium", "reshape", 1),
    ]


def test_where_weights_stand_side_by_side_the_same_weight_is_compared(tmp_path: Path) -> None:
    grid = Grid(keeps=(Keep.parse("0.5"),), selects=("random", "medium"), seeds=1, kd_weights=("0", "1"))
    random, medium = (Arm(name=a.name, select=a.select, train=a.train, weights=("0", "1")) for a in (RANDOM, MEDIUM))
    tuned = study(
        tmp_path,
        row(random, "r0", weight="0"),
        row(random, "r1", weight="1"),
        row(medium, "m0", weight="0"),
        row(medium, "m1", weight="1"),
        grid=grid,
    )
    for key, top1 in (("r0", 0.5), ("r1", 0.6), ("m0", 0.55), ("m1", 0.75)):
        pretend(tuned, key, top1)
    table = table_records(tuned, run_records(tuned, tuned.final))
    assert [record["difference"] and round(record["difference"], 6) for record in table] == [None, None, 5, 15]


def test_the_best_weight_on_the_hold_out_is_taken_arm_by_arm(tmp_path: Path) -> None:
    rows = [
        row(arm, f"{arm.name[0]}{weight}a {arm.name[0]}{weight}b", weight=weight)
        for arm in (RANDOM, MEDIUM)
        for weight in "059"
    ]
    of_final = (*rows, row(ALL, "a0 a1", "1"))
    tuned = study(tmp_path, *of_final, tuning=tuple(rows))
    for key, top1 in {"r0": 0.7, "r5": 0.8, "r9": 0.8, "m0": 0.9, "m5": 0.1, "m9": 0.2}.items():
        pretend(tuned, f"{key}a", top1)
        pretend(tuned, f"{key}b", top1 + 0.1)
    assert tuned.tuning is not None
    chosen = chosen_weights(tuned.tuning, tuned.folder)
    assert {cell[0].name: weight for cell, weight in chosen.items()} == {"random": "5", "medium": "0"}
    assert [(of.arm.name, of.weight) for of in final_phase(tuned, chosen).rows] == [
        ("random", "5"),
        ("medium", "0"),
        ("all data", None),
    ]
    assert [of.weight for of in one_weight(tuned.final).rows] == ["0", "0", None]
    (next((tmp_path / "runs").glob("*-r0b")) / "run.json").unlink()
    assert {cell[0].name for cell in chosen_weights(tuned.tuning, tuned.folder)} == {"medium"}


def many(count: int = 15) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    return [
        {
            "arm": f"arm {k}",
            "labels": "raw",
            "loss": "kd",
            "teacher": "t",
            "keep": keep,
            "kd_weight": 0.9,
            "mean": 60 + 20 * keep + generator.normal(),
            "high": 90.0,
            "training_s": 100 * keep,
            "total_s": 100 * keep + 5,
            "row": row(Arm(name=f"arm {k}"), "x y", str(keep)),
        }
        for k in range(count)
        for keep in (0.1, 0.3, 0.7)
    ]


def test_plots_are_the_same_bytes_each_time_and_name_every_arm(tmp_path: Path) -> None:
    written = [draw_plots(many(), tmp_path / name, "digits") for name in "ab"]
    assert [path.name for path in written[0]] == [
        f"{name}.{form}" for name in ("keep", "training", "total") for form in ("png", "svg")
    ]
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert len(lines_of(many())) == 15
    # The text of an SVG is drawn as paths, each under a comment of what it says.
    assert all(f"<!-- arm {k} -->" in written[0][1].read_text() for k in range(15))
    assert "<dc:date>" not in written[0][1].read_text()


def test_a_line_is_named_by_what_tells_it_apart() -> None:
    rows = many(2)
    rows += [{**record, "loss": "ce", "labels": "-"} for record in many(1)]
    assert list(lines_of(rows)) == ["arm 0, kd", "arm 1", "arm 0, ce"]
    rows += [{**record, "teacher": "other"} for record in many(1)]
    assert list(lines_of(rows)) == ["arm 0, kd, t", "arm 1, t", "arm 0, ce, t", "arm 0, kd, other"]


def test_differences_stand_in_order_and_a_collapsed_arm_does_not_flatten_the_others(tmp_path: Path) -> None:
    nothing = {"difference": None, "difference_low": None, "difference_high": None}
    rows = [{**record, **nothing} for record in many(4)]
    assert draw_differences(rows, tmp_path, "digits") == []
    gains = {"arm 1": 1.0, "arm 2": -0.5, "arm 3": -22.25}
    for record in rows:
        if (gain := gains.get(record["arm"])) is not None:
            record |= {"difference": gain, "difference_low": gain - 0.5, "difference_high": gain + 0.5}
    written = [draw_differences(rows, tmp_path / name, "digits") for name in "ab"]
    assert [path.name for path in written[0]] == ["difference.png", "difference.svg"]
    assert all(first.read_bytes() == second.read_bytes() for first, second in zip(*written, strict=True))
    drawn = written[0][1].read_text()
    places = [drawn.index(f"<!-- {arm} -->") for arm in ("arm 3", "arm 2", "arm 1")]
    assert places == sorted(places)
    assert "<!-- arm 0 -->" not in drawn
    # Each reaches 1.5, 1 or 22.75 from 0: the axis ends at 4 times 1.5, and -22.25 is told in words.
    assert drawn.count("<!-- -22.2 -->") == 3
    assert "<!-- 4 -->" in drawn
    assert "<!-- 8 -->" not in drawn


def test_accuracy_over_the_weight_needs_two_of_them(tmp_path: Path) -> None:
    arm = Arm(name="random", weights=("0", "1"))
    rows = [{**many(1)[0], "kd_weight": float(w), "row": row(arm, f"k{w}", "0.1", w)} for w in "01"]
    assert [path.name for path in draw_weights(rows, tmp_path, "digits")] == ["kd-weight.png", "kd-weight.svg"]
    assert draw_weights(rows[:1], tmp_path, "digits") == []
    assert draw_weights(many(), tmp_path, "digits") == []


def test_nothing_to_tell_is_no_error(tmp_path: Path) -> None:
    empty = study(tmp_path, row(RANDOM, "r0"))
    assert run_records(empty, empty.final) == []
    assert draw_plots([], tmp_path, "digits") == []
    assert SweepFolder(tmp_path).report("r0") is None
