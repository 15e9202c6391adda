"""Stored labels on the device: what a loader delivers becomes the logits of a loss, whatever the form."""

import torch
from torch import Tensor

from manifests.format.stored_form import StoredForm
from trainer.data.dense_labels import dense_logits


class LabelDecoder:
    """Decodes the stored labels of one form."""

    def __init__(self, form: StoredForm) -> None:
        self._form = form

    def __call__(self, target: Tensor, temperature: float, label: Tensor | None = None) -> Tensor:
        """Return all C logits (n, C) of `Batch.target`, for a softmax at `temperature`.

        Float16 logits are returned unchanged, and so are float32 ones, which a loader has decoded; with a codec the
        result is float32 and equals `StoredForm.decode` bit by bit; for the K largest see `dense_logits`. Raises
        ValueError for words of another length.
        """
        form = self._form
        if target.dtype == torch.float32:
            return target
        if form.codec is None:
            return dense_logits(target, form.top_k, form.class_count, temperature, label)
        if target.shape[1] != form.words:
            raise ValueError(f"{form.words} words per row expected for {form.text}, not {target.shape[1]}")
        return _of_codes(target, form)


def _of_codes(words_nW: Tensor, form: StoredForm) -> Tensor:
    scale_n, offset_n = words_nW[:, 0].float(), words_nW[:, 1].float()
    # clone, not contiguous(), which leaves a single row at the stride of all words.
    code_nB = words_nW[:, 2:].clone(memory_format=torch.contiguous_format).view(torch.uint8)
    if form.codec == "int4":
        code_nB = torch.stack([code_nB & 15, code_nB >> 4], dim=2).flatten(1)
    # The product is exact in float32: fused or not, the difference is rounded once.
    return offset_n[:, None] - scale_n[:, None] * code_nB[:, : form.class_count].float()
