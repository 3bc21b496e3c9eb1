"""Randomness as a function of names and numbers: whatever is drawn at a step can be drawn again."""

from __future__ import annotations

import zlib

import numpy as np
from torch import Generator


def generator_for(seed: int, purpose: str, *numbers: int) -> Generator:
    """A generator of its own for each purpose and numbers."""
    words = [seed, zlib.crc32(purpose.encode()), *numbers]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return Generator().manual_seed(int(state >> np.uint64(1)))
