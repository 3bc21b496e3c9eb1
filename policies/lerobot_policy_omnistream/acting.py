"""What each row (environment, robot) still has to do: one plan a row, or an ensemble of plans. Rows are reset alone.

Shape letters: B rows, T steps of a chunk, A action numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor


class Plans:
    """One chunk a row, carried out for ``n_action_steps`` steps; then the row is due for the next."""

    def __init__(self, rows: int, n_action_steps: int) -> None:
        self.n_action_steps = n_action_steps
        self._chunks_TA: list[Tensor | None] = [None] * rows
        self._next = [0] * rows
        # Chunks that were planned for a row since its reset.
        self.count = [0] * rows

    def due(self) -> dict[bool, list[int]]:
        """Rows that need a chunk, by whether they have an old one to go on from."""
        groups: dict[bool, list[int]] = {}
        for row, chunk_TA in enumerate(self._chunks_TA):
            if chunk_TA is None or self._next[row] >= self.n_action_steps:
                groups.setdefault(chunk_TA is not None, []).append(row)
        return groups

    def left_over(self, rows: list[int]) -> Tensor:
        """(B, T', A) what the old chunks of due rows had planned from now on."""
        return torch.stack([self._chunks_TA[row][self._next[row] :] for row in rows])

    def put(self, rows: list[int], chunks_BTA: Tensor) -> None:
        for row, chunk_TA in zip(rows, chunks_BTA, strict=True):
            self._chunks_TA[row], self._next[row] = chunk_TA, 0

    def note(self, rows: Iterable[int]) -> None:
        """One more chunk was planned for these rows, whoever carries it out."""
        for row in rows:
            self.count[row] += 1

    def take(self) -> Tensor:
        """(B, A) the next action of every row."""
        actions_BA = torch.stack([chunk_TA[at] for chunk_TA, at in zip(self._chunks_TA, self._next, strict=True)])
        self._next = [at + 1 for at in self._next]
        return actions_BA

    def reset(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._chunks_TA[row], self._next[row], self.count[row] = None, 0, 0


class Ensemble:
    """All chunks that speak of the present step, averaged: weights exp(-coefficient * i), i = 0 the oldest.

    Zhao et al., Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware, 2023, algorithm 2.
    """

    def __init__(self, rows: int, chunk_size: int, coefficient: float) -> None:
        self._coefficient = coefficient
        self._chunks: list[deque[Tensor]] = [deque(maxlen=chunk_size) for _ in range(rows)]

    def take(self, chunks_BTA: Tensor) -> Tensor:
        """(B, A) the present action, given the newest chunk of every row."""
        for chunks, chunk_TA in zip(self._chunks, chunks_BTA, strict=True):
            chunks.append(chunk_TA)
        return torch.stack([self._average(chunks) for chunks in self._chunks])

    def reset(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._chunks[row].clear()

    def _average(self, chunks: deque[Tensor]) -> Tensor:
        ages = range(len(chunks) - 1, -1, -1)  # the oldest comes first
        said_IA = torch.stack([chunk_TA[age] for chunk_TA, age in zip(chunks, ages, strict=True)])
        weights_I = torch.exp(-self._coefficient * torch.arange(len(chunks), device=said_IA.device))
        return (weights_I[:, None] * said_IA).sum(0) / weights_I.sum()
