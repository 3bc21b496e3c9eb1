"""The tokenizer of a run: made once, kept in the run's folder, the same at every later start and at the export."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from omnistream_core.heads.language import make_tokenizer
from omnistream_core.pretraining.config import TrainConfig
from omnistream_core.pretraining.learner import start_language

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER = "tokenizer"


def run_tokenizer(
    config: TrainConfig, run: Path, texts: Iterable[str], *, write: bool = True
) -> PreTrainedTokenizerBase | None:
    """The tokenizer kept in ``run``; else that of the checkpoint it starts from; else one made from ``texts``.

    None where no task needs words.
    """
    if "text" not in config.kinds:
        return None
    from transformers import AutoTokenizer

    if (run / FOLDER).exists():
        return AutoTokenizer.from_pretrained(run / FOLDER)
    earlier = start_language(config)
    tokenizer = make_tokenizer(config.language, texts) if earlier is None else AutoTokenizer.from_pretrained(earlier)
    if write:
        partial = run / (FOLDER + ".partial")
        tokenizer.save_pretrained(partial)
        os.replace(partial, run / FOLDER)
    return tokenizer
