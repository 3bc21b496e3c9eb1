"""Questions are answered by what is seen, when it is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omnistream_core.evaluation.features import ClipFeatures
from omnistream_core.evaluation.questions import QuestionConfig, answer_questions, ask, blind
from omnistream_core.heads.language import LanguageConfig
from omnistream_core.pretraining.world import Description, Question

pytest.importorskip("transformers")
LANGUAGE = LanguageConfig(pool=1, width=64, depth=2, heads=2, key_value_heads=1, vocabulary=300)
CONFIG = QuestionConfig(steps=300, questions_a_step=16, lr=2e-3, language=LANGUAGE)
COLOURS = ("red", "blue")


def clips(count: int, seed: int) -> tuple[ClipFeatures, list[Description]]:
    """Features whose CLS says which colour and which number is right."""
    generator = torch.Generator().manual_seed(seed)
    colour_B = torch.randint(2, (count,), generator=generator)
    number_B = torch.randint(1, 3, (count,), generator=generator)
    cls_BD = torch.stack((2.0 * colour_B - 1, 2.0 * number_B - 3), -1).repeat(1, 4)
    features = ClipFeatures(
        patches_BFND=torch.zeros(count, 1, 12, 8),
        frame_BTSD=cls_BD[:, None, None].expand(-1, 2, 1, -1).contiguous(),
        coarse_BTGD=torch.zeros(count, 2, 12, 8),
        grid_hw=(3, 4),
    )
    told = [
        Description(
            caption="",
            questions=(
                Question(kind="colour", text="Which colour?", answer=COLOURS[c], choices=COLOURS),
                Question(kind="count", text="How many?", answer=str(n), number=float(n)),
            ),
        )
        for c, n in zip(colour_B.tolist(), number_B.tolist(), strict=True)
    ]
    return features, told


def test_a_decoder_learns_to_read_features_and_is_lost_without_them():
    fit, judge = ask(*clips(60, seed=0)), ask(*clips(24, seed=1))
    assert len(fit.questions) == 120 and fit.clip_of[:4] == (0, 0, 1, 1)
    seen = answer_questions(fit, judge, CONFIG)
    unseen = answer_questions(blind(fit), blind(judge), CONFIG)
    assert seen["qa_accuracy"] > 0.8 and seen["qa_accuracy"] > unseen["qa_accuracy"] + 0.2
    assert seen["qa_mra"] > unseen["qa_mra"] + 0.1


def test_the_same_features_get_the_same_answers():
    short = replace(CONFIG, steps=5)
    fit, judge = ask(*clips(8, seed=0)), ask(*clips(4, seed=1))
    assert answer_questions(fit, judge, short) == answer_questions(fit, judge, short)
