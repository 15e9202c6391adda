"""A selection as a torch Dataset, for your own training loop.

train_set = PrunedDataset("selection")
loader = DataLoader(train_set, batch_size=64, shuffle=True, num_workers=4, persistent_workers=True)
for epoch in range(epochs):
    train_set.set_epoch(epoch)
    for images, labels, targets, weights, kd_weights in loader:
        loss = distillation_loss(model(images), targets, labels, weights, kd_weights, alpha=0.9, temperature=4.0)
"""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifests.errors import InputError, PruneError, UsageError
from manifests.manifest import Manifest
from trainer.data.batches import RowColumns
from trainer.data.label_decoder import LabelDecoder
from trainer.data.policies import TrainingViews, ViewOptions, choose_policy
from trainer.data.task import Task, open_task
from trainer.data.torch_loader import ViewDataset
from trainer.losses.revise import revise
from trainer.models.normalise import normalise as normalised

Item = tuple[Any, ...]
"""Image, label, target, weight, kd_weight; float32 scalars, so that a collated batch holds float32. With ids,
sample_id and key follow."""
LABELS_ALONE = "none"


class PrunedDataset(torch.utils.data.Dataset[Item]):
    """The samples of a selection, or of any manifest with a beton, as views with their targets.

    An item is (image, label, target, weight, kd_weight): image float32 (3, S, S), normalised as for the teacher, or
    uint8 with normalise=False; label int; target float32 (C,), the teacher's logits; two float32 numbers. with_ids
    appends the sample_id, an int, and the key, a string; `sample_ids` and `keys` give them for all rows. Items equal
    those of `train-student` for the same policy, seed and epoch, if augment, pad_px, scale_min and flip are the same;
    run.json records them, and the recipe `demo` sets flip=False.

    image_px: the side S; None means the teacher's. policy: replay, mean or single; auto means the one the stored labels
    are made for; none gives the labels alone, with targets and kd_weight 0, so that the distillation loss is the
    cross-entropy. augment: pad_crop_flip, resized_crop_flip or none, for views that were not scored; pad_px (for
    pad_crop_flip), scale_min (for resized_crop_flip) and flip are its parameters; None means as scored, or by image
    size. temperature: the T of the loss. Targets of the K largest logits are completed for this T (None means 1; full
    targets do not depend on it), and labels are revised at it if the selection says so: then it is required, unless a
    preset sets it. Revised targets are logits whose softmax at this T is the revised label. With the K largest, the
    label's own logit is always the stored one, as for losses of train-student that use it; the loss `kd` treats a label
    outside the K largest like the other remaining classes.

    Samplers, worker processes (forked or spawned, persistent or not) and DistributedSampler work as with any dataset.
    Raises UsageError for a policy that the stored labels do not support, InputError for an image that cannot be
    decoded.
    """

    def __init__(
        self,
        manifest: str | Path | Manifest,
        *,
        image_px: int | None = None,
        policy: str = "auto",
        augment: str | None = None,
        pad_px: int | None = None,
        scale_min: float | None = None,
        flip: bool | None = None,
        seed: int = 0,
        normalise: bool = True,
        temperature: float | None = None,
        with_ids: bool = False,
    ) -> None:
        if image_px is not None and image_px < 1:
            raise UsageError(f"image_px must be at least 1, not {image_px}")
        if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
            raise UsageError(f"the temperature must be above 0, not {temperature}")
        task = open_task(manifest if isinstance(manifest, Manifest) else Path(manifest))
        side = task.image_px if image_px is None else image_px
        self.class_names = task.class_names
        self.preprocessing = task.preprocessing(side)
        """The geometry of the evaluation view and the normalisation, for the transforms of a validation set."""
        self.policy = None if policy == LABELS_ALONE else _policy(task, policy, augment)
        """replay, mean or single; None without targets."""
        asked: ViewOptions = {"augment": augment, "pad_px": pad_px, "scale_min": scale_min, "flip": flip}
        task.check_size(self.policy, side)
        self._views = TrainingViews.of(task, policy=self.policy, seed=seed, image_px=side, **asked)
        self._manifest, self._with_ids = task.manifest, with_ids
        self._columns = RowColumns(task.beton, None)
        self._sample_id_N = task.beton.columns.get("sample_id")
        self._drawn = ViewDataset(
            task.beton, self._columns.view_id_N, self._views.recipe, self.preprocessing, task.form
        )
        published = task.published_loss
        eta = published.get("revise_eta") if self.policy is not None else None
        temperature = published.get("temperature") if temperature is None and eta is not None else temperature
        if temperature is None and eta is not None:
            raise UsageError(
                f"the labels of {task.manifest.path} are revised at the temperature of the loss",
                hint="give that temperature: PrunedDataset(..., temperature=4.0)",
            )
        self._revision = None if eta is None else (float(eta), str(published["revise_scope"]))
        self._temperature = 1.0 if temperature is None else temperature
        self._logits, self._normalise = LabelDecoder(task.form), normalise
        # In shared memory, so that persistent worker processes see it change.
        self._epoch: Tensor = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        px, taught = self.preprocessing.image_px, self.policy or "labels alone"
        return f"<PrunedDataset: {len(self):,} samples of {len(self.class_names):,} classes, {px}x{px} px, {taught}>"

    def __len__(self) -> int:
        return self._columns.count

    @property
    def sample_ids(self) -> NDArray[np.int64]:
        """(N,) sample_id of each row; raises InputError if the beton does not store it."""
        if self._sample_id_N is None:
            raise InputError(f"the train.beton of {self._manifest.where} has no field sample_id")
        return self._sample_id_N

    @cached_property
    def keys(self) -> NDArray[np.object_]:
        """(N,) key of each row, such as the path of its file."""
        column = self._manifest.samples(["key"]).column("key")
        keys: NDArray[np.object_] = column.to_numpy(zero_copy_only=False)[self.sample_ids]
        return keys

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Select the views and targets of an epoch, counted from 0, in this process and its workers."""
        if epoch < 0:
            raise ValueError(f"epoch {epoch}: epochs count from 0")
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return the items of a batch, drawn at once; DataLoader calls this."""
        rows_n = self._rows(indices)
        view_n, target_view_n = self._views.of_epoch(int(self._epoch), rows_n)
        drawn = self._drawn[self._columns.check(rows_n, view_n, target_view_n, self._views.recipe)]
        if isinstance(drawn, PruneError):
            raise drawn
        images, stored = drawn[0].permute(0, 3, 1, 2), drawn[1]
        class_count, kd_weight_n = len(self.class_names), self._columns.kd_weight_N[rows_n]
        if self.policy is None or stored is None:
            target_nC, kd_weight_n = torch.zeros(len(rows_n), class_count), np.zeros_like(kd_weight_n)
        else:
            target_nC = self._targets(stored, torch.from_numpy(self._columns.label_N[rows_n].astype(np.int64)))
        if self._normalise:
            images = normalised(images, self.preprocessing)
        columns: list[Sequence[Any] | NDArray[Any]] = [
            images.unbind(),
            self._columns.label_N[rows_n].tolist(),
            target_nC.unbind(),
            self._columns.weight_N[rows_n],
            kd_weight_n,
        ]
        if self._with_ids:
            columns += [self.sample_ids[rows_n].tolist(), self.keys[rows_n].tolist()]
        return list(zip(*columns, strict=True))

    def _targets(self, stored: Tensor, label_n: Tensor) -> Tensor:
        temperature = self._temperature
        # The loss is not known here, and some use the label's logit by itself: it is always the stored one.
        target_nC = self._logits(stored, temperature, label_n)
        if self._revision is None:
            return target_nC.float()
        eta, scope = self._revision
        return revise(target_nC, label_n, eta=eta, temperature=temperature, scope=scope)

    def _rows(self, indices: Sequence[int]) -> NDArray[np.int64]:
        rows_n = np.asarray(indices, np.int64)
        if len(rows_n) and not -len(self) <= rows_n.min() <= rows_n.max() < len(self):
            raise IndexError(f"indices {rows_n.min()} to {rows_n.max()} of {len(self)} samples")
        return rows_n % len(self)


def _policy(task: Task, asked: str, augment: str | None) -> str:
    """Return the policy to use; raises UsageError if there are no targets for it."""
    if asked == "online":
        raise UsageError(
            "policy online needs a live teacher, and a dataset only has stored labels",
            hint="choose policy replay, mean, single or auto",
        )
    if not task.beton.view_count:
        raise UsageError(
            f"{task.manifest.path} (a manifest of kind {task.manifest.kind}) holds no targets",
            hint=f'score it, then select; or train on the labels alone: policy="{LABELS_ALONE}"',
        )
    return choose_policy(task.stored, asked, augment=augment)
