"""Scores of answers to questions about clips, as VSI-Bench has them (Yang et al. 2025)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from omnistream_core.evaluation.metrics import mean_relative_accuracy


class Question(Protocol):
    """What scoring needs of a question.

    Attributes:
        answer: the right words; for a choice, those of the right one.
        number: the right number, in the unit that the question asks for; None where the answer is no number.
    """

    @property
    def answer(self) -> str: ...

    @property
    def number(self) -> float | None: ...


def score_answers(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """Scores of what was said to each question; a key that no question asks for is left out.

    Returns:
        ``qa_accuracy``: of questions whose answer is words, the share met exactly, case, articles and punctuation
        aside; ``qa_mra``: mean relative accuracy of those whose answer is a number.
    """
    pairs = list(zip(questions, answers, strict=True))
    hits = [normalised(said) == normalised(q.answer) for q, said in pairs if q.number is None]
    numbers = [(first_number(said), q.number) for q, said in pairs if q.number is not None]
    figures = {}
    if hits:
        figures["qa_accuracy"] = float(np.mean(hits))
    if numbers:
        said_X, true_X = np.array(numbers, dtype=float).T
        figures["qa_mra"] = mean_relative_accuracy(said_X, true_X)
    return figures


def normalised(text: str) -> str:
    """Lower case, without articles, punctuation and superfluous spaces."""
    words = re.sub(r"[^\w\s.]|\.(?!\d)", " ", text.lower()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def first_number(text: str) -> float:
    """The first number of an answer; NaN where there is none."""
    found = re.search(r"-?\d+(?:\.\d+)?", text)
    return float(found.group()) if found else float("nan")
