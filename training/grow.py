"""Grow a trained model into a larger one with the same outputs, to go on training from there.

    python -m training.grow omnistream-tiny small --out runs/small/start
    python -m training.pretrain small-cpu --start runs/small/start --out runs/small --minutes 60

The new model keeps the image size of the old one; its language head, where there is one, comes along.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from omnistream_core.checkpoint import resolve
from omnistream_core.config import PRESETS, ModelConfig, preset
from omnistream_core.heads.language import LANGUAGE_FOLDER, LanguageHead
from omnistream_core.model import OmniStreamModel
from omnistream_core.pretraining.grow import grow, grow_language


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="bundled name or folder")
    parser.add_argument("preset", choices=PRESETS, help="what it becomes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    arguments = parser.parse_args()
    small = OmniStreamModel.from_pretrained(arguments.checkpoint)
    config = grown_config(small.config, arguments.preset)
    grow(small, config).save_pretrained(arguments.out)
    words = resolve(arguments.checkpoint) / LANGUAGE_FOLDER
    if words.exists():
        head = grow_language(LanguageHead.from_pretrained(words), config.backbone.width)
        head.save_pretrained(arguments.out / LANGUAGE_FOLDER)


def grown_config(small: ModelConfig, name: str) -> ModelConfig:
    """A preset for images as the smaller model takes them."""
    return replace(preset(name), preprocess=small.preprocess)


if __name__ == "__main__":
    main()
