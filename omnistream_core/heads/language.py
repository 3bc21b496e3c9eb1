"""Words about a clip: patch features through an MLP projector into an autoregressive decoder (Qwen3's architecture).

Shape letters: B clips, T frames, N patches, D backbone channels, E decoder channels, I image tokens of a clip,
L text tokens, V words.

Source: the projector and decoder of OmniStream 2026, whose decoder is Qwen3-0.6B. By default the decoder here is a
small one of the same architecture, with a tokenizer of its own. Needs ``transformers`` (extras ``train`` and ``eval``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from omnistream_core.errors import ConfigError
from omnistream_core.types import BackboneOutput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of a token that nothing is asked of: the prompt, the padding
CAPTION_PROMPT = "Describe the clip."
LANGUAGE_FOLDER = "language"  # within a checkpoint
PAD, END = "<|pad|>", "<|end|>"


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """The language head.

    Attributes:
        pool: side of the square of patches that is averaged into one image token.
        width, depth, heads, key_value_heads: of the small decoder; heads have 64 channels at most.
        vocabulary: words of the small decoder's tokenizer, at most.
        decoder: None for the small one; else the name or folder of a causal model of ``transformers``, such as
            ``Qwen/Qwen3-0.6B``, which brings its own tokenizer, and the sizes above are not read.
    """

    pool: int = 2
    width: int = 256
    depth: int = 4
    heads: int = 4
    key_value_heads: int = 2
    vocabulary: int = 2048
    decoder: str | None = None

    def __post_init__(self) -> None:
        for name in ("pool", "width", "depth", "heads", "key_value_heads", "vocabulary"):
            if getattr(self, name) < 1:
                raise ConfigError(f"language {name} = {getattr(self, name)}: 1 or more is needed")
        if self.width % self.heads or self.heads % self.key_value_heads:
            raise ConfigError(
                f"language width {self.width}, heads {self.heads}, key_value_heads {self.key_value_heads}: "
                "each must be a multiple of the next"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class TextBatch:
    """Prompts with their answers as tokens, padded on the right.

    Attributes:
        ids_BL: int64.
        labels_BL: the same, ``IGNORED`` at the prompt and the padding.
    """

    ids_BL: Tensor
    labels_BL: Tensor

    def to(self, device: torch.device | str) -> TextBatch:
        """The same on another device."""
        return TextBatch(ids_BL=self.ids_BL.to(device), labels_BL=self.labels_BL.to(device))


class LanguageHead(nn.Module):
    """Reads a ``BackboneOutput``; writes text."""

    def __init__(self, backbone_width: int, config: LanguageConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.decoder = _decoder(config, tokenizer)
        width = self.decoder.config.hidden_size
        self.norm = nn.LayerNorm(backbone_width)
        self.fc1 = nn.Linear(backbone_width, width)
        self.fc2 = nn.Linear(width, width)

    @torch.no_grad()
    def init_weights(self) -> None:
        """First values of the projector; the decoder has its own."""
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.ones_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)

    def forward(self, features: BackboneOutput, ids_BL: Tensor) -> Tensor:
        """(B, L, V) logits: what follows each token of the text, given the clip and the text before it."""
        images_BIE = self.project(features)
        words_BLE = self.decoder.get_input_embeddings()(ids_BL)
        sequence = torch.cat((images_BIE.to(words_BLE.dtype), words_BLE), dim=1)
        return self.decoder(inputs_embeds=sequence, use_cache=False).logits[:, images_BIE.shape[1] :]

    def project(self, features: BackboneOutput) -> Tensor:
        """(B, I, E) image tokens, frame by frame: CLS, then the pooled patches row by row."""
        patches_BTND = features.patches_BTND
        b, t, _, d = patches_BTND.shape
        maps_XDhw = patches_BTND.flatten(0, 1).transpose(1, 2).unflatten(2, features.grid_hw)
        pooled_XDhw = F.avg_pool2d(maps_XDhw, self.config.pool, ceil_mode=True)
        pooled_BTND = pooled_XDhw.flatten(2).transpose(1, 2).unflatten(0, (b, t))
        tokens_BID = torch.cat((features.cls_BTD[:, :, None], pooled_BTND), dim=2).reshape(b, -1, d)
        return self.fc2(F.gelu(self.fc1(self.norm(tokens_BID))))

    def tokenize(self, prompts: Sequence[str], answers: Sequence[str]) -> TextBatch:
        """Prompts and the answers that are asked for, one of each for every clip."""
        rows = [self._row(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        length = max(len(ids) for ids, _ in rows)
        padded = [
            (ids + [self.tokenizer.pad_token_id] * (length - len(ids)), labels + [IGNORED] * (length - len(ids)))
            for ids, labels in rows
        ]
        ids_BL, labels_BL = (torch.tensor(side) for side in zip(*padded, strict=True))
        return TextBatch(ids_BL=ids_BL, labels_BL=labels_BL)

    def _row(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        asked = self._encode(prompt + "\n")
        said = [*self._encode(answer), self.tokenizer.eos_token_id]
        return asked + said, [IGNORED] * len(asked) + said

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.no_grad()
    def answer(self, features: BackboneOutput, prompts: Sequence[str], *, max_tokens: int = 48) -> list[str]:
        """The likeliest words, one after the other, for each clip and its prompt."""
        embed = self.decoder.get_input_embeddings()
        images_BIE = self.project(features).to(embed.weight.dtype)
        rows = [
            torch.cat((image_IE, embed(torch.tensor(self._encode(prompt + "\n"), device=image_IE.device))))
            for image_IE, prompt in zip(images_BIE, prompts, strict=True)
        ]
        seen = [torch.ones(len(row_LE), dtype=torch.long, device=row_LE.device) for row_LE in rows]
        said_BL = self.decoder.generate(
            inputs_embeds=pad_sequence(rows, batch_first=True, padding_side="left"),
            attention_mask=pad_sequence(seen, batch_first=True, padding_side="left"),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )
        return [said.strip() for said in self.tokenizer.batch_decode(said_BL, skip_special_tokens=True)]

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write configuration, tokenizer and weights into ``folder``."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        values = asdict(self.config) | {"backbone_width": self.norm.normalized_shape[0]}
        (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")
        self.tokenizer.save_pretrained(folder)
        kept = {k: v if dtype is None else v.to(dtype) for k, v in self.state_dict().items()}
        kept = {k: v.detach().cpu().contiguous() for k, v in kept.items() if k not in self._tied()}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: torch.device | str = "cpu") -> LanguageHead:
        """The inverse of ``save_pretrained``, in evaluation mode and float32."""
        from safetensors.torch import load_file
        from transformers import AutoTokenizer

        folder = Path(folder)
        values = json.loads((folder / "config.json").read_text())
        width = values.pop("backbone_width")
        head = cls(width, LanguageConfig(**values), AutoTokenizer.from_pretrained(folder))
        tensors = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
        missing, unknown = head.load_state_dict(tensors, strict=False)
        if unknown or set(missing) - head._tied():
            raise ConfigError(f"{folder}: weights do not fit, missing {missing}, unknown {unknown}")
        return head.to(device).eval()

    def _tied(self) -> set[str]:
        return {"decoder.lm_head.weight"} if self.decoder.config.tie_word_embeddings else set()


def build_language_head(
    backbone_width: int,
    config: LanguageConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    device: torch.device | str = "cpu",
) -> LanguageHead:
    """A head with fresh weights, but for those that ``config.decoder`` brings."""
    head = LanguageHead(backbone_width, config, tokenizer)
    head.init_weights()
    return head.to(device)


def make_tokenizer(config: LanguageConfig, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """That of ``config.decoder``, or for the small decoder one made from ``texts``."""
    from transformers import AutoTokenizer

    if config.decoder is not None:
        return AutoTokenizer.from_pretrained(config.decoder)
    return train_tokenizer(texts, config.vocabulary)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """A byte-pair tokenizer of at most ``vocabulary`` words; digits stand alone, any text can be written."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def _decoder(config: LanguageConfig, tokenizer: PreTrainedTokenizerBase) -> Any:
    from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

    if config.decoder is not None:
        return AutoModelForCausalLM.from_pretrained(config.decoder)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=3 * config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads,
            head_dim=config.width // config.heads,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
