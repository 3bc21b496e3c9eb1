"""Linear models in closed form or by a convex problem solved to its end: nothing to tune, the same answer every time.

Shape letters: X samples, D channels, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE_PENALTIES = tuple(10.0**e for e in range(-5, 3))  # of squared weights, features of unit variance
SOFTMAX_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
SOFTMAX_SAMPLES = 20_000  # at most, evenly taken: more cost time and change little
HELD_BACK = 0.25  # of the samples to fit on, their last part, chooses the penalty


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear:
    """``weight (x - mean) / std + bias``."""

    mean_D: Tensor
    std_D: Tensor
    weight_DK: Tensor
    bias_K: Tensor

    def __call__(self, x_XD: Tensor) -> Tensor:
        """(..., D) to (..., K)."""
        return (x_XD - self.mean_D) / self.std_D @ self.weight_DK + self.bias_K


def fit_ridge(x_XD: Tensor, y_XK: Tensor, penalties: Sequence[float] = RIDGE_PENALTIES) -> Linear:
    """Ridge regression; the penalty is the one with the smallest squared error on the last quarter of the samples,
    which should therefore be of other clips than the rest; then all samples are fitted."""
    kept = len(x_XD) - round(HELD_BACK * len(x_XD))
    fits = _ridges(x_XD[:kept], y_XK[:kept], penalties)
    errors = [float((fit(x_XD[kept:]) - y_XK[kept:]).square().mean()) for fit in fits]
    return _ridges(x_XD, y_XK, [penalties[errors.index(min(errors))]])[0]


def _ridges(x_XD: Tensor, y_XK: Tensor, penalties: Sequence[float]) -> list[Linear]:
    """One solution a penalty, from one eigendecomposition of the covariance; float64 inside."""
    x, y = x_XD.double(), y_XK.double()
    mean_D, std_D, bias_K = x.mean(0), _spread(x), y.mean(0)
    x = (x - mean_D) / std_D
    value_E, vector_DE = torch.linalg.eigh(x.T @ x / len(x))
    target_EK = vector_DE.T @ (x.T @ (y - bias_K)) / len(x)
    weights = [vector_DE @ (target_EK / (value_E + penalty)[:, None]) for penalty in penalties]
    return [_linear(mean_D, std_D, weight_DK, bias_K) for weight_DK in weights]


def fit_softmax(
    x_XD: Tensor, share_XK: Tensor, penalties: Sequence[float] = SOFTMAX_PENALTIES, *, steps: int = 60
) -> Linear:
    """Multinomial logistic regression on soft labels (rows of ``share_XK`` sum to 1); the penalty is chosen as that of
    ``fit_ridge`` is, by cross-entropy."""
    every = -(-len(x_XD) // SOFTMAX_SAMPLES)
    x_XD, share_XK = x_XD[::every], share_XK[::every]
    if len(penalties) > 1:
        kept = len(x_XD) - round(HELD_BACK * len(x_XD))
        fits = [_softmax(x_XD[:kept], share_XK[:kept], penalty, steps) for penalty in penalties]
        errors = [float(F.cross_entropy(fit(x_XD[kept:]), share_XK[kept:])) for fit in fits]
        penalties = [penalties[errors.index(min(errors))]]
    return _softmax(x_XD, share_XK, penalties[0], steps)


def _softmax(x_XD: Tensor, share_XK: Tensor, penalty: float, steps: int) -> Linear:
    """Least cross-entropy plus ``penalty`` times the sum of squared weights, by L-BFGS from zero."""
    mean_D, std_D = x_XD.mean(0), _spread(x_XD)
    x_XD = (x_XD - mean_D) / std_D
    weight_DK = torch.zeros(x_XD.shape[1], share_XK.shape[1], requires_grad=True)
    bias_K = torch.zeros(share_XK.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS([weight_DK, bias_K], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(x_XD @ weight_DK + bias_K, share_XK) + penalty * weight_DK.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return _linear(mean_D, std_D, weight_DK.detach(), bias_K.detach())


def _spread(x_XD: Tensor) -> Tensor:
    """Standard deviation; 1 where a channel is constant."""
    std_D = x_XD.std(0, correction=0)
    return torch.where(std_D > 1e-6 * (1 + x_XD.mean(0).abs()), std_D, torch.ones_like(std_D))


def _linear(mean_D: Tensor, std_D: Tensor, weight_DK: Tensor, bias_K: Tensor) -> Linear:
    return Linear(mean_D=mean_D.float(), std_D=std_D.float(), weight_DK=weight_DK.float(), bias_K=bias_K.float())
