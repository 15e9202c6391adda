"""The form of stored labels: all logits in float16, all of them as codes or features, or the K largest."""

from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from manifests.betons.labelled_views import bits_problem
from manifests.betons.reader import Beton
from manifests.errors import InputError, UsageError
from manifests.format.codes import Codes, code_words, encode
from manifests.format.header import Codec, Labels
from manifests.format.last_layer import FeatureLabels, LastLayer, feature_words
from manifests.format.top_k import SoftLabels, TopK, words_count

CODECS: tuple[Codec, ...] = get_args(Codec)
PLAIN = "float16"
"""Name of the form without a codec."""


@dataclass(frozen=True, kw_only=True)
class StoredForm:
    """The form of labels of C classes, as the header's block `labels` says; all logits in float16 by default."""

    class_count: int
    top_k: int | None = None
    codec: Codec | None = None
    width: int | None = None
    """Features per label with the codec `features`."""
    layer: LastLayer | None = field(default=None, compare=False, repr=False)
    """The layer that makes logits of features."""

    @classmethod
    def of(cls, labels: Labels | None, class_count: int, layer: LastLayer | None = None) -> "StoredForm":
        """Return the form that a header names; `layer` is needed to decode features."""
        if labels is None:
            return cls(class_count=class_count)
        width = labels.feature_width
        return cls(class_count=class_count, top_k=labels.top_k, codec=labels.codec, width=width, layer=layer)

    @property
    def words(self) -> int:
        """Words of 16 bits per label in a beton."""
        if self.codec == "features":
            return feature_words(self.width or 0)
        if self.codec is not None:
            return code_words(self.class_count, self.codec)
        return self.class_count if self.top_k is None else words_count(self.top_k)

    @property
    def text(self) -> str:
        """The form in a few words; empty for all logits in float16."""
        if self.codec is not None:
            what = f"{self.width} features" if self.codec == "features" else self.codec
            return f"{self.class_count} logits as {what}"
        return "" if self.top_k is None else f"top-{self.top_k} of {self.class_count} logits"

    def holds(self, labels: SoftLabels) -> bool:
        """Return whether labels are of this form."""
        codec = codec_of(labels)
        if isinstance(labels, FeatureLabels) and labels.width != self.width:
            return False
        # One class has as many bytes in both codecs.
        same_codec = codec == self.codec or (None not in (codec, self.codec) and self.class_count == 1)
        return labels.class_count == self.class_count and labels.top_k == self.top_k and same_codec

    def decode(self, words_nW: NDArray[Any]) -> NDArray[np.float32]:
        """Return all logits (n, C) of words (n, W) of 16 bits with a codec. Raises InputError for words of no label."""
        assert self.codec is not None
        try:
            if self.codec == "features":
                return FeatureLabels.of_words(words_nW.view(np.int16), self.class_count, self.layer).logits()
            return Codes.of_words(words_nW.view(np.int16), self.class_count, self.codec).logits()
        except ValueError as error:
            raise InputError(
                f"a stored label is not in the form {self.codec}: {error}",
                hint="the manifest is damaged: `prune verify` it, then fetch or make it again",
            ) from None


def labelled_problem(labels: Labels | None, beton: Beton) -> str | None:
    """Return how the views that have a target in a beton differ from those that the header allows; None if they fit."""
    is_ragged, bits_N = labels is not None and labels.is_ragged, beton.labelled_views_N
    if not beton.view_count or not (is_ragged or bits_N is not None):
        return None
    if labels is None or not is_ragged or bits_N is None:
        return f"has targets of {'the same' if is_ragged else 'different'} views of its samples, unlike its header"
    if (problem := bits_problem(bits_N, labels.views)) is not None:
        return f"cannot be used: {problem}"
    return None


def codec_of(labels: SoftLabels) -> Codec | None:
    """Return the codec of labels; None for float16 and the K largest."""
    return "features" if isinstance(labels, FeatureLabels) else labels.codec if isinstance(labels, Codes) else None


def parse_codec(text: str | None, top_k: int | None) -> Codec | None:
    """Return the codec that was asked for; None for float16, as without any.

    Raises UsageError for an unknown one, or one in addition to the K largest.
    """
    if text in (None, PLAIN):
        return None
    for known in CODECS:
        if known == text:
            if top_k is not None:
                raise UsageError(
                    f"--codec {text} stores all logits of a target, and only the {top_k} largest are kept, by --top-k "
                    "or as scored",
                    hint=f"leave out one of the two, or label the kept samples again: prune label --codec {text}",
                )
            return known
    raise UsageError(f"unknown --codec {text!r}", hint=f"known: {', '.join((PLAIN, *CODECS))}")


def encoded(labels: SoftLabels, codec: Codec | None) -> SoftLabels:
    """Return labels with a codec applied to all their logits: row by row, and the same bytes for the same row.

    Labels that have this codec, and all labels without one, are returned unchanged. Raises InputError as `encode`, and
    ValueError for the K largest.
    """
    if codec is None or codec_of(labels) == codec:
        return labels
    if isinstance(labels, TopK):
        raise ValueError("a codec needs all logits")
    if codec == "features":
        raise ValueError("features cannot be made from logits")
    return encode(labels.logits(), codec)
