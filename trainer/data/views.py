"""The crop that a view of a sample shows: a pure function of (seed, view_id, view number, recipe version).

View 0 is the evaluation view, views 1 and up follow a recipe. A plan holds what both loaders draw for each row:

    resize the float box of the image to a grid -> cut the square out -> shift it over zeros -> mirror it
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manifests.base.layout import MAX_IMAGE_PX
from manifests.base.registry import Registry
from manifests.errors import InputError, UsageError
from manifests.format.header import Preprocessing
from manifests.format.header_checks import MAX_RESIZE_PX
from manifests.images.identity import mix64, uniform

MEAN_VIEW = -1
"""Stands for the mean over all stored views as the target, computed in float32 and rounded to float16."""
VERSION = 1
ATTEMPTS = 10
_FLIP, _SHIFT_X, _SHIFT_Y, _FIRST_ATTEMPT = 0, 1, 2, 3
_DRAWS_AN_ATTEMPT = 4
_ALL = slice(None)


@dataclass(frozen=True, kw_only=True)
class ViewRecipe:
    """A recipe by which views 1 and up differ from the evaluation view."""

    name: str = "none"
    """pad_crop_flip, resized_crop_flip or none."""
    version: int = VERSION
    seed: int = 0
    pad_px: int | None = None
    """pad_crop_flip: largest shift in either direction; None means an eighth of the image's side."""
    scale_min: float = 0.08
    """resized_crop_flip: smallest fraction of the area that a crop covers."""
    scale_max: float = 1.0
    ratio_min: float = 3 / 4
    """resized_crop_flip: narrowest width / height of a crop."""
    ratio_max: float = 4 / 3
    flip: bool = True
    """Mirror a view with probability 1/2."""

    def __post_init__(self) -> None:
        """Raise UsageError for impossible values, InputError for a version that this tool does not know."""
        VIEW_RECIPES[self.name]
        if self.version != VERSION:
            raise InputError(
                f"view recipe {self.name} has version {self.version}; this tool draws version {VERSION}",
                hint="upgrade prune-toolkit, or score again",
            )
        if self.pad_px is not None and self.pad_px < 0:
            raise UsageError(f"the padding of a crop must be 0 px or more, not {self.pad_px}")
        if not 0 < self.scale_min <= self.scale_max <= 1:
            raise UsageError(f"crop areas must lie in (0, 1], not {self.scale_min:g} to {self.scale_max:g}")
        if not 0 < self.ratio_min <= self.ratio_max:
            raise UsageError(f"crop ratios must be positive, not {self.ratio_min:g} to {self.ratio_max:g}")


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """The views to draw for n rows."""

    box_n4: NDArray[np.float32]
    """x0, y0, x1, y1 in pixels of the image; float32 as Pillow's boxes are."""
    grid_n4: NDArray[np.int32]
    """Width and height to which the box is resized, left and top of the square that is cut out of it."""
    shift_n2: NDArray[np.int16]
    """Pixels by which the square moves right and down."""
    flip_n: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.flip_n)

    def is_whole(self, width_n: NDArray[np.int32], height_n: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return (n,) whether a view needs no resampling: its box is the whole image and the grid has the same size."""
        size_n2 = np.stack([width_n, height_n], axis=1)
        whole_n2 = (self.box_n4[:, :2] == 0) & (self.box_n4[:, 2:] == size_n2) & (self.grid_n4[:, :2] == size_n2)
        return np.asarray(whole_n2.all(axis=1), np.bool_)

    def check(self, width_n: NDArray[np.int32], height_n: NDArray[np.int32], size_px: int) -> None:
        """Raise ValueError unless boxes are inside their images and squares inside their grids: decoders rely on it."""
        x0, y0, x1, y1 = self.box_n4.T
        boxes = (x0 >= 0) & (y0 >= 0) & (x1 > x0) & (y1 > y0) & (x1 <= width_n) & (y1 <= height_n)
        grid_width, grid_height, left, top = self.grid_n4.T
        squares = (left >= 0) & (top >= 0) & (left + size_px <= grid_width) & (top + size_px <= grid_height)
        wrong = np.flatnonzero(~(boxes & squares))
        if len(wrong):
            row = wrong[0]
            raise ValueError(
                f"view {row} is outside its {width_n[row]}x{height_n[row]} image:"
                f" box {self.box_n4[row]}, grid {self.grid_n4[row]}"
            )


@dataclass(frozen=True, kw_only=True)
class Request:
    """The input of a recipe for n augmented views."""

    recipe: ViewRecipe
    size_px: int
    key_n: NDArray[np.uint64]
    """Hash of (seed, version, view_id, view number), the only source of randomness of a view."""
    size_n2: NDArray[np.float64]
    """Width and height in pixels of the images that were scored."""
    evaluation: ViewPlan

    def uniform(
        self, what: int, low: float = 0.0, high: float = 1.0, rows: NDArray[np.int64] | slice = _ALL
    ) -> NDArray[np.float64]:
        """Return random draw number `what` of some rows, in [low, high)."""
        return low + (high - low) * uniform(self.key_n[rows], what)


VIEW_RECIPES: Registry[Callable[[Request], ViewPlan]] = Registry("view recipe")


def plan_views(
    recipe: ViewRecipe,
    preprocessing: Preprocessing,
    view_id_n: NDArray[np.uint64],
    view_n: ArrayLike,
    width_n: NDArray[np.int32],
    height_n: NDArray[np.int32],
    scored_n2: NDArray[np.int32] | None = None,
) -> ViewPlan:
    """Plan views `view_n` (numbers from 0; one for all rows or (n,)) of images of (n,) sizes in pixels.

    scored_n2: (n, 2) width and height of the scored images, if these are copies of the same pictures at another size.
    The plan depends on the scored sizes alone: rounding by one pixel changes the aspect, and with it which draw fits.
    """
    check_sizes(preprocessing)
    size_n2 = np.stack([width_n, height_n], axis=1)
    scored_n2 = size_n2 if scored_n2 is None else scored_n2
    view_n = np.broadcast_to(np.asarray(view_n, np.int64), view_id_n.shape)
    if len(view_n) and view_n.min() < 0:
        raise ValueError(f"view {view_n.min()}: view numbers start at 0")
    plan = _evaluation_plan(preprocessing, scored_n2)
    rows = np.flatnonzero(view_n)
    if len(rows) and recipe.name != "none":
        evaluation = ViewPlan(**{field.name: getattr(plan, field.name)[rows] for field in fields(plan)})
        request = Request(
            recipe=recipe,
            size_px=preprocessing.image_px,
            key_n=mix64(recipe.seed, recipe.version, view_id_n[rows], view_n[rows]),
            size_n2=scored_n2[rows].astype(np.float64),
            evaluation=evaluation,
        )
        drawn = VIEW_RECIPES[recipe.name](request)
        for field in fields(plan):
            getattr(plan, field.name)[rows] = getattr(drawn, field.name)
        if recipe.flip:
            plan.flip_n[rows] = request.uniform(_FLIP) < 0.5
    other = np.flatnonzero((size_n2 != scored_n2).any(axis=1))
    if len(other):
        ratio_o4 = np.tile(size_n2[other] / scored_n2[other], 2)
        plan.box_n4[other] = np.minimum(plan.box_n4[other] * ratio_o4, np.tile(size_n2[other], 2))
    plan.check(width_n, height_n, preprocessing.image_px)
    return plan


def check_sizes(preprocessing: Preprocessing) -> None:
    """Raise UsageError if an evaluation view would be larger than the resized image that it is cut out of."""
    size_px, resize_px = preprocessing.image_px, preprocessing.resize_px
    if not 0 < size_px <= resize_px:
        raise UsageError(
            f"images are resized to {resize_px} px and cropped to {size_px} px: the crop is larger than the image",
            hint=f"resize to {size_px} px or more",
        )
    if size_px > MAX_IMAGE_PX or resize_px > MAX_RESIZE_PX:
        raise UsageError(
            f"images of {size_px:,} px, cut from {resize_px:,} px, are too large",
            hint=f"networks are shown up to {MAX_IMAGE_PX:,} px, cut from up to {MAX_RESIZE_PX:,} px",
        )


def epoch_views(epoch: int, view_id_n: NDArray[np.uint64], view_count: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the view (n,) of each sample that an epoch, counted from 0, shows.

    With `view_count` V > 1 stored views: 1 + (epoch + hash(view_id)) mod (V - 1), so samples are at different views and
    each view comes once in V - 1 epochs; V may differ by sample, (n,). Otherwise 1 + epoch: unscored augmentation that
    never repeats.
    """
    if isinstance(view_count, int) and view_count <= 1:
        return np.full(len(view_id_n), 1 + epoch, np.int64)
    scored = np.asarray(view_count, np.int64) - 1
    offset_n = (mix64(view_id_n) % scored.astype(np.uint64)).astype(np.int64)
    shown_n: NDArray[np.int64] = 1 + (epoch + offset_n) % scored
    return shown_n


def default_pad_px(size_px: int) -> int:
    """Return the default largest shift of pad_crop_flip: an eighth of the side, 4 of 32 pixels."""
    return size_px // 8


def _evaluation_plan(preprocessing: Preprocessing, size_n2: NDArray[np.int32]) -> ViewPlan:
    """Plan torchvision's Resize(resize_px) and CenterCrop(image_px) as one resample, on the grid Resize would make."""
    short_n1 = size_n2.min(axis=1, keepdims=True)
    grid_n2 = (preprocessing.resize_px * size_n2.astype(np.int64) / short_n1).astype(np.int32)
    corner_n2 = np.rint((grid_n2 - preprocessing.image_px) / 2)
    return ViewPlan(
        box_n4=np.concatenate([np.zeros_like(size_n2), size_n2], axis=1).astype(np.float32),
        grid_n4=np.concatenate([grid_n2, corner_n2], axis=1).astype(np.int32),
        shift_n2=np.zeros(size_n2.shape, np.int16),
        flip_n=np.zeros(len(size_n2), np.bool_),
    )


def _pad_crop(request: Request) -> ViewPlan:
    """Plan RandomCrop(padding=pad) of the evaluation view: shifts of -pad .. pad, all equally likely, over zeros."""
    pad_px = request.recipe.pad_px
    pad_px = default_pad_px(request.size_px) if pad_px is None else min(pad_px, request.size_px)
    steps = 2 * pad_px + 1
    shift = [np.floor(request.uniform(what) * steps) - pad_px for what in (_SHIFT_X, _SHIFT_Y)]
    return replace(request.evaluation, shift_n2=np.stack(shift, axis=1).astype(np.int16))


def _resized_crop(request: Request) -> ViewPlan:
    """Plan RandomResizedCrop in relative floats, so that a copy of another size shows the same part of the picture.

    Draws area and log ratio up to 10 times until the crop fits; otherwise takes the largest central crop within the
    ratios.
    """
    recipe, size_n2 = request.recipe, request.size_n2
    aspect_n = size_n2[:, 0] / size_n2[:, 1]
    extent_n2 = np.minimum(1.0, np.stack([recipe.ratio_max / aspect_n, aspect_n / recipe.ratio_min], axis=1))
    corner_n2 = (1.0 - extent_n2) / 2
    low, high = math.log(recipe.ratio_min), math.log(recipe.ratio_max)
    pending = np.arange(len(size_n2))
    for attempt in range(ATTEMPTS):
        what = _FIRST_ATTEMPT + attempt * _DRAWS_AN_ATTEMPT
        area_p = request.uniform(what, recipe.scale_min, recipe.scale_max, pending)
        ratio_p = np.exp(request.uniform(what + 1, low, high, pending)) / aspect_n[pending]
        extent_p2 = np.sqrt(np.stack([area_p * ratio_p, area_p / ratio_p], axis=1))
        fits = (extent_p2 <= 1.0).all(axis=1)
        rows, extent_r2 = pending[fits], extent_p2[fits]
        place_r2 = np.stack([request.uniform(what + axis, rows=rows) for axis in (2, 3)], axis=1)
        extent_n2[rows] = extent_r2
        corner_n2[rows] = place_r2 * (1.0 - extent_r2)
        pending = pending[~fits]
        if len(pending) == 0:
            break
    box_n4 = np.concatenate([corner_n2 * size_n2, np.minimum(corner_n2 + extent_n2, 1.0) * size_n2], axis=1)
    grid_n4 = np.full(box_n4.shape, (request.size_px, request.size_px, 0, 0), np.int32)
    return replace(request.evaluation, box_n4=box_n4.astype(np.float32), grid_n4=grid_n4)


VIEW_RECIPES.add("pad_crop_flip", _pad_crop)
VIEW_RECIPES.add("resized_crop_flip", _resized_crop)
VIEW_RECIPES.add("none", lambda request: request.evaluation)

EVALUATION = ViewRecipe(name="none")
