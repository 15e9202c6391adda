"""`prune select` beside quota and window: hold-outs, minima, revision, distillation, presets, features."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_manifests import make

from manifests.base.files import link_or_copy
from manifests.betons.reader import Beton
from manifests.format.header import Features, ScoreSpec
from manifests.format.header_file import read_header
from manifests.format.parts import part_path, soft_labels_table, vectors_table, write_part
from manifests.format.soft_labels import FullLogits
from manifests.integrity import verify
from manifests.manifest import Manifest, commit, part_entries
from prune_toolkit.selection.presets import PRESETS

Run = Callable[..., subprocess.CompletedProcess[str]]
TEACHER = ("--teacher", "teachers:linear", "--image-size", 8)
SPEC = {"formula": "made up", "source": "a test"}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    out = tmp_path_factory.mktemp("scored") / "manifest"
    prune("score", "demo:digits", *TEACHER, "--views", 2, "-o", out)
    return out


@pytest.fixture(scope="module")
def featured(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with features, and scores of the sets features and dynamics."""
    out = tmp_path_factory.mktemp("featured") / "manifest"
    manifest = Manifest.open(scored)
    count, rng = manifest.header.data.count, np.random.default_rng(0)
    for table in ("samples", "scores/teacher", "logits/view-000", "logits/view-001"):
        for entry in manifest.files(table):
            (out / entry.path).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(scored / entry.path, out / entry.path)
    ids = np.arange(count)
    write_part(
        out / part_path("features/view-000", 0), vectors_table(ids, "features", rng.normal(size=(count, 5))), "d"
    )
    columns = {"features": ("moderate", "influence"), "dynamics": ("aum",)}
    for name, scores in columns.items():
        values = {score: pa.array(rng.normal(size=count).astype(np.float32)) for score in scores}
        write_part(out / part_path(f"scores/{name}", 0), pa.table({"sample_id": pa.array(ids), **values}), "d")
    tables = ["samples", "scores/teacher", "logits/view-000", "logits/view-001", "features/view-000"]
    tables += [f"scores/{name}" for name in columns]
    specs = [
        ScoreSpec(set=name, name=score, harder="low" if score == "aum" else "high", **SPEC)
        for name, scores in columns.items()
        for score in scores
    ]
    header = manifest.header.model_copy(
        update={
            "schema_version": "1.2",
            "features": Features(layer="fc", width=5),
            "scores": [*manifest.header.scores, *specs],
            "files": part_entries(out, tables, count),
        }
    )
    (out / "local.json").write_bytes((scored / "local.json").read_bytes())
    commit(out, header)
    return out


def keep_of(folder: Path) -> np.ndarray:
    return Manifest.open(folder).selection().column("keep").to_numpy(zero_copy_only=False)


def label_of(folder: Path) -> np.ndarray:
    return Manifest.open(folder).samples().column("label").to_numpy()


@pytest.mark.parametrize(("flags", "chosen_by"), [
    (("--selector", "random"), []),
    (("--selector", "medium"), ["teacher"]),
    (("--selector", "window", "--score", "aum"), ["dynamics"]),
    (("--selector", "herding"), ["features"]),
    (("--selector", "window", "--position", "auto"), ["features", "teacher"]),
    (("--mix", "0.5 herding, 0.3 window score=aum, 0.2 random"), ["dynamics", "features"]),
    (("--selector", "random", "--distill-fraction", "0.5", "--distill-by", "loss"), ["teacher"]),
])  # fmt: skip
def test_what_chose_the_samples_is_noted(
    featured: Path, tmp_path: Path, prune: Run, flags: tuple[str, ...], chosen_by: list[str]
) -> None:
    prune("select", featured, "--keep", "0.5", *flags, "-o", tmp_path / "s", "--no-beton")
    run = read_header(tmp_path / "s").run
    assert run["chosen_by"] == chosen_by
    assert ("dynamics_seconds" in run) == ("dynamics" in chosen_by)


def test_what_is_held_out_does_not_shape_the_labels(scored: Path, tmp_path: Path, prune: Run) -> None:
    prune("select", scored, "--keep", "0.3", "--selector", "random", "-o", tmp_path / "holdout", "--no-beton")
    flags = ("--keep", "0.5", "--labels", "reshape", "--without", tmp_path / "holdout", "--no-beton")
    prune("select", scored, *flags, "-o", tmp_path / "s")
    header, held_N, label_N = read_header(tmp_path / "s"), keep_of(tmp_path / "holdout"), label_of(scored)
    ((ids, logits_NC),) = Manifest.open(scored).logits(1)
    std_N = logits_NC.astype(np.float64).std(axis=1, ddof=1)
    seen_N = ~held_N[ids]
    expected = [std_N[seen_N & (label_N[ids] == c)].mean() for c in range(10)]
    assert header.labels is not None
    np.testing.assert_allclose(header.labels.class_std, expected, rtol=1e-12)
    assert not np.allclose(expected, [std_N[label_N[ids] == c].mean() for c in range(10)], rtol=1e-6)


@pytest.mark.parametrize(("image_px", "temperature"), [(32, 4.0), (64, 4.0), (224, 1.0)])
def test_the_temperature_of_kd_pruning_goes_by_image_size(image_px: int, temperature: float) -> None:
    assert PRESETS["kd-pruning"].loss_at(image_px) == {"kd_weight": 0.9, "temperature": temperature}
    assert PRESETS["mdslr"].loss_at(image_px)["temperature"] == 4.0


def test_a_hold_out_is_left_out_and_keep_counts_the_rest(scored: Path, tmp_path: Path, prune: Run) -> None:
    prune("select", scored, "--keep", "0.1", "--selector", "random", "--seed", 9, "-o", tmp_path / "holdout")
    held_N = keep_of(tmp_path / "holdout")
    result = prune("select", scored, "--keep", "0.5", "--without", tmp_path / "holdout", "-o", tmp_path / "s")
    keep_N = keep_of(tmp_path / "s")
    # 130 of 1,298 are held out, half of the other 1,168 is 584.
    assert (held_N.sum(), keep_N.sum(), (keep_N & held_N).sum()) == (130, 584, 0)
    reason = np.array(Manifest.open(tmp_path / "s").selection().column("reason").to_pylist())
    assert set(reason[held_N]) == {"held out"}
    assert "held out" not in set(reason[~held_N])
    header = Manifest.open(tmp_path / "s").header
    assert header.selection.without == Manifest.open(tmp_path / "holdout").id
    assert header.selection.keep_got == 0.5
    assert "584 samples kept (50.00 %)" in result.stdout
    assert "held out beforehand" in result.stdout
    assert "held out beforehand" in prune("show", tmp_path / "s").stdout
    assert "held out beforehand" in (tmp_path / "s" / "README.md").read_text()
    assert verify(tmp_path / "s").ok
    dry = prune("select", scored, "--keep", "0.5", "--without", tmp_path / "holdout", "--dry-run").stdout
    assert "130 samples were held out first" in dry
    # Both together are everything once, and nothing is left beside them.
    prune("select", scored, "--keep", 1, "--without", tmp_path / "holdout", "-o", tmp_path / "rest", "--no-beton")
    assert np.array_equal(keep_of(tmp_path / "rest"), ~held_N)
    prune("select", scored, "--keep", 1, "-o", tmp_path / "all", "--no-beton")
    nothing = prune("select", scored, "--keep", 1, "--without", tmp_path / "all", "-o", tmp_path / "no", code=2)
    assert "leaves no samples" in nothing.stderr


def test_a_hold_out_of_other_data_or_no_selection_is_refused(
    scored: Path, many_digits: Path, tmp_path: Path, prune: Run
) -> None:
    prune("score", many_digits, *TEACHER, "-o", tmp_path / "other")
    prune("select", tmp_path / "other", "--keep", "0.1", "--no-beton", "-o", tmp_path / "holdout")
    base = ("select", scored, "--keep", "0.5", "-o", tmp_path / "s")
    assert "selection of other data" in prune(*base, "--without", tmp_path / "holdout", code=4).stderr
    assert "is of kind scores, not a selection" in prune(*base, "--without", scored, code=2).stderr
    assert "no such folder" in prune(*base, "--without", tmp_path / "none", code=3).stderr
    assert not (tmp_path / "s").exists()


def test_a_class_minimum_is_in_the_header(scored: Path, tmp_path: Path, prune: Run) -> None:
    base = ("select", scored, "--keep", "0.2", "--quota", "none", "--selector", "window", "--position", "1")
    prune(*base, "-o", tmp_path / "free", "--no-beton")
    least = np.bincount(label_of(scored)[keep_of(tmp_path / "free")], minlength=10).min()
    assert least < 20
    result = prune(*base, "--per-class-min", 20, "-o", tmp_path / "s", "--no-beton")
    assert np.bincount(label_of(scored)[keep_of(tmp_path / "s")]).min() == 20
    assert keep_of(tmp_path / "s").sum() == keep_of(tmp_path / "free").sum() == 260
    assert Manifest.open(tmp_path / "s").header.selection.per_class_min == 20
    assert "at least 20 of every class" in result.stdout
    assert "requires 300 samples" in prune(*base, "--per-class-min", 30, "-o", tmp_path / "no", code=2).stderr


def test_revised_labels_are_stored_raw_and_counted(scored: Path, tmp_path: Path, prune: Run) -> None:
    base = ("select", scored, "--keep", "0.5", "--no-beton")
    prune(*base, "--labels", "raw", "-o", tmp_path / "raw")
    result = prune(*base, "--labels", "revise", "--revise-scope", "wrong", "--eta", "0.7", "-o", tmp_path / "wrong")
    every = prune(*base, "--labels", "revise", "-o", tmp_path / "all")
    raw, revised = Manifest.open(tmp_path / "raw"), Manifest.open(tmp_path / "wrong")
    label_N, wrong = label_of(scored), 0
    for view in (0, 1):
        for (ids, logits), (_, same) in zip(raw.targets(view), revised.targets(view), strict=True):
            assert np.array_equal(logits, same)
            wrong += int((logits.argmax(axis=1) != label_N[ids]).sum())
    total = 2 * keep_of(tmp_path / "raw").sum()
    assert 0 < wrong < total
    assert revised.header.labels.parameters == {"eta": 0.7, "scope": "wrong", "changed": wrong, "wrong": wrong}
    assert f"labels revised: {wrong:,} of {total:,} (eta 0.7, scope wrong); {wrong:,} had another" in result.stdout
    parameters = Manifest.open(tmp_path / "all").header.labels.parameters
    assert parameters == {"eta": 0.8, "scope": "all", "changed": total, "wrong": wrong}
    assert f"labels revised: {total:,} of {total:,} (eta 0.8, scope all); {wrong:,} had another" in every.stdout


def test_revised_labels_of_the_largest_logits_are_counted_alike(scored: Path, tmp_path: Path, prune: Run) -> None:
    base = ("select", scored, "--keep", "0.5", "--labels", "revise", "--no-beton")
    prune(*base, "-o", tmp_path / "full")
    prune(*base, "--top-k", 2, "-o", tmp_path / "two")
    full, two = (Manifest.open(tmp_path / name).header.labels.parameters for name in ("full", "two"))
    assert full == two


def test_labelling_again_counts_the_new_labels(scored: Path, tmp_path: Path, prune: Run) -> None:
    prune("select", scored, "--keep", "0.2", "--labels", "revise", "--eta", "0.6", "-o", tmp_path / "s")
    result = prune("label", tmp_path / "s", *TEACHER, "--views", 3, "-o", tmp_path / "labelled")
    labelled = Manifest.open(tmp_path / "labelled")
    label_N = label_of(scored)
    wrong = sum(
        int((logits.argmax(axis=1) != label_N[ids]).sum())
        for view in range(3)
        for ids, logits in labelled.targets(view)
    )
    total = 3 * keep_of(tmp_path / "s").sum()
    assert labelled.header.labels.parameters == {"eta": 0.6, "scope": "all", "changed": total, "wrong": wrong}
    assert f"labels revised: {total:,} of {total:,}" in result.stdout
    prune("label", tmp_path / "s", *TEACHER, "--views", 3, "--labels", "raw", "-o", tmp_path / "raw")
    assert Manifest.open(tmp_path / "raw").header.labels.parameters == {}


def test_a_share_is_distilled_in_the_table_and_in_the_beton(scored: Path, tmp_path: Path, prune: Run) -> None:
    result = prune(
        "select", scored, "--keep", "0.5", "--distill-fraction", "0.4", "--distill-by", "loss", "-o", tmp_path / "s"
    )
    selection = Manifest.open(tmp_path / "s")
    keep_N = keep_of(tmp_path / "s")
    kd_weight_N = selection.selection().column("kd_weight").to_numpy()
    assert set(kd_weight_N.tolist()) == {0.0, 1.0}
    assert (kd_weight_N[~keep_N] == 1).all()
    # 0.4 of 649 is 259.6.
    assert selection.header.selection.distill.model_dump() == {"fraction": "2/5", "by": "loss", "count": 260}
    assert kd_weight_N[keep_N].sum() == 260
    loss_N, label_N = Manifest.open(scored).scores().column("loss").to_numpy(), label_of(scored)
    for c in range(10):
        mine = keep_N & (label_N == c)
        easy, hard = loss_N[mine & (kd_weight_N == 1)], loss_N[mine & (kd_weight_N == 0)]
        assert easy.max() <= hard.min()
        assert abs(len(easy) - 0.4 * mine.sum()) < 1
    beton = Beton.open(selection.beton_path)
    assert np.array_equal(beton.columns["kd_weight"], kd_weight_N[keep_N])
    assert "distilled: 260 of 649 samples, the easy end of loss" in result.stdout
    prune("label", tmp_path / "s", *TEACHER, "--views", 2, "-o", tmp_path / "labelled")
    labelled = Manifest.open(tmp_path / "labelled")
    assert np.array_equal(Beton.open(labelled.beton_path).columns["kd_weight"], kd_weight_N[keep_N])
    assert labelled.header.selection.distill == selection.header.selection.distill
    dry = prune("select", scored, "--keep", "0.5", "--distill-fraction", "0.4", "--distill-by", "random", "--dry-run")
    assert dry.stdout.splitlines()[0].split() == ["class", "samples", "kept", "distilled"]


def test_the_preset_of_the_pruned_data_paper(scored: Path, tmp_path: Path, prune: Run) -> None:
    prune("select", scored, "--keep", "0.3", "--preset", "kd-pruning", "-o", tmp_path / "s", "--no-beton")
    header = Manifest.open(tmp_path / "s").header
    chosen, labels = header.selection, header.labels
    assert (chosen.method, chosen.quota, chosen.score, chosen.preset) == ("random", "equal", None, "kd-pruning")
    assert (labels.transform, labels.parameters) == ("raw", {"loss": {"kd_weight": 0.9, "temperature": 4.0}})
    assert np.ptp(np.bincount(label_of(scored)[keep_of(tmp_path / "s")])) <= 1


def test_the_preset_of_the_label_revision_paper(featured: Path, scored: Path, tmp_path: Path, prune: Run) -> None:
    prune("select", featured, "--keep", 1, "--preset", "lr-ds", "-o", tmp_path / "s", "--no-beton")
    header = Manifest.open(tmp_path / "s").header
    assert keep_of(tmp_path / "s").all()
    assert header.labels.transform == "revise"
    parameters = header.labels.parameters
    assert parameters["loss"] == {"ce_weight": 1.0, "kd_weight": 1.0, "temperature": 4.0}
    assert (parameters["eta"], parameters["scope"]) == (0.8, "all")
    assert header.selection.distill.model_dump() == {"fraction": "1/2", "by": "features/influence", "count": 649}
    influence_N = Manifest.open(featured).scores("features").column("influence").to_numpy()
    kd_weight_N, label_N = Manifest.open(tmp_path / "s").selection().column("kd_weight").to_numpy(), label_of(featured)
    # Distilled are the most helpful ones: the low end of influence, which is what a sample adds to the held-out loss.
    for c in range(10):
        low, high = (influence_N[(label_N == c) & (kd_weight_N == weight)] for weight in (1, 0))
        assert low.max() < high.min()
    # What is ours of the preset can be changed by a flag, what is the paper's cannot.
    tuned = ("--eta", "0.5", "--distill-fraction", "0.25", "--distill-by", "margin")
    prune("select", scored, "--keep", "0.5", "--preset", "lr-ds", *tuned, "-o", tmp_path / "tuned", "--no-beton")
    header = Manifest.open(tmp_path / "tuned").header
    assert (header.labels.parameters["eta"], header.selection.distill.by) == (0.5, "margin")
    base = ("select", scored, "--keep", 1, "--preset", "lr-ds", "-o", tmp_path / "no")
    assert "sets labels to revise, not raw" in prune(*base, "--labels", "raw", code=2).stderr
    assert "influence comes from prune score --features" in prune(*base, code=2).stderr


def test_scores_of_other_sets_are_found_by_name(featured: Path, tmp_path: Path, prune: Run) -> None:
    base = ("select", featured, "--keep", "0.25", "--selector", "window", "--position", "1", "--no-beton")
    for number, name in enumerate(("aum", "dynamics/aum")):
        prune(*base, "--score", name, "-o", tmp_path / str(number))
        assert Manifest.open(tmp_path / str(number)).header.selection.score == "dynamics/aum"
    assert Manifest.open(tmp_path / "0").id == Manifest.open(tmp_path / "1").id
    aum_N, label_N, keep_N = (
        Manifest.open(featured).scores("dynamics").column("aum").to_numpy(),
        label_of(featured),
        keep_of(tmp_path / "0"),
    )
    for c in range(10):
        assert aum_N[keep_N & (label_N == c)].max() < aum_N[~keep_N & (label_N == c)].min()
    prune(*base, "--score", "loss", "-o", tmp_path / "loss")
    assert Manifest.open(tmp_path / "loss").header.selection.score == "loss"
    unknown = prune(*base, "--score", "teacher/aum", "-o", tmp_path / "no", code=2).stderr
    assert "has no score 'teacher/aum'" in unknown
    assert "dynamics/aum" in unknown


def test_a_score_in_two_further_sets_must_be_named_whole(featured: Path, tmp_path: Path, prune: Run) -> None:
    import shutil

    shutil.copytree(featured, tmp_path / "m")
    header = read_header(tmp_path / "m")
    spec = next(spec for spec in header.scores if spec.name == "aum")
    update = {"scores": [*header.scores, spec.model_copy(update={"set": "features"})]}
    commit(tmp_path / "m", header.model_copy(update=update))
    refused = prune("select", tmp_path / "m", "--keep", 1, "--score", "aum", "-o", tmp_path / "s", code=2).stderr
    assert "name one of: dynamics/aum, features/aum" in refused


@pytest.mark.parametrize("selector", ["herding", "moderate"])
def test_selectors_that_need_features(featured: Path, scored: Path, tmp_path: Path, prune: Run, selector: str) -> None:
    base = ("--keep", "0.3", "--selector", selector, "--no-beton")
    prune("select", featured, *base, "-o", tmp_path / "s")
    assert keep_of(tmp_path / "s").sum() == 389
    assert "prune score --features" in prune("select", scored, *base, "-o", tmp_path / "no", code=2).stderr
    assert not (tmp_path / "no").exists()


def test_the_position_a_proxy_chose_is_in_the_header(featured: Path, scored: Path, tmp_path: Path, prune: Run) -> None:
    for manifest, vectors in ((featured, "features"), (scored, "logits")):
        out = tmp_path / vectors
        prune(
            "select", manifest, "--keep", "0.3", "--selector", "window", "--position", "auto", "-o", out, "--no-beton"
        )
        header = Manifest.open(out).header
        told = header.selection.parameters
        assert header.config["parameters"] == {"position": "auto"}
        assert told["position_by"] == f"auto, ridge regression from {vectors}"
        # The same selection as with that position typed.
        flags = ("--selector", "window", "--position", told["position"], "--no-beton")
        prune("select", manifest, "--keep", "0.3", *flags, "-o", tmp_path / f"{vectors}-typed")
        assert np.array_equal(keep_of(out), keep_of(tmp_path / f"{vectors}-typed"))
    again = ("select", scored, "--keep", "0.3", "--selector", "window", "--position", "auto", "--no-beton")
    assert "is finished already" in prune(*again, "-o", tmp_path / "logits").stderr


def test_parameters_have_flags_and_can_be_named_otherwise(scored: Path, tmp_path: Path, prune: Run) -> None:
    base = ("select", scored, "--keep", "0.3", "--no-beton")
    prune(*base, "--selector", "ccs", "--beta", "0.1", "--strata", 7, "-o", tmp_path / "flags")
    prune(*base, "--selector", "ccs", "--parameter", "beta=0.10", "--parameter", "strata=7", "-o", tmp_path / "names")
    assert Manifest.open(tmp_path / "flags").id == Manifest.open(tmp_path / "names").id
    prune(*base, "--mix", "0.5 medium, 0.5 random", "-o", tmp_path / "mix")
    chosen = Manifest.open(tmp_path / "mix").header.selection
    assert (chosen.method, chosen.parameters) == ("mix", {"mix": "1/2 medium score=loss, 1/2 random"})
    no = (*base, "-o", tmp_path / "no")
    assert "is not NAME=VALUE" in prune(*no, "--parameter", "beta", code=2).stderr
    assert "give it once" in prune(*no, "--selector", "ccs", "--beta", 0, "--parameter", "beta=0", code=2).stderr
    assert "no parameter 'beta'" in prune(*no, "--beta", 0, code=2).stderr
    assert "no parameter 'mix'" in prune(*no, "--selector", "random", "--mix", "1 medium", code=2).stderr
    assert "has no score 'beauty'" in prune(*no, "--mix", "1 medium score=beauty", code=2).stderr
    assert "to its parts: score=NAME" in prune(*no, "--mix", "1 medium", "--score", "el2n", code=2).stderr
    assert "ranks by moderate" in prune(*no, "--selector", "moderate", "--score", "el2n", code=2).stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--eta", "0.5"), "--eta applies to label revision only"),
        (("--labels", "raw", "--revise-scope", "all"), "--revise-scope applies to label revision only"),
        (("--labels", "revise", "--eta", "1"), "above 0 and below 1"),
        (("--labels", "revise", "--eta", "x"), "above 0 and below 1"),
        (("--labels", "revise", "--revise-scope", "some"), "known: wrong, all"),
        (("--distill-by", "loss"), "add --distill-fraction"),
        (("--distill-fraction", "0", "--distill-by", "loss"), "above 0 and at most 1"),
        (("--distill-fraction", "2", "--distill-by", "loss"), "above 0 and at most 1"),
        (("--distill-fraction", "0.5"), "influence comes from prune score --features"),
        (("--distill-fraction", "0.0001", "--distill-by", "random"), "leaves no samples to distill"),
        (("--preset", "best"), "known: mdslr, kd-pruning, lr-ds"),
        (("--preset", "kd-pruning", "--score", "loss"), "sets score to none, not loss"),
        (("--per-class-min", "-1"), "per-class-min"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    scored: Path, tmp_path: Path, prune: Run, flags: tuple[str, ...], message: str
) -> None:
    assert message in prune("select", scored, "--keep", "0.5", *flags, "-o", tmp_path / "s", code=2).stderr
    assert not (tmp_path / "s").exists()


def test_the_same_options_twice_are_the_same_selection(featured: Path, tmp_path: Path, prune: Run) -> None:
    flags = ("--mix", "0.5 herding, 0.3 ccs, 0.2 window position=auto", "--per-class-min", 5, "--labels", "revise")
    for name in ("one", "two"):
        prune("select", featured, "--keep", "0.4", *flags, "--distill-fraction", "0.5", "-o", tmp_path / name)
    assert Manifest.open(tmp_path / "one").id == Manifest.open(tmp_path / "two").id


def test_the_plan_of_a_dry_run_is_what_is_written(scored: Path, tmp_path: Path, prune: Run) -> None:
    flags = ("--keep", "0.3", "--selector", "ccs", "--distill-fraction", "0.5", "--distill-by", "margin", "--json")
    plan = json.loads(prune("select", scored, *flags, "--dry-run", "-o", tmp_path / "s").stdout)
    assert not (tmp_path / "s").exists()
    written = json.loads(prune("select", scored, *flags, "-o", tmp_path / "s").stdout)
    assert plan["parameters"] == written["selection"]["parameters"] == {
        "beta": "1/10", "beta_by": "published for CIFAR-10", "strata": "50"
    }  # fmt: skip
    assert plan["distill"] == written["selection"]["distill"]
    assert sum(row["distilled"] for row in plan["classes"]) == plan["distill"]["count"] == 195


def test_lists_tell_needs_options_and_presets(prune: Run) -> None:
    selectors = {entry["name"]: entry for entry in json.loads(prune("list", "selectors", "--json").stdout)}
    assert selectors["herding"]["needs"] == "features"
    assert selectors["ccs"]["options"] == "--beta published, --strata 50"
    assert selectors["mix"]["options"] == "--mix MIX"
    presets = {entry["name"]: entry for entry in json.loads(prune("list", "presets", "--json").stdout)}
    assert presets["lr-ds"]["labels"] == "revise, eta 0.8, scope all"
    assert presets["lr-ds"]["distilled"] == "0.5 of each class, by influence"
    assert presets["mdslr"]["score"] == "loss"


def test_views_of_which_one_holds_all_logits_and_one_the_largest_are_refused(tmp_path: Path, prune: Run) -> None:
    keys, logits_VNC = [f"{row:02d}" for row in range(6)], np.random.default_rng(0).normal(size=(2, 6, 3))
    made = make(tmp_path / "m", keys, [0, 1, 2] * 2, logits_VNC, keep_k=2)
    whole = FullLogits(logits_VNC[1].astype(np.float16))
    write_part(
        made.folder / made.files("logits/view-001")[0].path, soft_labels_table(np.arange(6), "logits", whole), ""
    )
    tables = ["samples", "scores/teacher", "logits/view-000", "logits/view-001"]
    commit(made.folder, made.header.model_copy(update={"files": part_entries(made.folder, tables, 6)}))
    base = ("select", tmp_path / "m", "--keep", "1", "--no-beton", "--labels", "raw", "-o", tmp_path / "s")
    assert "do not hold the same number of logits" in prune(*base, code=3).stderr
    prune(*base, "--policy", "single")
