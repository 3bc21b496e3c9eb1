"""Questions about clips, answered from frozen features by a small decoder that is trained on them for a fixed budget.

The same decoder, budget and questions serve every backbone that is judged, so that only the features differ.

Shape letters: B clips, T frames, G cells of the coarse grid, S frame tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omnistream_core.evaluation.answers import score_answers
from omnistream_core.evaluation.features import COARSE_GRID_HW, ClipFeatures
from omnistream_core.heads.language import LanguageConfig, LanguageHead, build_language_head, make_tokenizer
from omnistream_core.pretraining.objectives import answer_loss
from omnistream_core.pretraining.world import (
    ClipBatch,
    Description,
    Question,
    WorldConfig,
    describe_clips,
    sample_scene,
)
from omnistream_core.types import BackboneOutput


@dataclass(frozen=True, kw_only=True)
class QuestionConfig:
    """The decoder and its budget.

    Attributes:
        steps, questions_a_step: of training. lr: of Adam. answers_at_once: a matter of memory.
        language: the decoder; the coarse grid is not pooled further.
    """

    steps: int = 400
    questions_a_step: int = 16
    lr: float = 1e-3
    answers_at_once: int = 32
    language: LanguageConfig = field(
        default_factory=lambda: LanguageConfig(pool=1, width=128, depth=3, heads=4, key_value_heads=2, vocabulary=1024)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Questions, and the features of the clips that they are about. features: patches on the coarse grid."""

    features: BackboneOutput
    clip_of: tuple[int, ...]
    questions: tuple[Question, ...]


def descriptions(seeds: Sequence[int], world: WorldConfig, clips: ClipBatch) -> tuple[Description, ...]:
    """What is said of clips that were rendered from these seeds."""
    return describe_clips(seeds, [sample_scene(seed, world) for seed in seeds], clips)


def ask(features: ClipFeatures, told: Sequence[Description]) -> Asked:
    """All questions about all clips."""
    pairs = [(b, question) for b, description in enumerate(told) for question in description.questions]
    return Asked(
        features=BackboneOutput(
            patches_BTND=features.coarse_BTGD,
            cls_BTD=features.frame_BTSD[:, :, 0],
            cam_BTD=None,
            registers_BTRD=features.frame_BTSD[:, :, :0],
            levels_BTND=(),
            grid_hw=COARSE_GRID_HW,
        ),
        clip_of=tuple(b for b, _ in pairs),
        questions=tuple(question for _, question in pairs),
    )


def blind(asked: Asked) -> Asked:
    """The same questions to somebody who sees nothing."""
    return Asked(features=_mapped(asked.features, torch.zeros_like), clip_of=asked.clip_of, questions=asked.questions)


def answer_questions(fit: Asked, judge: Asked, config: QuestionConfig) -> dict[str, float]:
    """``qa_accuracy`` and ``qa_mra`` (see ``answers.score_answers``) of a decoder that learned from ``fit``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = _trained(fit, config)
    said: list[str] = []
    for first in range(0, len(judge.questions), config.answers_at_once):
        chosen = slice(first, first + config.answers_at_once)
        prompts = [question.prompt for question in judge.questions[chosen]]
        said += head.answer(_picked(judge.features, judge.clip_of[chosen]), prompts, max_tokens=12)
    return score_answers(judge.questions, said)


def _trained(fit: Asked, config: QuestionConfig) -> LanguageHead:
    texts = [text for q in fit.questions for text in (q.prompt, q.answer)]
    head = build_language_head(fit.features.cls_BTD.shape[-1], config.language, make_tokenizer(config.language, texts))
    optimizer = torch.optim.Adam(head.train().parameters(), lr=config.lr)
    for _ in range(config.steps):
        drawn = torch.randint(len(fit.questions), (config.questions_a_step,)).tolist()
        asked = [fit.questions[i] for i in drawn]
        words = head.tokenize([q.prompt for q in asked], [q.answer for q in asked])
        logits = head(_picked(fit.features, [fit.clip_of[i] for i in drawn]), words.ids_BL)
        answer_loss(logits, words.labels_BL).backward()
        optimizer.step()
        optimizer.zero_grad()
    return head.eval()


def _picked(features: BackboneOutput, clips: Sequence[int]) -> BackboneOutput:
    index = torch.tensor(clips)
    return _mapped(features, lambda x: x[index])


def _mapped(features: BackboneOutput, function: Callable[[Tensor], Tensor]) -> BackboneOutput:
    return BackboneOutput(
        patches_BTND=function(features.patches_BTND),
        cls_BTD=function(features.cls_BTD),
        cam_BTD=None,
        registers_BTRD=function(features.registers_BTRD),
        levels_BTND=(),
        grid_hw=features.grid_hw,
    )
