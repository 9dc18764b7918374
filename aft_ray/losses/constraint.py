"""The alignment losses of "Making Large Language Models Better Reasoners with Alignment" (arXiv 2309.02144), section 4.

Each is `log(1 + sum of exp(terms))` of a question, as one logsumexp over {0, the terms}, so that it is finite wherever the
scores are. The three forms for right and wrong run over the pairs of a positive p and a negative n; the ranking forms over the
pairs of a candidate i that ranks better than j. With two ranks they are the same.
"""

import torch
from torch import Tensor

from aft_ray.losses.groups import ScoredGroups, difference, with_boundary


def unconstrained(groups: ScoredGroups) -> Tensor:
    """`log(1 + sum_p sum_n exp(s_n - s_p))`. Pushes every negative down without a bound."""
    return _unconstrained(groups, groups.right_over_wrong_QKK)


def unconstrained_ranking(groups: ScoredGroups) -> Tensor:
    """`log(1 + sum_(i>j) exp(s_j - s_i))`."""
    return _unconstrained(groups, groups.better_QKK)


def detached_constraint(groups: ScoredGroups) -> Tensor:
    """DC: `log(1 + sum_p sum_n exp(D(s_n) - s_p))` with D stop-gradient. Negatives are compared with, never pushed."""
    return _detached(groups, groups.right_over_wrong_QKK)


def detached_constraint_ranking(groups: ScoredGroups) -> Tensor:
    """RDC: `log(1 + sum_(i>j) exp(D(s_j) - s_i))`."""
    return _detached(groups, groups.better_QKK)


@with_boundary
def boundary_constraint(groups: ScoredGroups, beta: float = 0.2) -> Tensor:
    """BC: `log(1 + sum_p sum_n [exp(s_n - s_p) + exp(T - s_n)])`, `T = 2 B - s_p`, `B = min_p s_p - beta`.

    A negative above the boundary B is pushed down, one below it is pushed up again. `beta` (nats per token, >= 0) is how far
    below the worst positive B lies; with `groups.boundary_Q`, B is that, or the worst positive where it is lower.
    """
    return _bounded(groups, groups.right_over_wrong_QKK, beta)


@with_boundary
def boundary_constraint_ranking(groups: ScoredGroups, beta: float = 0.2) -> Tensor:
    """RBC: `log(1 + sum_(i>j) [exp(s_j - s_i) + exp(T_ij - s_j)])`, `T_ij = 2 B_j - s_i`, `B_j = min_(i>j) s_i - beta`."""
    return _bounded(groups, groups.better_QKK, beta)


def boundary_terms(groups: ScoredGroups, pair_QKK: Tensor, beta: float) -> Tensor:
    """`T_ij - s_j` of every pair, [Q, K, K].

    T carries no gradient: with one, the worst positive could be pushed down.
    """
    scores_QK = groups.scores_QK.detach()
    worst_better_QK = scores_QK[:, :, None].masked_fill(~pair_QKK, torch.inf).amin(dim=1)
    # Where nothing is better the pair mask removes every term; keep the arithmetic finite there.
    worst_better_QK = worst_better_QK.nan_to_num(posinf=0.0)
    found_Q = groups.boundary_Q
    boundary_QK = worst_better_QK - beta if found_Q is None else worst_better_QK.minimum(found_Q[:, None])
    target_QKK = 2 * boundary_QK[:, None, :] - scores_QK[:, :, None]
    return target_QKK - groups.scores_QK[:, None, :]


def _unconstrained(groups: ScoredGroups, pair_QKK: Tensor) -> Tensor:
    return log1p_sum_exp(difference(groups.scores_QK, groups.scores_QK), pair_QKK)


def _detached(groups: ScoredGroups, pair_QKK: Tensor) -> Tensor:
    return log1p_sum_exp(difference(groups.scores_QK, groups.scores_QK.detach()), pair_QKK)


def _bounded(groups: ScoredGroups, pair_QKK: Tensor, beta: float) -> Tensor:
    down_QKK = difference(groups.scores_QK, groups.scores_QK)
    up_QKK = boundary_terms(groups, pair_QKK, beta)
    return log1p_sum_exp(torch.cat((down_QKK, up_QKK), dim=2), torch.cat((pair_QKK, pair_QKK), dim=2))


def log1p_sum_exp(terms: Tensor, mask: Tensor) -> Tensor:
    """`log(1 + sum of exp(terms))` over a question's masked terms, [Q]."""
    kept_QX = terms.masked_fill(~mask, -torch.inf).flatten(1)
    return torch.cat((kept_QX.new_zeros(kept_QX.shape[0], 1), kept_QX), dim=1).logsumexp(dim=1)
