"""A batch of views as a training step needs it, and the columns that belong to the rows of a beton or source."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL.Image import Image

from manifests.betons.reader import Beton
from manifests.errors import InputError
from manifests.format.header import Preprocessing
from manifests.format.stored_form import StoredForm
from manifests.sources.base import Source
from trainer.data.resample import draw_view
from trainer.data.views import EVALUATION, MEAN_VIEW, ViewRecipe, plan_views
from trainer.models.normalise import normalise

Request = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Rows, views and target views, (n,) each."""
Drawn = tuple[torch.Tensor, torch.Tensor | None]
"""Images (n, S, S, 3) uint8, and targets as in `Batch`."""


@dataclass(slots=True)
class Batch:
    """Some rows as a step needs them, as tensors on the loader's device; stays valid after the next batch is drawn."""

    images: torch.Tensor
    """(n, 3, S, S) uint8 in channels_last memory."""
    rows: NDArray[np.int64]
    """(n,) rows of the beton or source."""
    label: torch.Tensor
    """(n,) int64."""
    weight: torch.Tensor
    """(n,) float32."""
    kd_weight: torch.Tensor
    """(n,) float32."""
    target: torch.Tensor | None
    """(n, C) float16 logits, the bits of words (n, W) as stored, or float32 logits that had to be decoded for a mean;
    None if there are none. `LabelDecoder` takes all of them."""


class RowColumns:
    """The columns of each row besides its pixels: (N,) label, weight, kd_weight, view_id."""

    def __init__(self, data: Beton | Source, view_id_N: NDArray[np.uint64] | None) -> None:
        ones = np.float32(1)
        # Not the beton itself: these columns are sent to worker processes.
        self._file = data.state if isinstance(data, Beton) else None
        if isinstance(data, Beton):
            columns, self.count = data.columns, data.count
            label_N = columns.get("label", next((c for c in columns.values() if c.dtype == np.int64), None))
            if label_N is None:
                raise InputError(f"{data.path} has no integer field that could be the label")
            view_id_N = columns.get("view_id") if view_id_N is None else view_id_N
            weight_N, kd_weight_N = columns.get("weight", ones), columns.get("kd_weight", ones)
            self.view_count, self._label_count_N = data.view_count, data.label_count_N
        else:
            label_N, weight_N, kd_weight_N = data.labels_N, ones, ones
            self.count, self.view_count, self._label_count_N = len(data.keys), 0, None
        self.label_N = np.asarray(label_N, np.int64)
        self.weight_N = np.broadcast_to(np.asarray(weight_N, np.float32), self.count)
        self.kd_weight_N = np.broadcast_to(np.asarray(kd_weight_N, np.float32), self.count)
        self.has_view_ids = view_id_N is not None
        self.view_id_N = np.zeros(self.count, np.uint64) if view_id_N is None else np.ascontiguousarray(view_id_N)

    def check(
        self, rows_n: NDArray[np.int64], view_n: ArrayLike, target_view_n: ArrayLike, recipe: ViewRecipe
    ) -> Request:
        """Return rows, views and target views as (n,) int64; raises ValueError for those that do not exist.

        Raises InputError for a beton that was changed since it was opened.
        """
        if self._file is not None:
            self._file.check()
        rows_n = np.ascontiguousarray(rows_n, np.int64)
        view_n = np.broadcast_to(np.asarray(view_n, np.int64), rows_n.shape)
        target_view_n = np.ascontiguousarray(np.broadcast_to(np.asarray(target_view_n, np.int64), rows_n.shape))
        if len(rows_n):
            if rows_n.min() < 0 or rows_n.max() >= self.count:
                raise ValueError(f"rows {rows_n.min()} to {rows_n.max()} of {self.count}")
            lowest, highest = int(target_view_n.min()), int(target_view_n.max())
            if self.view_count and (lowest < MEAN_VIEW or highest >= self.view_count):
                raise ValueError(f"target views {lowest} to {highest} of {self.view_count}")
            if self._label_count_N is not None and (target_view_n >= self._label_count_N[rows_n]).any():
                raise ValueError("a row has fewer targets than that of the view")
            if view_n.any() and recipe.name != "none" and not self.has_view_ids:
                raise ValueError("augmented views need view ids")
        return rows_n, view_n, target_view_n


class ViewLoader:
    """Draws views of rows, any number of times."""

    kind: ClassVar[Literal["ffcv", "torch"]]

    def __init__(self, columns: RowColumns, recipe: ViewRecipe, device: torch.device, reason: str) -> None:
        """`reason`: why this kind was chosen, in a few words."""
        self.reason, self.count = reason, columns.count
        self._columns, self._recipe, self._device = columns, recipe, device

    def batches(
        self,
        rows_n: NDArray[np.int64],
        *,
        view_n: ArrayLike = 0,
        target_view_n: ArrayLike = 0,
        batch_size: int,
        drop_last: bool = False,
    ) -> Generator[Batch, None, None]:
        """Yield the rows in the given order; the same row may come more than once.

        If a batch has the same row several times in succession, for several views, its image is decoded once. view_n:
        view of each row, one number for all or (n,); 0 is the evaluation view. target_view_n: the stored label to
        return with it, or MEAN_VIEW. Raises ValueError for rows or views that do not exist, and InputError at the
        batch whose image cannot be decoded. Only one generator can be used at a time; closing it ends its threads.
        """
        columns = self._columns
        request = columns.check(rows_n, view_n, target_view_n, self._recipe)
        count = len(request[0]) // batch_size * batch_size if drop_last else len(request[0])
        rows_n, view_n, target_view_n = (values_n[:count] for values_n in request)
        start = 0
        with closing(self._drawn((rows_n, view_n, target_view_n), batch_size)) as drawn:
            for images, target in drawn:
                row_b = rows_n[start : start + len(images)]
                start += len(images)
                label, weight, kd_weight = (
                    torch.from_numpy(column_N[row_b]).to(self._device)
                    for column_N in (columns.label_N, columns.weight_N, columns.kd_weight_N)
                )
                yield Batch(images.permute(0, 3, 1, 2), row_b, label, weight, kd_weight, target)

    def _drawn(self, request: Request, batch_size: int) -> Generator[Drawn, None, None]:
        """Yield batch after batch on the device, in tensors that no other code writes to."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what is held between epochs, besides memory."""


def targets_of_rows(
    beton: Beton, rows_n: NDArray[np.int64], target_view_n: NDArray[np.int64], form: StoredForm | None = None
) -> NDArray[np.float16] | NDArray[np.float32]:
    """Return the stored label (n, C) of each row in one view, or for MEAN_VIEW the mean over its views.

    With a codec, labels are words (n, W), unless a mean is asked for: then all are decoded, to float32 (n, C). Where
    samples have targets of different views, the mean is that over its own.
    """
    stored_nVC, view_n = beton.targets(rows_n), np.maximum(target_view_n, 0)
    is_mean_n = target_view_n == MEAN_VIEW
    if beton.label_count_N is not None and is_mean_n.any():
        return _with_own_means(stored_nVC, beton.label_count_N[rows_n], view_n, is_mean_n, form)
    if form is not None and form.codec is not None and is_mean_n.any():
        count, views, words = stored_nVC.shape
        decoded_nVC = form.decode(stored_nVC.reshape(-1, words)).reshape(count, views, -1)
        return np.where(is_mean_n[:, None], decoded_nVC.mean(axis=1), decoded_nVC[np.arange(count), view_n])
    target_nC: NDArray[np.float16] = stored_nVC[np.arange(len(rows_n)), view_n]
    if is_mean_n.any():
        target_nC[is_mean_n] = stored_nVC[is_mean_n].mean(axis=1, dtype=np.float32).astype(np.float16)
    return target_nC


def _with_own_means(
    stored_nVC: NDArray[np.float16],
    count_n: NDArray[np.int64],
    view_n: NDArray[np.int64],
    is_mean_n: NDArray[np.bool_],
    form: StoredForm | None,
) -> NDArray[np.float16] | NDArray[np.float32]:
    """Return the label of each row in one view, or the mean over the first `count_n` it has, like `targets_of_rows`."""
    row_n = np.arange(len(count_n))
    if form is not None and form.codec is not None:
        is_stored_nV = np.arange(stored_nVC.shape[1]) < count_n[:, None]
        decoded_nVC = np.zeros((*is_stored_nV.shape, form.class_count), np.float32)
        decoded_nVC[is_stored_nV] = form.decode(stored_nVC[is_stored_nV])
        mean_nC = decoded_nVC.sum(axis=1) / count_n[:, None].astype(np.float32)
        return np.where(is_mean_n[:, None], mean_nC, decoded_nVC[row_n, view_n])
    target_nC: NDArray[np.float16] = stored_nVC[row_n, view_n]
    sum_nC = stored_nVC[is_mean_n].sum(axis=1, dtype=np.float32)
    target_nC[is_mean_n] = (sum_nC / count_n[is_mean_n, None].astype(np.float32)).astype(np.float16)
    return target_nC


def image_views(
    pixels_HW3: NDArray[np.uint8],
    preprocessing: Preprocessing,
    recipe: ViewRecipe = EVALUATION,
    view_id: int = 0,
    views: ArrayLike = (0,),
) -> NDArray[np.uint8]:
    """Return some views of one decoded image, (V, S, S, 3) uint8, as the loaders draw them."""
    view_v = np.asarray(views, np.int64)
    height_v, width_v = (np.full(len(view_v), side, np.int32) for side in pixels_HW3.shape[:2])
    view_id_v = np.full(len(view_v), view_id, np.uint64)
    plan = plan_views(recipe, preprocessing, view_id_v, view_v, width_v, height_v)
    out_vSS3 = np.empty((len(view_v), preprocessing.image_px, preprocessing.image_px, 3), np.uint8)
    for view, out_SS3 in enumerate(out_vSS3):
        draw_view(pixels_HW3, plan, view, preprocessing.interpolation, out_SS3)
    return out_vSS3


@dataclass(frozen=True)
class EvaluationTransform:
    """A PIL image, or (H, W, 3) uint8, to a normalised float32 (3, S, S): what a network is evaluated on."""

    preprocessing: Preprocessing

    def __call__(self, image: Image | NDArray[np.uint8]) -> torch.Tensor:
        """Resize, cut out the centre, normalise."""
        pixels_HW3 = image if isinstance(image, np.ndarray) else np.array(image.convert("RGB"))
        view_1SS3 = torch.from_numpy(image_views(np.ascontiguousarray(pixels_HW3), self.preprocessing))
        return normalise(view_1SS3.permute(0, 3, 1, 2), self.preprocessing)[0]
