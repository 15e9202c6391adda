"""The configuration of `prune score`, and the names of its tables."""

from dataclasses import dataclass
from functools import cached_property
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
from prune_toolkit.scoring.teacher_pass import PassConfig, TeacherPass
from prune_toolkit.scoring.view_flags import check_view_count, views_block, views_text, views_to_score

SCORE_TABLE = f"scores/{TEACHER}"
FEATURE_TABLE, FEATURE_SCORE_TABLE = "features/view-000", f"scores/{FEATURES}"


def logits_table(view: int) -> str:
    """Return the name of the table of a view's logits."""
    return f"logits/view-{view:03d}"


def check_unlabelled(held_out: str | None) -> None:
    """Raise UsageError for held-out images that no score of unlabelled images uses."""
    if held_out is not None:
        raise UsageError(
            "--held-out is for the score influence, which needs labels, and the images have none",
            hint="leave it out: --features stores the features, and the scores that need no label",
        )


def check_held_out(held_out: str | None, split: str | None, *, has_features: bool) -> None:
    """Raise UsageError for held-out images that would not be used; warn if they are the test set."""
    if held_out is not None and not has_features:
        raise UsageError("--held-out needs --features: only influence uses held-out images")
    if split is not None and held_out is None:
        raise UsageError("--held-out-split needs --held-out DATA")
    if split == "test":
        note("warning: influence is computed on the test split: a selection by it has seen the test set")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(PassConfig):
    """The options of `prune score`, without the teacher and the images."""

    name: str | None = None
    licence: str | None = None
    redistributable: bool | None = None
    """True if the images may be redistributed; None: as in the index."""
    view_count: int = 1
    top_k: int | None = None
    """Logits stored per view; None: all."""
    score_views: str | None = None
    """all, 0 or train: the views whose scores are averaged; None: train if there are such views."""
    features: bool = False
    """Store penultimate features of view 0, and the scores that need them."""
    thumbnails: bool = False
    """Store thumbnails of images that are indexed in the same pass."""
    strict: bool = False
    """Stop where images that are indexed in the same pass are probably not what is meant, in place of a warning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_view_count(self.view_count)
        views_to_score(self.score_views, self.view_count)

    @cached_property
    def scored_views(self) -> range:
        """The views whose scores are averaged."""
        return views_to_score(self.score_views, self.view_count)

    @property
    def logits_tables(self) -> list[str]:
        """The tables of logits, one per view."""
        return [logits_table(view) for view in range(self.view_count)]


@dataclass(frozen=True, kw_only=True)
class Scoring(TeacherPass):
    """Images to score, a teacher, and further images to judge by."""

    config: ScoreConfig
    val: ImagesAtHand | None = None
    """Images on which to validate the teacher."""
    held_out: ImagesAtHand | None = None
    """Images on which `influence` measures the loss, instead of a tenth of the scored ones."""

    def views(self) -> Views:
        """Return the header block of the stored views."""
        config, image_px = self.config, self.teacher.preprocessing.image_px
        return views_block(config.recipe, config.view_count, image_px, config.top_k, self.images.drawn_max_side)

    def features_block(self) -> Features | None:
        """Return the header block of stored features, None without; UsageError for a teacher that has none."""
        layer = self.teacher.feature_layer if self.config.features else None
        return None if layer is None else Features(layer=layer.name, width=layer.width)

    def resolved(self) -> dict[str, Any]:
        """Return everything the result depends on, without paths; UsageError for a top_k beyond the classes."""
        config, val, held_out = self.config, self.val, self.held_out
        if config.top_k is not None:
            check_k(config.top_k, len(self.images.class_names))
        views, features = self.views(), self.features_block()
        scored: dict[str, Any] = {}
        if views.recipe != "eval" or config.top_k is not None:
            # One view, no recipe and all its logits: parts of older versions stay valid.
            scored = {"views": views.model_dump(exclude_none=True), "score_views": views_text(config.scored_views)}
        sets, stored = [TEACHER], {}
        if features is not None:
            sets.append(FEATURES)
            stored = {"features": features.model_dump(), "held_out": None if held_out is None else held_out.identity}
        return {
            "command": "score",
            "data": self.images.identity,
            "val": None if val is None else val.identity,
            **self.facts(),
            "name": config.name,
            "licence": config.licence,
            "teacher_licence": config.teacher_licence,
            **scored,
            **stored,
            # The teacher's own, so no other entry names them.
            **({"classes": self.images.class_names} if self.images.unlabelled else {}),
            **outside_scores(*sets),
            **({} if config.redistributable is None else {"redistributable": config.redistributable}),
            **({"thumbnails": True} if config.thumbnails and self.images.index is None else {}),
        }

    def thumbnails_tables(self) -> list[str]:
        """Return the table of thumbnails, if there will be one; UsageError for an index that was made without."""
        index = self.images.index
        if index is None:
            return [THUMBNAILS] if self.config.thumbnails else []
        carried = carried_tables(index)
        if self.config.thumbnails and not carried:
            raise UsageError(
                f"{index.where} has no thumbnails", hint="index into a new folder: prune index --thumbnails"
            )
        return carried

    @property
    def own_samples(self) -> bool:
        """True if the samples are written by this run, not linked: without an index, or with labels of the teacher."""
        return self.images.index is None or self.images.unlabelled

    def open(self, *, trust_beton: bool = True) -> ImageReader:
        """Open a reader of the views to store."""
        config = self.config
        return self.open_views(config.view_count, with_thumbnails=config.thumbnails, trust_beton=trust_beton)

    def open_view_0(self, images: ImagesAtHand) -> ImageReader:
        """Open a reader of the evaluation view of other images: validation or held-out ones."""
        teacher, workers = self.teacher, self.config.workers
        return images.open(teacher.preprocessing, device=teacher.device, workers=workers, loader="auto")
