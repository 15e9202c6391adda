"""Stored labels on the device: what a loader delivers becomes the logits of a loss, whatever the form."""

import torch
from torch import Tensor

from manifests.format.stored_form import StoredForm
from trainer.data.dense_labels import dense_logits


class LabelDecoder:
    """Decodes the stored labels of one form."""

    def __init__(self, form: StoredForm) -> None:
        self._form = form
        self._layer: tuple[Tensor, Tensor] | None = None
        """Weights (C, D) and biases (C,) on the device of the targets."""

    def __call__(self, target: Tensor, temperature: float, label: Tensor | None = None) -> Tensor:
        """Return all C logits (n, C) of `Batch.target`, for a softmax at `temperature`.

        Float16 logits are returned unchanged, and so are float32 ones, which a loader has decoded. With a codec the
        result is float32 and that of `StoredForm.decode`: of codes bit by bit, of features but for the order in which
        products are added. For the K largest see `dense_logits`. Raises ValueError for words of another length.
        """
        form = self._form
        if target.dtype == torch.float32:
            return target
        if form.codec is None:
            return dense_logits(target, form.top_k, form.class_count, temperature, label)
        if target.shape[1] != form.words:
            raise ValueError(f"{form.words} words per row expected for {form.text}, not {target.shape[1]}")
        return self._of_features(target) if form.codec == "features" else _of_codes(target, form)

    def _of_features(self, words_nW: Tensor) -> Tensor:
        if self._layer is None or self._layer[0].device != words_nW.device:
            layer = self._form.layer
            assert layer is not None
            weight_CD, bias_C = (
                torch.from_numpy(values).to(words_nW.device) for values in (layer.weight_CD, layer.bias_C)
            )
            self._layer = weight_CD, bias_C
        weight_CD, bias_C = self._layer
        factor_n1 = words_nW[:, :2].clone(memory_format=torch.contiguous_format).view(torch.float32)
        # Not in the precision of the student's arithmetic.
        with torch.autocast(words_nW.device.type, enabled=False):
            return factor_n1 * torch.addmm(bias_C, words_nW[:, 2:].float(), weight_CD.T)


def _of_codes(words_nW: Tensor, form: StoredForm) -> Tensor:
    scale_n, offset_n = words_nW[:, 0].float(), words_nW[:, 1].float()
    # clone, not contiguous(), which leaves a single row at the stride of all words.
    code_nB = words_nW[:, 2:].clone(memory_format=torch.contiguous_format).view(torch.uint8)
    if form.codec == "int4":
        code_nB = torch.stack([code_nB & 15, code_nB >> 4], dim=2).flatten(1)
    # The product is exact in float32: fused or not, the difference is rounded once.
    return offset_n[:, None] - scale_n[:, None] * code_nB[:, : form.class_count].float()
