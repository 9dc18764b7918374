"""The alignment losses of "Making Large Language Models Better Reasoners with Alignment" (arXiv 2309.02144), sections 4.1-4.3.

Pure functions of scores. Shape suffixes: Q questions, K candidates of a question (padded to the largest group).

    scores_QK    s(c), per-token mean log-likelihoods in nats, <= 0
    positive_QK  bool, true where a candidate is positive        padding is false in both masks,
    negative_QK  bool, true where a candidate is negative        and its score may be anything finite

Each returns the loss of every question, [Q]: `log(1 + sum of exp(terms))`, as one logsumexp over {0, the terms}, so that it
is finite wherever the scores are. A question without a positive or without a negative has loss 0 and gradient 0.
The mean over questions is the caller's, who alone knows the global batch.
"""

import torch
from torch import Tensor


def unconstrained(scores_QK: Tensor, positive_QK: Tensor, negative_QK: Tensor) -> Tensor:
    """`log(1 + sum_p sum_n exp(s_n - s_p))`. Pushes every negative down without a bound."""
    return _log1p_sum_exp(_pairs(scores_QK, scores_QK, positive_QK, negative_QK))


def detached_constraint(scores_QK: Tensor, positive_QK: Tensor, negative_QK: Tensor) -> Tensor:
    """DC: `log(1 + sum_p sum_n exp(D(s_n) - s_p))` with D stop-gradient. Negatives are compared with, never pushed."""
    return _log1p_sum_exp(_pairs(scores_QK, scores_QK.detach(), positive_QK, negative_QK))


def boundary_constraint(scores_QK: Tensor, positive_QK: Tensor, negative_QK: Tensor, beta: float) -> Tensor:
    """BC: `log(1 + sum_p sum_n [exp(s_n - s_p) + exp(T - s_n)])`, `T = 2 B - s_p`, `B = min_p s_p - beta`.

    A negative above the boundary B is pushed down, one below it is pushed up again. T carries no gradient: with one, the
    worst positive could be pushed down. `beta` (nats per token, >= 0) is how far below the worst positive B lies.
    """
    with torch.no_grad():
        worst_positive_Q1 = scores_QK.masked_fill(~positive_QK, torch.inf).amin(dim=1, keepdim=True)
        # Where there is no positive the pair mask removes every term; keep the arithmetic finite there.
        boundary_Q1 = worst_positive_Q1.nan_to_num(posinf=0.0) - beta
        target_QK = 2 * boundary_Q1 - scores_QK
    down_QX = _pairs(scores_QK, scores_QK, positive_QK, negative_QK)
    up_QX = _pairs(-target_QK, -scores_QK, positive_QK, negative_QK)
    return _log1p_sum_exp(torch.cat((down_QX, up_QX), dim=1))


def _pairs(of_positive_QK: Tensor, of_negative_QK: Tensor, positive_QK: Tensor, negative_QK: Tensor) -> Tensor:
    """`of_negative[n] - of_positive[p]` for every pair (p, n) of a question, -inf elsewhere: [Q, K * K]."""
    difference_QKK = of_negative_QK[:, None, :] - of_positive_QK[:, :, None]
    is_pair_QKK = positive_QK[:, :, None] & negative_QK[:, None, :]
    return difference_QKK.masked_fill(~is_pair_QKK, -torch.inf).flatten(1)


def _log1p_sum_exp(terms_QX: Tensor) -> Tensor:
    zero_Q1 = terms_QX.new_zeros(terms_QX.shape[0], 1)
    return torch.cat((zero_Q1, terms_QX), dim=1).logsumexp(dim=1)
