"""Mixup and cutmix with stored labels: by hand, against numpy, with every loader, resumed, and on two ranks."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import beta, kstest
from trainer_support import drawn, ended, linear_logits, stopped_at, trained, two_ranks, watched

import trainer
from manifests.errors import UsageError
from manifests.format.top_k import top_k
from trainer.config import TrainConfig
from trainer.data.loaders import ffcv_available
from trainer.data.order import epoch_order
from trainer.data.stored import StoredLabels
from trainer.data.task import open_task
from trainer.data.views import ViewRecipe
from trainer.loop import session as session_module
from trainer.loop.mixed_batch import average, mixed_images, mixed_target
from trainer.loop.mixing import Mix, cut_box, draw_mix
from trainer.loop.recipes import resolve
from trainer.models.build import build_model
from trainer.teachers.teacher_spec import TeacherSpec

COUNT, BATCH, T = 48, 16, 3.0
BOTH = {"mixup": 0.4, "cutmix": 1.0, "mix_prob": 0.8}

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(scope="module")
def selection(make_manifest):
    return make_manifest(count=COUNT, views=1, weighted=True)


def configured(**flags):
    return resolve({"image_px": 8} | flags, recipe="cifar", stored=StoredLabels(count=COUNT, view_count=1))


def bits(run):
    return (run / "student.safetensors").read_bytes()


def test_a_box_covers_what_its_share_leaves_and_is_cut_off_at_the_edges():
    # Half of 8 pixels, around the middle: 4 to the left of row 4 is 2.
    assert cut_box(0.75, 8, (0.5, 0.5)) == (2, 6, 2, 6)
    # Rows -2 to 2 and columns 5 to 9 of 8.
    assert cut_box(0.75, 8, (0.0, 0.99)) == (0, 2, 5, 8)
    assert cut_box(0.0, 8, (0.5, 0.5)) == (0, 8, 0, 8)
    assert cut_box(1.0, 8, (0.5, 0.5)) == (4, 4, 4, 4)


def test_lambda_of_cutmix_is_one_minus_the_exact_area_of_the_box():
    for step in range(50):
        mix = draw_mix(configured(cutmix=1.0), epoch=0, step=step, rank=0, count=4, side_px=9)
        covered = np.zeros((9, 9))
        top, bottom, left, right = mix.box
        covered[top:bottom, left:right] = 1
        assert mix.share == pytest.approx(1 - covered.mean(), abs=1e-12)


def test_images_are_blended_and_rounded_or_pasted():
    images = torch.tensor([[10, 20], [200, 101]], dtype=torch.uint8).view(2, 1, 1, 2)
    blend = mixed_images(images, torch.tensor([1, 0]), Mix(partner_n=np.array([1, 0]), share=0.75))
    # .75 of 10 and .25 of 200 is 57.5, which is rounded to the even 58; .75 of 20 and .25 of 101 is 40.25; and so on.
    assert blend.flatten().tolist() == [58, 40, 152, 81]
    paste = mixed_images(images, torch.tensor([1, 0]), Mix(partner_n=np.array([1, 0]), share=0.5, box=(0, 1, 1, 2)))
    assert paste.flatten().tolist() == [10, 101, 200, 20]
    assert images.flatten().tolist() == [10, 20, 200, 101]


def test_the_target_of_a_pair_is_the_mixture_of_probabilities_at_the_temperature_of_the_loss():
    p = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    # Any constant may be added to logits. Weights are float32.
    logits = torch.tensor(2 * np.log(p) + 7)
    pair, ones = torch.tensor([1, 0]), torch.ones(2)
    mixed = mixed_target(logits, ones, pair, 0.25, 2.0)
    want = [[0.2, 0.1375, 0.6625], [0.4, 0.2125, 0.3875]]
    np.testing.assert_allclose(softmax(mixed.numpy() / 2, axis=1), want, rtol=1e-6)
    # The second sample learns from its label alone; where both do, the share decides.
    alone = mixed_target(logits, torch.tensor([1.0, 0.0]), pair, 0.25, 2.0)
    np.testing.assert_allclose(softmax(alone.numpy() / 2, axis=1), [p[0], p[0]], rtol=1e-6)
    neither = mixed_target(logits, torch.zeros(2), pair, 0.25, 2.0)
    np.testing.assert_allclose(softmax(neither.numpy() / 2, axis=1), want, rtol=1e-6)
    # Weights of 1/2 and 1: .25 * .5 / (.25 * .5 + .75 * 1) = 1/7 of the first.
    uneven = mixed_target(logits, torch.tensor([0.5, 1.0]), pair, 0.25, 2.0)
    np.testing.assert_allclose(softmax(uneven.numpy() / 2, axis=1)[0], p[0] / 7 + 6 * p[1] / 7, rtol=1e-6)
    assert average(torch.tensor([1.0, 3.0]), pair, 0.25).tolist() == [2.5, 1.5]
    for share, kept in ((1.0, [0, 1]), (0.0, [1, 0])):
        whole = mixed_target(logits, ones, pair, share, 2.0).numpy()
        np.testing.assert_allclose(softmax(whole / 2, axis=1), p[kept], rtol=1e-6)


def test_lambda_follows_its_beta_and_a_coin_decides_between_the_two():
    blends = [draw_mix(configured(mixup=0.4), epoch=1, step=i, rank=0, count=2, side_px=8) for i in range(400)]
    assert kstest([mix.share for mix in blends], beta(0.4, 0.4).cdf).pvalue > 0.01
    mixes = [draw_mix(configured(**BOTH), epoch=1, step=i, rank=0, count=2, side_px=8) for i in range(400)]
    cuts = sum(mix is not None and mix.box is not None for mix in mixes)
    # Five standard deviations of a binomial of 400.
    assert abs(sum(mix is None for mix in mixes) - 80) < 40
    assert abs(cuts - 160) < 50


def test_ranks_share_lambda_and_box_and_permute_their_own_images():
    def draw(**other):
        return draw_mix(
            configured(cutmix=1.0), **{"epoch": 2, "step": 5, "rank": 0, "count": 64, "side_px": 32} | other
        )

    one, two = draw(), draw(rank=1)
    assert (one.share, one.box) == (two.share, two.box)
    assert sorted(one.partner_n) == sorted(two.partner_n) == list(range(64))
    assert (one.partner_n != two.partner_n).any()
    assert (draw().partner_n == one.partner_n).all()
    for other in ({"step": 6}, {"epoch": 3}):
        assert draw(**other).share != one.share
        assert (draw(**other).partner_n != one.partner_n).any()


def written_out(selection, config, model, step):
    """Loss of one step in numpy, from the definition: sums over both images of a pair."""
    task, rows = open_task(selection.path), epoch_order(0, 0, COUNT)[step * BATCH : (step + 1) * BATCH]
    mix = draw_mix(config, epoch=0, step=step, rank=0, count=BATCH, side_px=8)
    facts, columns = task.preprocessing(8), task.beton.columns
    pixels = np.stack([task.beton.pixels(row) for row in rows]).astype(np.float64)
    b = np.arange(BATCH) if mix is None else mix.partner_n
    share = 1.0 if mix is None else mix.share
    if mix is not None and mix.box is None:
        pixels = np.rint(share * pixels + (1 - share) * pixels[b])
    elif mix is not None:
        top, bottom, left, right = mix.box
        pasted = pixels.copy()
        pasted[:, top:bottom, left:right] = pixels[b, top:bottom, left:right]
        pixels = pasted
    inputs = ((pixels / 255 - np.array(facts.mean)) / np.array(facts.std)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        z = model.double()(torch.from_numpy(inputs)).numpy()
    log_q, label = log_softmax(z, axis=1), columns["label"][rows]
    ce = -share * log_q[np.arange(BATCH), label] - (1 - share) * log_q[np.arange(BATCH), label[b]]
    k, p = columns["kd_weight"][rows].astype(np.float64), softmax(task.beton.targets(rows)[:, 0].astype(float) / T, 1)
    k_mixed = share * k + (1 - share) * k[b]
    target = (share * k[:, None] * p + (1 - share) * k[b, None] * p[b]) / k_mixed[:, None]
    kl = rel_entr(target, softmax(z / T, axis=1)).sum(1)
    w = columns["weight"][rows].astype(np.float64)
    a = config.kd_weight * k_mixed
    return ((share * w + (1 - share) * w[b]) * ((1 - a) * ce + a * T**2 * kl)).mean()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_of_an_epoch_is_the_one_written_out_for_pairs(selection, seed, tmp_path):
    flags = {"epochs": 1, "augment": "none", "temperature": T, "kd_weight": 0.8, "lr": 1e-12, "weight_decay": 0.0}
    report = trained(selection, tmp_path, **flags, **BOTH)
    config = resolve(flags | BOTH | {"batch_size": BATCH}, recipe="auto", stored=open_task(selection.path).stored)
    model, _ = build_model("tiny_networks:plain", class_count=3, checkpoint=tmp_path / "student.safetensors")
    want = np.mean([written_out(selection, config, model, step) for step in range(COUNT // BATCH)])
    assert report["last"]["train_loss"] == pytest.approx(want, rel=1e-5)
    assert {name: report["config"][name] for name in BOTH} == BOTH


@pytest.mark.parametrize("loss", ["kd", "dist"])
def test_labels_of_the_k_largest_are_completed_and_then_mixed(make_manifest, loss, tmp_path, monkeypatch):
    logits_NC = np.random.default_rng(5).normal(0, 3, (COUNT, 3)).astype(np.float16)
    manifest = make_manifest(count=COUNT, views=1, targets_NVC=logits_NC[:, None], top_k=1)
    label_N = open_task(manifest.path).beton.columns["label"]
    p = softmax(top_k(logits_NC, label_N, 1).logits(T) / T, axis=1)
    config = configured(mixup=0.4)
    with watched(monkeypatch) as watch:
        trained(manifest, tmp_path, epochs=1, augment="none", temperature=T, mixup=0.4, loss=loss)
    for step, seen in enumerate(watch.steps):
        rows = epoch_order(0, 0, COUNT)[step * BATCH : (step + 1) * BATCH]
        mix = draw_mix(config, epoch=0, step=step, rank=0, count=BATCH, side_px=8)
        want = mix.share * p[rows] + (1 - mix.share) * p[rows[mix.partner_n]]
        np.testing.assert_allclose(softmax(seen.target / T, axis=1), want, atol=1e-6)


def test_a_live_teacher_labels_the_pixels_that_the_student_is_shown(selection, tmp_path, monkeypatch):
    module, info = build_model("tiny_networks:linear", class_count=3, image_px=8)
    spec = TeacherSpec(network="tiny_networks:linear")
    with watched(monkeypatch) as watch:
        trained(selection, tmp_path, epochs=1, teacher=spec.network, teacher_spec=spec, **BOTH)
    facts = info.preprocessing
    originals = {image.tobytes() for image in drawn(open_task(selection.path), ViewRecipe(name="none"), 0)}
    assert any(image.tobytes() not in originals for image in watch.steps[0].images)
    for step in watch.steps:
        want = linear_logits(step.images, module, facts.mean, facts.std)
        np.testing.assert_allclose(step.target, want, rtol=1e-4, atol=1e-4)


def test_a_stopped_run_goes_on_to_equal_weights_and_another_seed_mixes_otherwise(selection, tmp_path, monkeypatch):
    flags = {"epochs": 3, "lr": 0.05} | BOTH
    whole = trained(selection, tmp_path / "whole", **flags)
    with stopped_at(monkeypatch, 5):
        trained(selection, tmp_path / "stopped", **flags)
    assert trained(selection, tmp_path / "stopped", **flags)["last"] == whole["last"]
    assert bits(tmp_path / "stopped") == bits(tmp_path / "whole")
    trained(selection, tmp_path / "plain", **flags | {"mixup": 0.0, "cutmix": 0.0, "mix_prob": None})
    assert bits(tmp_path / "plain") != bits(tmp_path / "whole")


def test_both_loaders_are_mixed_the_same(selection, tmp_path):
    if not (found := ffcv_available())[0]:
        pytest.skip(found[1])
    for loader in ("torch", "ffcv"):
        trained(selection, tmp_path / loader, loader=loader, epochs=2, lr=0.05, **BOTH)
    assert bits(tmp_path / "torch") == bits(tmp_path / "ffcv")


@pytest.mark.slow
def test_two_ranks_train_the_student_of_one_process_that_permutes_both_halves(
    selection, networks, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(networks), str(Path(trainer.__file__).parents[1])]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = ["--manifest", selection.path, "--student", "tiny_networks:plain", "--device", "cpu", "--loader", "torch"]
    flags += ["--epochs", "2", "--batch-size", "16", "--lr", "0.05", "--schedule", "constant", "--out", "ranks"]
    flags += ["--mixup", "0.4", "--cutmix", "1", "--mix-prob", "80%"]
    ranks = ended(two_ranks(tmp_path, "-m", "trainer.cli.train_student", *flags))
    assert [code for code, _ in ranks] == [0, 0], ranks

    def of_halves(config, *, count, rank, **at):
        halves = [draw_mix(config, rank=half, count=count // 2, **at) for half in range(2)]
        if halves[0] is None:
            return None
        partner_n = np.concatenate([halves[0].partner_n, halves[1].partner_n + count // 2])
        return Mix(partner_n=partner_n, share=halves[0].share, box=halves[0].box)

    monkeypatch.setattr(session_module, "draw_mix", of_halves)
    trained(selection, tmp_path / "one", epochs=2, lr=0.05, **BOTH)
    two, one = (load_file(tmp_path / run / "student.safetensors") for run in ("ranks", "one"))
    assert max(float(np.abs(two[name] - one[name]).max()) for name in one) < 1e-5


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"mixup": -1.0}, r"--mixup must be above 0, or 0 to turn it off, not -1"),
        ({"cutmix": float("inf")}, r"--cutmix must be above 0"),
        ({"mix_prob": 0.5}, r"--mix-prob has no effect without --mixup or --cutmix"),
        ({"mixup": 0.2, "mix_prob": 0.0}, r"--mix-prob must be in \(0, 1\], not 0"),
        ({"mixup": 0.2, "loss": "dkd"}, r"--mixup and --loss dkd contradict each other: .* one true class"),
        ({"cutmix": 1.0, "loss": "lskd"}, r"--cutmix and --loss lskd contradict .* logits of one image"),
        ({"mixup": 0.2, "dynamic": "infobatch"}, r"--mixup and --dynamic infobatch contradict"),
        ({"mixup": 0.2, "record_dynamics": True}, r"--mixup and --record-dynamics contradict"),
        ({"mixup": 0.2, "record_grand": 1}, r"--mixup and --record-dynamics contradict"),
        ({"mixup": 0.2, "teacher": "resnet8", "revise_eta": 0.8}, r"--mixup and --revise contradict .* live teacher"),
    ],
)
def test_what_has_no_defined_mixture_is_refused(flags, told):
    with pytest.raises(UsageError, match=told) as refused:
        configured(**flags)
    assert refused.value.hint


def test_a_run_without_mixing_does_not_name_it_so_that_older_runs_go_on(selection, tmp_path):
    config = trained(selection, tmp_path, epochs=1)["config"]
    assert not {"mixup", "cutmix", "mix_prob"} & config.keys()
    assert isinstance(configured(mixup=0.2), TrainConfig)
    assert configured(mixup=0.2).mix_prob == 1
    assert json.loads((tmp_path / "run.json").read_text())["config"] == config
