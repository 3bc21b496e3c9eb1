"""The language head: what it is asked, what it says, and that it comes back from disk as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omnistream_core.errors import ConfigError
from omnistream_core.heads.language import IGNORED, LanguageConfig, LanguageHead, build_language_head, make_tokenizer
from omnistream_core.pretraining.objectives import answer_loss
from omnistream_core.types import BackboneOutput

pytest.importorskip("transformers")
WIDTH = 24
TEXTS = ["How many chairs are there?", "red", "blue", "There are 12 chairs and 1 table."] * 20
CONFIG = LanguageConfig(width=32, depth=2, heads=2, key_value_heads=1, vocabulary=320)


def features(clips: int, seed: int = 0) -> BackboneOutput:
    torch.manual_seed(seed)
    patches, cls = torch.randn(clips, 3, 12, WIDTH), torch.randn(clips, 3, WIDTH)
    return BackboneOutput(
        patches_BTND=patches,
        cls_BTD=cls,
        cam_BTD=None,
        registers_BTRD=cls[:, :, None],
        levels_BTND=(),
        grid_hw=(3, 4),
    )


@pytest.fixture(scope="module")
def head() -> LanguageHead:
    torch.manual_seed(0)
    return build_language_head(WIDTH, CONFIG, make_tokenizer(CONFIG, TEXTS))


def test_only_answers_are_asked_for(head):
    batch = head.tokenize(["How many chairs are there?", "red"], ["12", "There are 12 chairs."])
    for ids, labels, answer in zip(batch.ids_BL, batch.labels_BL, ["12", "There are 12 chairs."], strict=True):
        asked = ids[labels != IGNORED]
        assert asked[-1] == head.tokenizer.eos_token_id
        assert head.tokenizer.decode(asked[:-1]) == answer
    assert head.tokenizer.decode(head.tokenizer("Ünseen wörds, 3.5 m?")["input_ids"]) == "Ünseen wörds, 3.5 m?"


def test_image_tokens_are_cls_and_pooled_patches_of_every_frame(head):
    assert head.project(features(2)).shape == (2, 3 * (1 + 2 * 2), CONFIG.width)


def test_padding_changes_nothing(head):
    head.eval()
    seen = features(2)
    short = head.tokenize(["red"], ["blue"])
    padded = head.tokenize(["red", "There are 12 chairs and 1 table."], ["blue", "There are 12 chairs."])
    one = replace(seen, patches_BTND=seen.patches_BTND[:1], cls_BTD=seen.cls_BTD[:1])
    alone = head(one, short.ids_BL)
    together = head(seen, padded.ids_BL)[:1, : alone.shape[1]]
    assert torch.allclose(alone, together, atol=1e-4)


def test_the_loss_is_the_cross_entropy_of_the_answer():
    torch.manual_seed(1)
    logits, labels = torch.randn(2, 4, 5), torch.tensor([[IGNORED, IGNORED, 3, 1], [IGNORED, 2, IGNORED, IGNORED]])
    asked = [(0, 1, 3), (0, 2, 1), (1, 0, 2)]
    expected = -sum(logits[b, place].log_softmax(0)[word] for b, place, word in asked) / 3
    assert float(answer_loss(logits, labels)) == pytest.approx(float(expected), rel=1e-5)


def trained(seen: BackboneOutput, prompts: list[str], answers: list[str]) -> LanguageHead:
    torch.manual_seed(2)
    head = build_language_head(WIDTH, CONFIG, make_tokenizer(CONFIG, TEXTS))
    words = head.tokenize(prompts, answers)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(60):
        answer_loss(head(seen, words.ids_BL), words.labels_BL).backward()
        optimizer.step()
        optimizer.zero_grad()
    return head.eval()


def test_it_learns_to_answer_by_what_it_sees_and_survives_the_disk(tmp_path):
    seen, prompts = features(2, seed=3), ["How many chairs are there?"] * 2
    head = trained(seen, prompts, ["red", "blue"])
    assert head.answer(seen, prompts) == ["red", "blue"]
    head.save_pretrained(tmp_path)
    again = LanguageHead.from_pretrained(tmp_path)
    words = head.tokenize(prompts, ["red", "blue"])
    assert torch.equal(again(seen, words.ids_BL), head(seen, words.ids_BL))
    assert again.answer(seen, prompts) == ["red", "blue"]


def test_prompts_and_answers_of_unequal_length_do_not_disturb_each_other():
    seen, prompts = features(3, seed=5), ["red", "How many chairs are there?", "blue or red chairs"]
    said = ["There are 12 chairs and 1 table.", "blue", "12"]
    head = trained(seen, prompts, said)
    assert head.answer(seen, prompts) == said
    for b in range(3):
        one = replace(seen, patches_BTND=seen.patches_BTND[[b]], cls_BTD=seen.cls_BTD[[b]])
        assert head.answer(one, [prompts[b]]) == [said[b]]


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="width 30, heads 4"):
        LanguageConfig(width=30)
