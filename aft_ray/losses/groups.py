"""What a loss is a function of: the scores of the candidates of some questions, and what is known of each candidate.

Shape suffixes: Q questions, K candidates of a question, padded to the largest group. In a [Q, K, K] tensor the first K is the
better candidate of a pair, the second the worse.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class ScoredGroups:
    """Padding is false in both masks and has rank 0; its other values may be anything finite."""

    scores_QK: Tensor
    """s(c), per-token mean log-likelihoods in nats, <= 0; all else is constant."""
    positive_QK: Tensor
    """bool, true where a candidate is positive."""
    negative_QK: Tensor
    """bool, true where a candidate is negative."""
    rank_QK: Tensor
    """1 is best, equals share a rank; 0 where a candidate has no part."""
    length_QK: Tensor
    """Tokens, at least 1."""
    reference_QK: Tensor | None = None
    """Log-likelihood of the whole candidate in nats under the model that alignment starts from; None where not computed."""
    reward_QK: Tensor | None = None
    """Of the user's file or function, NaN where there is none."""
    boundary_Q: Tensor | None = None
    """Below this score no negative is pushed, in nats per token, for `beta: auto`; None where beta says it."""

    @property
    def right_over_wrong_QKK(self) -> Tensor:
        """bool, true for every pair of a positive and a negative."""
        return self.positive_QK[:, :, None] & self.negative_QK[:, None, :]

    @property
    def better_QKK(self) -> Tensor:
        """bool, true for every pair of a better rank and a worse one."""
        better, worse = self.rank_QK[:, :, None], self.rank_QK[:, None, :]
        return (better > 0) & (better < worse)

    @property
    def best_QK(self) -> Tensor:
        """bool, true for the candidates of the best rank, where the question has a worse one."""
        best_Q1 = self.rank_QK.masked_fill(self.rank_QK == 0, torch.iinfo(self.rank_QK.dtype).max).amin(dim=1, keepdim=True)
        return (self.rank_QK == best_Q1) & self.better_QKK.flatten(1).any(dim=1, keepdim=True)

    @property
    def log_ratio_QK(self) -> Tensor:
        """r(c) = log pi(c | q) - log pi_ref(c | q) of the whole candidate, nats; 0 for padding."""
        if self.reference_QK is None:
            raise ValueError("this loss needs reference log-likelihoods; mark it with @with_reference")
        return (self.scores_QK * self.length_QK - self.reference_QK).masked_fill(self.rank_QK == 0, 0.0)


def with_reference(loss: F) -> F:
    """Marks a loss that reads `log_ratio_QK`: the run computes the reference log-likelihoods before it trains."""
    loss.needs_reference = True  # type: ignore[attr-defined]
    return loss


def with_boundary(loss: F) -> F:
    """Marks a loss whose `beta` is how far the boundary lies below the worst better candidate: `alignment.beta`, or auto."""
    loss.has_boundary = True  # type: ignore[attr-defined]
    return loss


def difference(of_better_QK: Tensor, of_worse_QK: Tensor) -> Tensor:
    """`of_worse[j] - of_better[i]` for every pair, [Q, K, K]."""
    return of_worse_QK[:, None, :] - of_better_QK[:, :, None]


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over a question's masked places, [Q]; 0 where there are none."""
    kept = values.masked_fill(~mask, 0.0).flatten(1).sum(dim=1)
    return kept / mask.flatten(1).sum(dim=1).clamp(min=1)


def nll_of_best(groups: ScoredGroups) -> Tensor:
    """The mean of `-s` over the candidates of the best rank, [Q]; 0 where a question has nothing to compare."""
    return mean_over(-groups.scores_QK, groups.best_QK)
