"""Answers are read and scored as by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from omnistream_core.evaluation.answers import first_number, normalised, score_answers


def _question(answer: str, number: float | None = None) -> SimpleNamespace:
    return SimpleNamespace(answer=answer, number=number)


def test_words_and_numbers_are_scored_apart():
    questions = [_question("the red ball"), _question("left"), _question("3", 3.0), _question("1.0 m", 1.0)]
    figures = score_answers(questions, ["Red ball.", "right", "3 chairs", "about 1.12 metres"])
    assert figures == pytest.approx({"qa_accuracy": 0.5, "qa_mra": (1 + 0.8) / 2})


def test_what_was_not_asked_has_no_figure():
    assert score_answers([_question("left")], ["left"]) == {"qa_accuracy": 1.0}
    assert score_answers([_question("2", 2.0)], ["none"]) == {"qa_mra": 0.0}
    assert score_answers([], []) == {}


def test_reading_of_answers():
    assert normalised(" The  Sofa, a table!") == "sofa table"
    assert normalised("2.5 m.") == "2.5 m"
    assert first_number("-0.5 m or 3") == -0.5 and np.isnan(first_number("no idea"))
