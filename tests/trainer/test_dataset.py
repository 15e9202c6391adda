"""PrunedDataset shows what train-student shows: the same pixels and targets, whatever the loader around it does."""

import pickle
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from beton_support import jpeg_bytes, jpeg_image, raw_image, smooth
from torch.utils.data import DataLoader, DistributedSampler, Subset, WeightedRandomSampler, default_collate

import trainer
from manifests.base.layout import BETON_NAME
from manifests.betons.reader import Beton, BetonColumns, write_beton
from manifests.errors import InputError, UsageError
from manifests.format.top_k import top_k, words_count
from manifests.manifest import Manifest, commit, file_entry
from trainer import PrunedDataset, distillation_loss
from trainer.data.dense_labels import dense_logits
from trainer.data.task import open_task
from trainer.data.torch_loader import TorchLoader
from trainer.loop.recipes import resolve
from trainer.loop.training import Machine, train
from trainer.losses import LOSSES
from trainer.models.normalise import normalise

QUICK = {"student": "tiny_networks:plain", "epochs": 3, "batch_size": 16, "lr": 0.05, "schedule": "cosine"}
# Python 3.12 and later warn of forks in a process with threads; a DataLoader forks all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def rewritten(manifest: Manifest, folder, *, words=None, images=None, **labels) -> Manifest:
    """A copy of a selection with other targets, images, or other claims about its labels."""
    folder.mkdir()
    beton, rows = Beton.open(manifest.path / BETON_NAME), np.arange(manifest.header.selection.count)
    targets = beton.targets(rows) if words is None else words
    write_beton(
        folder / BETON_NAME,
        [beton.image(row) for row in rows] if images is None else images,
        BetonColumns(**{f"{name}_N": values for name, values in beton.columns.items()}),
        targets=targets,
        target_shape=targets.shape[1:],
    )
    header = manifest.header
    changes = {"labels": header.labels.model_copy(update=labels), "files": [file_entry(folder, BETON_NAME, len(rows))]}
    return commit(folder, header.model_copy(update=changes))


@pytest.fixture(scope="module")
def replayed(make_manifest):
    """Three stored targets a sample, of a scored pad_crop_flip."""
    return make_manifest(count=48, views=3, weighted=True)


@pytest.fixture(scope="module")
def single(make_manifest):
    return make_manifest(count=48, views=1, weighted=True)


@pytest.fixture(scope="module")
def k_largest(replayed, tmp_path_factory):
    """The labels of `replayed` with the two largest of three logits kept."""
    beton = Beton.open(replayed.path / BETON_NAME)
    targets_NVC = beton.targets(np.arange(48))
    words = np.stack([top_k(targets_NVC[:, v], beton.columns["label"], 2).words() for v in range(3)], axis=1)
    assert words.shape == (48, 3, words_count(2))
    return rewritten(replayed, tmp_path_factory.mktemp("top") / "s", words=words, top_k=2)


@dataclass
class Shown:
    """What train-student showed of one sample in one epoch."""

    image: torch.Tensor
    label: int
    target: torch.Tensor
    weight: float
    kd_weight: float


def shown_by_train_student(
    manifest, networks, out, monkeypatch, recipe="auto", **flags
) -> dict[tuple[int, int], Shown]:
    """Run train-student on the torch loader, and record its batches by (epoch, row)."""
    seen: dict[tuple[int, int], Shown] = {}
    # Its first pass is one batch of epoch 0 that nobody learns from.
    batches, epochs = TorchLoader.batches, iter([0, *range(100)])

    def recorded(self, *arguments, **options):
        epoch = next(epochs)
        for batch in batches(self, *arguments, **options):
            images = normalise(batch.images, task.preprocessing(task.image_px))
            label = batch.label if LOSSES[config.loss].needs_label_logit else None
            target = dense_logits(batch.target, task.stored.top_k, 3, config.temperature, label).float()
            for position, row in enumerate(batch.rows.tolist()):
                one = (batch.label[position].item(), target[position])
                weights = (batch.weight[position].item(), batch.kd_weight[position].item())
                seen[epoch, row] = Shown(images[position], *one, *weights)
            yield batch

    monkeypatch.syspath_prepend(str(networks))
    monkeypatch.setattr(TorchLoader, "batches", recorded)
    task = open_task(manifest.path)
    config = resolve(QUICK | flags, recipe=recipe, stored=task.stored)
    train(task, config, validation=None, out=out, machine=Machine(device="cpu", loader="torch"))
    monkeypatch.undo()
    return seen


CASES = [
    ("replayed", {}, {}),
    ("replayed", {"policy": "single"}, {"policy": "single"}),
    ("replayed", {"policy": "mean", "seed": 5}, {"policy": "mean", "seed": 5}),
    ("replayed", {"augment": "none"}, {"augment": "none"}),
    (
        "replayed",
        {"policy": "mean", "augment": "resized_crop_flip"},
        {"policy": "mean", "augment": "resized_crop_flip"},
    ),
    ("replayed", {"augment": "pad_crop_flip", "pad_px": 2}, {"augment": "pad_crop_flip", "pad_px": 2, "flip": True}),
    (
        "replayed",
        {"policy": "single", "augment": "resized_crop_flip", "scale_min": 0.7, "flip": False},
        {"policy": "single", "augment": "resized_crop_flip", "scale_min": 0.7, "flip": False},
    ),
    ("single", {"recipe": "demo"}, {"flip": False}),
    ("single", {"pad_px": 3, "flip": True}, {"pad_px": 3}),
    ("single", {"seed": 3}, {"seed": 3}),
    ("single", {"augment": "resized_crop_flip"}, {"augment": "resized_crop_flip"}),
    ("k_largest", {"temperature": 2.0, "loss": "dkd"}, {"temperature": 2.0}),
    (
        "k_largest",
        {"temperature": 3.0, "policy": "single", "loss": "dkd"},
        {"temperature": 3.0, "policy": "single"},
    ),
]


@pytest.mark.parametrize(("name", "flags", "arguments"), CASES)
def test_an_item_is_bit_for_bit_what_train_student_shows_of_it(
    request, networks, tmp_path, monkeypatch, name, flags, arguments
) -> None:
    manifest = request.getfixturevalue(name)
    seen = shown_by_train_student(manifest, networks, tmp_path / "run", monkeypatch, **flags)
    assert len(seen) == 3 * 48
    data = PrunedDataset(manifest.path, **arguments)
    for (epoch, row), wanted in seen.items():
        data.set_epoch(epoch)
        image, label, target, weight, kd_weight = data[row]
        assert torch.equal(image, wanted.image)
        assert torch.equal(target, wanted.target)
        assert (label, weight, kd_weight) == (wanted.label, wanted.weight, wanted.kd_weight)
    assert (image.dtype, image.shape) == (torch.float32, (3, 8, 8))
    assert (target.dtype, target.shape) == (torch.float32, (3,))


def test_views_that_were_not_scored_are_not_replayed(replayed) -> None:
    assert PrunedDataset(replayed.path, augment="pad_crop_flip", pad_px=2).policy == "replay"
    assert PrunedDataset(replayed.path, augment="resized_crop_flip").policy == "single"
    for other in ({"pad_px": 1}, {"flip": False}, {"policy": "replay", "augment": "none"}):
        with pytest.raises(UsageError, match="the views with stored labels are pad_crop_flip"):
            PrunedDataset(replayed.path, **other)


def test_each_policy_teaches_the_label_it_names(replayed) -> None:
    stored_NVC = torch.from_numpy(Beton.open(replayed.path / BETON_NAME).targets(np.arange(48)))
    replay, mean, alone = (PrunedDataset(replayed.path, policy=policy) for policy in ("replay", "mean", "single"))
    taught = set()
    for epoch in range(2):
        for data in (replay, mean, alone):
            data.set_epoch(epoch)
        for row in range(48):
            [view] = [v for v in range(3) if torch.equal(replay[row][2], stored_NVC[row, v].float())]
            taught.add((row, view))
            assert torch.equal(mean[row][2], stored_NVC[row].float().mean(dim=0).half().float())
            assert torch.equal(alone[row][2], stored_NVC[row, 0].float())
    # Both training views of every sample, one an epoch, and never the evaluation view.
    assert taught == {(row, view) for row in range(48) for view in (1, 2)}


def test_targets_of_the_k_largest_have_the_probabilities_of_all_at_their_temperature(replayed, k_largest) -> None:
    for temperature in (1.0, 4.0):
        full = PrunedDataset(replayed.path, policy="replay", temperature=temperature)
        kept = PrunedDataset(k_largest.path, policy="replay", temperature=temperature)
        for row in range(48):
            wanted, got = (torch.softmax(data[row][2].double() / temperature, dim=0) for data in (full, kept))
            # One class of three is not kept, so that the remainder is all its own.
            torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)


def test_the_label_among_the_even_rest_has_its_own_logit(make_manifest) -> None:
    """As losses that look at it need; plain KD then knows more of the teacher, not less."""
    names = [f"class{number}" for number in range(9)]
    names[:3] = ["blue", "green", "red"]
    labelled = {"views": 1, "class_names": names, "targets_NVC": np.random.default_rng(0).normal(0, 2, (48, 1, 9))}
    full, kept = (
        PrunedDataset(make_manifest(count=48, top_k=top_k, **labelled).path, temperature=4.0) for top_k in (None, 2)
    )
    divergences = []
    for row in range(48):
        wanted, got = full[row][2], kept[row][2]
        label = full[row][1]
        assert got[label] == wanted[label]
        words = kept._drawn[kept._columns.check(np.array([row]), 0, 0, kept._views.recipe)][1]
        even = dense_logits(words, 2, 9, 4.0)[0]
        log_p = torch.log_softmax(wanted.double() / 4, dim=0)
        divergences.append([float((log_p.exp() * (log_p - torch.log_softmax(one.double() / 4, dim=0))).sum())
                            for one in (got, even)])  # fmt: skip
    told, even = np.array(divergences).T
    assert (told <= even + 1e-5).all()
    assert told.mean() < 0.9 * even.mean()


def test_pixels_are_uint8_on_demand_and_normalised_as_the_manifest_says(replayed) -> None:
    data, plain = PrunedDataset(replayed.path), PrunedDataset(replayed.path, normalise=False)
    assert plain[5][0].dtype == torch.uint8
    assert torch.equal(data[5][0], ((plain[5][0].float() / 255) - 0.5) / 0.25)
    assert (data.class_names, data.policy) == (("blue", "green", "red"), "replay")
    assert (data.preprocessing.image_px, data.preprocessing.mean) == (8, [0.5, 0.5, 0.5])


def test_jpegs_of_any_size_are_drawn_alike(replayed, tmp_path) -> None:
    generator = np.random.default_rng(3)
    pictures = [smooth(generator, 10 + row, 40 - row // 2) for row in range(48)]
    images = [
        jpeg_image(jpeg_bytes(picture)) if row % 2 else raw_image(picture) for row, picture in enumerate(pictures)
    ]
    data = PrunedDataset(rewritten(replayed, tmp_path / "s", images=images).path)
    items = data.__getitems__(range(48))
    assert all(torch.equal(items[row][0], data[row][0]) for row in range(48))
    assert len({tuple(item[0].flatten().tolist()) for item in items}) == 48


def epoch_of(loader) -> list[torch.Tensor]:
    """The columns of one pass, in the order of the sampler."""
    return [torch.cat(column) for column in zip(*loader, strict=True)]


def assert_same(columns, others) -> None:
    assert all(torch.equal(one, other) for one, other in zip(columns, others, strict=True))


@pytest.mark.parametrize(("method", "persistent"), [("fork", False), ("fork", True), ("spawn", True)])
def test_workers_show_the_epoch_that_was_set_last(replayed, method, persistent) -> None:
    data, here = PrunedDataset(replayed.path), PrunedDataset(replayed.path)
    workers = {"num_workers": 2, "persistent_workers": persistent, "multiprocessing_context": method}
    loader = DataLoader(data, batch_size=10, **workers)
    views = set()
    for epoch in (0, 1, 1, 0):
        data.set_epoch(epoch)
        here.set_epoch(epoch)
        columns = epoch_of(loader)
        assert_same(columns, epoch_of(DataLoader(here, batch_size=7)))
        views.add(columns[2].sum().item())
    assert len(views) == 2


def test_a_pass_dropped_half_way_leaves_nothing_of_its_epoch(replayed) -> None:
    data, here = PrunedDataset(replayed.path), PrunedDataset(replayed.path)
    loader = DataLoader(data, batch_size=4, num_workers=1, persistent_workers=True)
    next(iter(loader))
    data.set_epoch(1)
    here.set_epoch(1)
    assert_same(epoch_of(loader), epoch_of(DataLoader(here, batch_size=48)))


def test_any_sampler_chooses_the_samples(replayed) -> None:
    data = PrunedDataset(replayed.path)
    whole = data.__getitems__(range(48))
    halves = [DistributedSampler(data, num_replicas=2, rank=rank, shuffle=True, seed=1) for rank in range(2)]
    for sampler in (*halves, WeightedRandomSampler([0.0] * 40 + [1.0] * 8, 20, generator=torch.Generator())):
        order = list(sampler)
        loaded = epoch_of(DataLoader(data, batch_size=8, sampler=order))
        assert_same(loaded, default_collate([whole[row] for row in order]))
    assert sorted([*halves[0], *halves[1]]) == list(range(48))
    assert torch.equal(Subset(data, [7, 3])[1][0], whole[3][0])


def test_a_copy_by_pickle_starts_at_the_epoch_it_was_made_in_and_goes_its_own_way(replayed) -> None:
    data = PrunedDataset(replayed.path)
    data.set_epoch(1)
    copied = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) < 20_000
    assert_same(default_collate(copied.__getitems__(range(48))), default_collate(data.__getitems__(range(48))))
    copied.set_epoch(0)
    assert not torch.equal(copied[0][2], data[0][2])
    assert copied._epoch.is_shared()


def test_it_is_a_sequence(replayed) -> None:
    data = PrunedDataset(replayed.path)
    assert len(data) == 48
    assert torch.equal(data[-1][0], data[47][0])
    assert torch.equal(data[torch.tensor(3)][0], data[np.int64(3)][0])
    assert len(list(data)) == 48
    for outside in (48, -49):
        with pytest.raises(IndexError, match="of 48 samples"):
            data[outside]
    with pytest.raises(ValueError, match="count from 0"):
        data.set_epoch(-1)


def test_a_collated_batch_goes_into_the_loss_as_it_is(single) -> None:
    data = PrunedDataset(single.path)
    images, label, target, weight, kd_weight = batch = next(iter(DataLoader(data, batch_size=48)))
    assert [column.dtype for column in batch] == [torch.float32, torch.int64, *[torch.float32] * 3]
    student = (images.mean(dim=(2, 3)) * 3).requires_grad_()
    loss = distillation_loss(student, target, label, weight, kd_weight, alpha=0.7, temperature=4.0)
    loss.backward()
    assert loss.dtype == torch.float32
    a_n = 0.7 * kd_weight.double()
    log_p, log_q = (torch.log_softmax(logits.detach().double() / 4, dim=1) for logits in (student, target))
    kl_n = (log_q.exp() * (log_q - log_p)).sum(dim=1)
    ce_n = -torch.log_softmax(student.detach().double(), dim=1)[torch.arange(48), label]
    wanted = (weight * ((1 - a_n) * ce_n + a_n * 16 * kl_n)).mean()
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-6)


def test_without_targets_policy_none_shows_labels_and_the_loss_is_the_cross_entropy(make_manifest, replayed) -> None:
    index = make_manifest(count=30, weighted=True)
    with pytest.raises(UsageError, match=r"kind index\) holds no targets\n.*policy=\"none\""):
        PrunedDataset(index.path)
    for manifest in (index, replayed):
        data = PrunedDataset(manifest.path, policy="none")
        images, label, target, weight, kd_weight = default_collate(data.__getitems__(range(30)))
        assert data.policy is None
        assert (target.shape, target.any(), kd_weight.any()) == ((30, 3), False, False)
        student = images.mean(dim=(2, 3))
        both = (student, target, label, weight, kd_weight)
        loss = distillation_loss(*both, alpha=0.9, temperature=4.0)
        ce_n = torch.nn.functional.cross_entropy(student, label, reduction="none")
        torch.testing.assert_close(loss, (weight * ce_n).mean())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "replay"}, "needs stored labels of several views"),
        ({"policy": "mean"}, "that of view 0"),
        ({"policy": "online"}, "needs a live teacher"),
        ({"policy": "replai"}, "replai is not known"),
        ({"augment": "mosaic"}, "mosaic is not known"),
        ({"temperature": 0.0}, "must be above 0, not 0"),
        ({"temperature": float("nan")}, "must be above 0, not nan"),
    ],
)
def test_what_cannot_be_is_refused_at_once(single, arguments, message) -> None:
    with pytest.raises(UsageError, match=message):
        PrunedDataset(single.path, **arguments)


def test_a_damaged_image_is_an_input_error_in_workers_too(replayed, tmp_path) -> None:
    picture = smooth(np.random.default_rng(0), 8, 8)
    damaged = jpeg_image(jpeg_bytes(picture)[:-200], (8, 8))
    images = [raw_image(picture)] * 47 + [damaged]
    data = PrunedDataset(rewritten(replayed, tmp_path / "s", images=images).path)
    for workers in (0, 1):
        with pytest.raises(InputError, match="row 47"):
            list(DataLoader(data, batch_size=16, num_workers=workers))


def test_the_package_offers_both_names_and_loads_torch_for_neither() -> None:
    code = "import trainer, sys; assert not {'torch', 'numpy', 'trainer.data.dataset'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert trainer.__all__ == sorted(trainer.__all__) == ["PrunedDataset", "distillation_loss"]
    assert all(getattr(trainer, name).__name__ == name for name in trainer.__all__)
    assert not hasattr(trainer, "train_everything")
