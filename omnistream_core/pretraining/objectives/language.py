"""Cross-entropy of the words of an answer. Shape letters: B clips, L text tokens, V words of the vocabulary."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from omnistream_core.heads.language import IGNORED


def answer_loss(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """Mean cross-entropy of each token of the answers, given everything before it.

    Args:
        logits_BLV: prediction made at each token of the text.
        labels_BL: the text itself, ``IGNORED`` where nothing is asked. Token l is predicted at l - 1.
    """
    logits, labels = logits_BLV[:, :-1].float(), labels_BL[:, 1:]
    summed = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return summed / (labels != IGNORED).sum().clamp(min=1)
