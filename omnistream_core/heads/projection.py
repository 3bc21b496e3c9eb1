"""Projection head of the self-supervised objectives. Shape letters: X rows, D channels, E bottleneck, K prototypes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Three linear layers with GELU, a unit-length bottleneck, and its cosines with K prototypes (Caron et al. 2021).

    The paper has K = 65,536 and a bottleneck of 256.
    """

    def __init__(self, width: int, *, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, bottleneck)
        self.prototypes_KE = nn.Parameter(torch.empty(prototypes, bottleneck))

    @torch.no_grad()
    def init_weights(self) -> None:
        """Give every parameter its first value."""
        for layer in (self.fc1, self.fc2, self.fc3):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.prototypes_KE)

    def forward(self, x_XD: Tensor) -> Tensor:
        """(X, K) cosines in [-1, 1]."""
        x_XE = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x_XD)))))
        return F.normalize(x_XE, dim=-1, eps=1e-6) @ F.normalize(self.prototypes_KE, dim=-1).mT
