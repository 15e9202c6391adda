"""Which selections and runs a grid amounts to, on the digits scored by a small teacher."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from manifests.errors import MismatchError, UsageError
from manifests.manifest import Manifest
from prune_toolkit.quotas.keep import Keep
from prune_toolkit.sweep.grid import Grid
from prune_toolkit.sweep.runs import Planner, Row, named_teachers
from prune_toolkit.sweep.study import SweepConfig, job_of, plan_study

COUNT = 1298
BATCH = 64
Rows = Callable[..., list[Row]]


@pytest.fixture(scope="module")
def scored(prune, tmp_path_factory) -> Path:
    """The digits, scored by a linear teacher."""
    folder = tmp_path_factory.mktemp("sweep-plan")
    prune("index", "demo:digits", "--beton", "--out", folder / "index")
    prune("score", folder / "index", "--teacher", "teachers:linear", "--image-size", 8, "--device", "cpu",
          "--out", folder / "manifest")  # fmt: skip
    return folder / "manifest"


@pytest.fixture(scope="module")
def rows(scored: Path) -> Rows:
    """Rows of a grid."""

    def plan(*selects: str, seeds: int = 2, keeps: tuple[str, ...] = ("0.3",), **options: object) -> list[Row]:
        options = {"epochs": 4, "student": "resnet8", **options}
        grid = Grid(keeps=tuple(map(Keep.parse, keeps)), selects=selects or ("random",), seeds=seeds, **options)
        return list(Planner(grid, named_teachers([scored])).rows(range(grid.first_seed, grid.first_seed + seeds)))

    return plan


def of(rows: list[Row], name: str, keep: str = "0.3", loss: str = "kd") -> Row:
    [row] = [row for row in rows if (row.arm.name, str(row.keep), row.runs[0].loss) == (name, keep, loss)]
    return row


def test_random_is_drawn_anew_for_each_seed_and_medium_is_one_selection(rows: Rows) -> None:
    found = rows("medium", seeds=3)
    assert len({run.selection.key for run in of(found, "random").runs}) == 3
    assert len({run.selection.key for run in of(found, "medium").runs}) == 1
    assert len({run.key for run in of(found, "medium").runs}) == 3


def test_a_claim_has_seeds_of_its_own(rows: Rows) -> None:
    explored, claimed = rows("random", seeds=2), rows("random", seeds=2, first_seed=1)
    keys = [[run.key for run in of(found, "random").runs] for found in (explored, claimed)]
    assert keys[0][1] == keys[1][0]
    assert keys[1][1] not in keys[0]


def test_all_that_keep_everything_with_the_same_targets_are_trained_once(rows: Rows) -> None:
    found = rows("random", "medium", "hard=window --position 1", keeps=("1",), labels=("raw", "reshape"))
    raw = {of_raw.run_keys for of_raw in found if of_raw.runs[0].selection.labels == "raw"}
    reshaped = {row.run_keys for row in found if row.runs[0].selection.labels == "reshape"}
    assert len(raw) == len(reshaped) == 1
    assert raw != reshaped
    assert {"all data", "random", "medium", "hard"} == {row.arm.name for row in found}


def test_selectors_that_keep_the_same_samples_are_trained_once(rows: Rows) -> None:
    found = rows("medium", "half=window --position 1/2", "easy=window --position 0")
    assert of(found, "medium").run_keys == of(found, "half").run_keys
    assert of(found, "medium").run_keys != of(found, "easy").run_keys


def test_labels_alone_are_learned_once_whatever_the_targets(rows: Rows) -> None:
    found = [row for row in rows("medium", labels=("raw", "reshape"), losses=("kd", "ce")) if row.arm.name == "medium"]
    by_loss = {loss: [row.run_keys for row in found if row.runs[0].loss == loss] for loss in ("kd", "ce")}
    assert len(set(by_loss["kd"])) == 2
    assert len(by_loss["ce"]) == 2
    assert len(set(by_loss["ce"])) == 1


def test_epochs_of_each_arm_by_hand(rows: Rows) -> None:
    found = rows("random", keeps=("0.3", "0.7"), dynamics=("infobatch",))
    # 389 and 909 of the 1,298 samples: 6 and 14 whole batches of 64 an epoch, 4 epochs.
    assert of(found, "all data", "1").runs[0].budget == ("--epochs", "4", "--eval-every", "4")
    assert of(found, "random").runs[0].budget == ("--epochs", "4", "--eval-every", "4")
    assert of(found, "all data, fewer epochs").runs[0].budget == ("--steps", "24", "--eval-every", "24")
    assert of(found, "all data, fewer epochs", "0.7").runs[0].budget == ("--steps", "56", "--eval-every", "56")
    assert of(found, "RS2").runs[0].budget[:4] == ("--dynamic", "rs2", "--keep", "0.3")
    assert of(found, "RS2").runs[0].budget[4:] == ("--epochs", "4", "--eval-every", "4")
    # Of 4 epochs the first and the last are full.
    assert of(found, "InfoBatch", "1").runs[0].budget == (
        "--dynamic",
        "infobatch",
        "--epochs",
        "4",
        "--eval-every",
        "4",
    )


def test_infobatch_is_left_out_where_too_few_of_its_epochs_leave_samples_out(rows: Rows, scored: Path) -> None:
    grid = Grid(keeps=(Keep.parse("0.3"), Keep.parse("0.7")), epochs=4, student="resnet8", dynamics=("infobatch",))
    planner = Planner(grid, named_teachers([scored]))
    # The steps at .3 and .7 are those of 1 epoch and 3, of which 0 and 1 are pruned ones.
    assert [str(row.keep) for row in planner.rows(range(1)) if row.arm.name == "InfoBatch"] == ["1"]
    assert sorted((arm.name, str(keep)) for arm, _, keep in planner.skipped) == [
        ("InfoBatch", "0.3"),
        ("InfoBatch", "0.7"),
    ]
    assert [
        str(row.keep) for row in rows(keeps=("0.3",), epochs=16, dynamics=("infobatch",)) if row.arm.name == "InfoBatch"
    ]


def test_seta_draws_what_a_selection_has_for_about_its_steps(rows: Rows) -> None:
    found = rows("random", keeps=("0.3", "1"), epochs=16, dynamics=("seta",))
    # 389 of 1,298 samples: 16 epochs of 6 steps; half of the groups are 3 steps, 27 epochs of which 5 are full are 96.
    assert of(found, "SeTa").runs[0].budget == (
        *("--dynamic", "seta", "--keep", "0.3"),
        *("--epochs", "27", "--eval-every", "27"),
    )
    assert [str(row.keep) for row in found if row.arm.name == "SeTa"] == ["0.3"]


def test_what_is_left_out_in_tuning_is_not_trained_either(scored: Path, prune, tmp_path: Path) -> None:
    prune("select", scored, "--keep", "0.1", "--selector", "random", "--labels", "raw", "--out", tmp_path / "held")
    options = {"epochs": 4, "student": "resnet8", "dynamics": ("infobatch",), "seeds": 1, "tune_seeds": 1}
    grid = Grid(keeps=(Keep.parse("0.75"),), kd_weights=("0", "1"), **options)
    study = plan_study(
        SweepConfig(grid=grid, manifests=(scored,), out=tmp_path, val="demo:digits"),
        teachers := named_teachers([scored]),
        tmp_path / "held",
    )
    # Of 1,298 samples 4 epochs, 66 steps, come nearest to 60; of 1,168 the 3 epochs, 48 steps, to 52: one is pruned.
    whole = [str(row.keep) for row in Planner(grid, teachers).rows(range(1)) if row.arm.name == "InfoBatch"]
    assert whole == ["0.75", "0.75", "1", "1"]
    assert study.tuning is not None
    for phase in (study.tuning, study.final):
        assert [str(row.keep) for row in phase.rows if row.arm.name == "InfoBatch"] == ["1", "1"]
        assert "random" in {row.arm.name for row in phase.rows}


def test_images_to_be_shown_by_hand(rows: Rows) -> None:
    found = rows("random")
    # 389 of 1,298 samples: 6 whole batches an epoch; RS2 shows as many of all the data.
    assert of(found, "random").runs[0].selection.count == 389
    assert of(found, "random").runs[0].images == of(found, "RS2").runs[0].images == 4 * 6 * BATCH
    assert of(found, "all data", "1").runs[0].images == 4 * 20 * BATCH
    assert of(found, "all data, fewer epochs").runs[0].images == 24 * BATCH


def test_under_fixed_steps_every_arm_takes_as_many(rows: Rows) -> None:
    found = rows("random", epochs=None, steps=30, dynamics=("infobatch",), keeps=("0.02", "0.3"))
    assert {row.runs[0].budget[-4:] for row in found} == {("--steps", "30", "--eval-every", "30")}
    assert of(found, "all data, same steps").run_keys == of(found, "all data", "1").run_keys
    assert of(found, "random").runs[0].images == 30 * BATCH
    # 26 samples are less than a batch.
    assert of(found, "random", "0.02").runs[0].images == 30 * 26
    assert "InfoBatch" not in {row.arm.name for row in found}


def test_batch_size_and_recipe_of_the_flags_count(rows: Rows) -> None:
    found = rows("random", epochs=None, train_flags="--recipe demo --batch-size 100")
    assert of(found, "random").runs[0].budget == ("--epochs", "20", "--eval-every", "20")
    assert of(found, "all data, fewer epochs").runs[0].budget[1] == str(20 * (389 // 100))


def test_kd_weights_multiply_what_has_targets_alone(rows: Rows) -> None:
    found = rows("random", losses=("kd", "ce"), kd_weights=("0", "0.5"))
    at = [(row.weight, row.runs[0].loss) for row in found if row.arm.name == "random"]
    assert sorted(at, key=str) == [("0", "kd"), ("0.5", "kd"), (None, "ce")]


def test_keep_one_has_neither_fewer_epochs_nor_rs2(rows: Rows) -> None:
    assert {row.arm.name for row in rows("random", keeps=("1",))} == {"random", "all data"}


def test_flags_that_no_run_can_have_are_refused_before_anything_is_trained(rows: Rows) -> None:
    for options, said in (
        ({"train_flags": "--lr=-1"}, "--lr must be above 0"),
        ({"kd_weights": ("1.5",)}, "random: --kd-weight must be in [0, 1]"),
        ({"train_flags": "--recipe none"}, "unknown recipe"),
        ({"select_flags": "--views 3"}, "--views 3"),
    ):
        with pytest.raises(UsageError) as caught:
            rows("random", **options)
        assert said in str(caught.value)
    with pytest.raises(UsageError, match="no score"):
        rows("window --score nothing")


def test_the_parsed_commands_are_what_the_commands_themselves_make_of_them(
    rows: Rows, scored: Path, prune, tmp_path
) -> None:
    run = of(rows("hard=window --position 1 --score el2n"), "hard").runs[0]
    prune("select", *run.selection.command, "--out", tmp_path / "hard")
    header = Manifest.open(tmp_path / "hard").header
    assert header.selection is not None
    assert (header.selection.count, header.selection.score) == (run.selection.count, "el2n")


@pytest.mark.parametrize(("flags", "added"), [("--workers=2", False), ("--workers 2", False), ("--lr 0.1", True)])
def test_workers_are_those_of_the_flags_however_they_are_spelled(
    scored: Path, tmp_path: Path, flags: str, added: bool
) -> None:
    grid = Grid(keeps=(Keep.parse("0.3"),), epochs=1, student="resnet8", train_flags=flags, seeds=1)
    config = SweepConfig(grid=grid, manifests=(scored,), out=tmp_path, val="demo:digits")
    study = plan_study(config, named_teachers([scored]), None)
    words = [job_of(study, study.final, row, run).train for row, run in study.final.runs().values()]
    assert {any(word.startswith("--workers") for word in of[len(flags.split()) + 2 :]) for of in words} == {added}


def test_held_out_samples_are_in_no_selection(scored: Path, prune, tmp_path: Path) -> None:
    prune("select", scored, "--keep", "0.1", "--selector", "random", "--labels", "raw", "--out", tmp_path / "held")
    grid = Grid(keeps=(Keep.parse("0.5"),), epochs=1, student="resnet8", seeds=1)
    found = list(Planner(grid, named_teachers([scored]), tmp_path / "held").rows(range(1)))
    run = of(found, "random", "0.5").runs[0]
    whole = of(found, "all data", "1").runs[0]
    prune("select", *run.selection.command, "--out", tmp_path / "half")
    held, kept = (Manifest.open(tmp_path / name).selection().column("keep").to_numpy() for name in ("held", "half"))
    assert held.sum() == 130
    assert whole.selection.count == COUNT - 130
    assert kept.sum() == run.selection.count == 584
    assert not (held & kept).any()
    again = list(Planner(grid, named_teachers([scored])).rows(range(1)))
    assert not {run.key for row in found for run in row.runs} & {run.key for row in again for run in row.runs}


def test_teachers_of_one_data_set_are_told_apart_by_spec_or_folder(scored: Path, prune, tmp_path: Path) -> None:
    assert [teacher.name for teacher in named_teachers([scored])] == ["teachers:linear"]
    prune("score", scored.parent / "index", "--teacher", "teachers:linear", "--views", 2, "--no-flip",
          "--device", "cpu", "--image-size", 8, "--out", tmp_path / "two-views")  # fmt: skip
    both = named_teachers([scored, tmp_path / "two-views"])
    assert [teacher.name for teacher in both] == ["manifest", "two-views"]
    shutil.copytree(tmp_path / "two-views", tmp_path / "b" / "manifest")
    alike = named_teachers([scored, tmp_path / "b" / "manifest"])
    assert [teacher.name for teacher in alike] == [f"{scored.parent.name}/manifest", "b/manifest"]
    for other in (tmp_path / "two-views" / ".." / "two-views", tmp_path / "b" / "manifest"):
        with pytest.raises(UsageError, match="are the same manifest"):
            named_teachers([scored, tmp_path / "two-views", other])
    prune("index", "demo:digits", "--split", "test", "--beton", "--out", tmp_path / "other-index")
    prune("score", tmp_path / "other-index", "--teacher", "teachers:linear", "--device", "cpu", "--image-size", 8,
          "--out", tmp_path / "other")  # fmt: skip
    with pytest.raises(MismatchError, match="different data"):
        named_teachers([scored, tmp_path / "other"])
