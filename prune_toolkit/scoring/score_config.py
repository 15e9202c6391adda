"""What `prune score` was asked to do, and where in the manifest its tables lie."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from manifests.base.progress import note
from manifests.errors import UsageError
from manifests.format.header import Features, Views
from manifests.format.top_k import check_k
from manifests.tables.thumbnails_table import TABLE as THUMBNAILS
from manifests.tables.thumbnails_table import carried_tables
from prune_toolkit.images.readers import ImageReader, ImagesAtHand
from prune_toolkit.scoring.feature_scores import FEATURES
from prune_toolkit.scoring.logit_scores import TEACHER
from prune_toolkit.scoring.score import outside_scores
from prune_toolkit.scoring.view_flags import check_view_count, views_block, views_text, views_to_score
from prune_toolkit.work.part_work import ALONE, WorkShare
from trainer.data.views import EVALUATION, ViewRecipe
from trainer.models.teacher import Teacher

SCORE_SET = TEACHER
SCORE_TABLE = f"scores/{SCORE_SET}"
FEATURE_TABLE, FEATURE_SCORE_TABLE = "features/view-000", f"scores/{FEATURES}"


def logits_table(view: int) -> str:
    """The table of a view's logits."""
    return f"logits/view-{view:03d}"


def check_held_out(held_out: str | None, split: str | None, *, has_features: bool) -> None:
    """UsageError for images that are held out and that nobody looks at; a warning where they are the test set."""
    if held_out is not None and not has_features:
        raise UsageError("--held-out goes with --features: only influence looks at held-out images")
    if split is not None and held_out is None:
        raise UsageError("--held-out-split goes with --held-out DATA")
    if split == "test":
        note("warning: the test split is held out for influence: what is chosen by it has seen the test set")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """What `prune score` was asked to do, the teacher and the images apart."""

    out: Path
    batch_size: int = 256
    """Images a forward pass, all views of a sample in one."""
    workers: int = 1
    loader: str = "auto"
    ranks: WorkShare = ALONE
    finish_only: bool = False
    name: str | None = None
    licence: str | None = None
    redistributable: bool | None = None
    """Whether the images may be passed on; None: what the index says."""
    teacher_licence: str | None = None
    recipe: ViewRecipe = EVALUATION
    """How views from 1 on differ from the evaluation view."""
    view_count: int = 1
    top_k: int | None = None
    """Logits stored a view; None: all."""
    score_views: str | None = None
    """all, 0 or train: the views whose scores are averaged; None: train where there are such views."""
    features: bool = False
    """Store penultimate features of view 0, and the scores that need them."""
    thumbnails: bool = False
    """Store thumbnails of images that are indexed in the same read."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: at least 1")
        check_view_count(self.view_count)
        views_to_score(self.score_views, self.view_count)

    @cached_property
    def scored_views(self) -> range:
        """The views whose scores are averaged."""
        return views_to_score(self.score_views, self.view_count)

    @property
    def logits_tables(self) -> list[str]:
        """One table a view."""
        return [logits_table(view) for view in range(self.view_count)]

    @property
    def part_tables(self) -> list[str]:
        """Tables that are made part by part, the scores last: with them a part is done."""
        return [*self.logits_tables, *([FEATURE_TABLE] if self.features else []), SCORE_TABLE]

    def views(self, teacher: Teacher, images: ImagesAtHand) -> Views:
        """What the header says of the stored views."""
        image_px = teacher.preprocessing.image_px
        return views_block(self.recipe, self.view_count, image_px, self.top_k, images.drawn_max_side)

    def features_block(self, teacher: Teacher) -> Features | None:
        """What the header says of stored features; UsageError for a teacher that has none."""
        layer = teacher.feature_layer if self.features else None
        return None if layer is None else Features(layer=layer.name, width=layer.width)

    def resolved(
        self,
        teacher: Teacher,
        images: ImagesAtHand,
        val: ImagesAtHand | None,
        held_out: ImagesAtHand | None = None,
    ) -> dict[str, Any]:
        """What the result depends on, without paths; UsageError for a top_k that fits no class count."""
        if self.top_k is not None:
            check_k(self.top_k, len(images.class_names))
        views, features = self.views(teacher, images), self.features_block(teacher)
        scored: dict[str, Any] = {}
        if views.recipe != "eval" or self.top_k is not None:
            # One view, no recipe and all its logits: parts of older versions stay valid.
            scored = {
                "views": views.model_dump(exclude_none=True),
                "score_views": views_text(self.scored_views),
            }
        outside, stored = outside_scores(TEACHER), {}
        if features is not None:
            outside |= outside_scores(FEATURES)
            stored = {
                "features": features.model_dump(),
                "held_out": None if held_out is None else held_out.identity,
            }
        return {
            "command": "score",
            "data": images.identity,
            "val": None if val is None else val.identity,
            "teacher": teacher.info.spec,
            "weights_sha256": teacher.weights_sha256,
            "preprocessing": teacher.preprocessing.model_dump(),
            "output_map": teacher.outputs,
            "compute": teacher.compute(self.batch_size).model_dump(),
            "name": self.name,
            "licence": self.licence,
            "teacher_licence": self.teacher_licence,
            **scored,
            **stored,
            **({"scores": outside} if outside else {}),
            **({} if self.redistributable is None else {"redistributable": self.redistributable}),
            **({"thumbnails": True} if self.thumbnails and images.index is None else {}),
        }

    def thumbnails_tables(self, images: ImagesAtHand) -> list[str]:
        """The table of thumbnails, where there will be one; UsageError for an index that was made without."""
        if images.index is None:
            return [THUMBNAILS] if self.thumbnails else []
        carried = carried_tables(images.index)
        if self.thumbnails and not carried:
            raise UsageError(
                f"{images.index.where} has no thumbnails", hint="index into a new folder: prune index --thumbnails"
            )
        return carried

    def open(self, teacher: Teacher, images: ImagesAtHand) -> ImageReader:
        """A reader of the views to store."""
        return images.open(
            teacher.preprocessing,
            device=teacher.device,
            workers=self.workers,
            loader=self.loader,
            recipe=self.recipe,
            view_count=self.view_count,
            with_thumbnails=self.thumbnails,
        )

    def open_view_0(self, teacher: Teacher, images: ImagesAtHand) -> ImageReader:
        """A reader of the evaluation view of other images: for validation, or held out."""
        return images.open(teacher.preprocessing, device=teacher.device, workers=self.workers, loader="auto")
