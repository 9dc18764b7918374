"""Losses that follow the order of the candidates of a question: RRHF and PRO, as published and with the constraint of AFT.

The constrained forms take from arXiv 2309.02144, section 6, that worse candidates are detached, or held by a boundary. How the
boundary enters these two losses is this project's: with the term that it is in BC, in the shape of the loss at hand.
"""

import torch
from torch import Tensor

from aft_ray.losses.constraint import boundary_terms
from aft_ray.losses.groups import ScoredGroups, difference, nll_of_best, with_boundary


def rrhf(groups: ScoredGroups, nll_weight: float = 1.0) -> Tensor:
    """RRHF (arXiv 2304.05302, eq. 2-4): `sum_(i better than j) max(0, s_j - s_i) + nll_weight * NLL(best)`.

    NLL is the mean over the best candidate's tokens, as in RRHF's code; where several are best, over all of them.
    """
    hinge_QKK = difference(groups.scores_QK, groups.scores_QK).relu()
    return _sum_over(hinge_QKK, groups.better_QKK) + nll_weight * nll_of_best(groups)


def rrhf_detached(groups: ScoredGroups, nll_weight: float = 1.0) -> Tensor:
    """RRHF with the worse candidate detached: `max(0, D(s_j) - s_i)`."""
    hinge_QKK = difference(groups.scores_QK, groups.scores_QK.detach()).relu()
    return _sum_over(hinge_QKK, groups.better_QKK) + nll_weight * nll_of_best(groups)


@with_boundary
def rrhf_boundary(groups: ScoredGroups, beta: float = 0.2, nll_weight: float = 1.0) -> Tensor:
    """RRHF with a boundary: `max(0, s_j - s_i) + max(0, T_ij - s_j)`, T as in BC."""
    pair_QKK = groups.better_QKK
    hinge_QKK = difference(groups.scores_QK, groups.scores_QK).relu() + boundary_terms(groups, pair_QKK, beta).relu()
    return _sum_over(hinge_QKK, pair_QKK) + nll_weight * nll_of_best(groups)


def pro(groups: ScoredGroups, nll_weight: float = 1.0) -> Tensor:
    """PRO (arXiv 2306.17492, eq. 7-9): `sum_i [logsumexp(s_i / T_ii, s_j / T_ij for j worse) - s_i / T_ii]`, and
    `nll_weight * NLL(best)`.

    `1 / T_ij` is the gap of the rewards of i and j, and `1 / T_ii` the largest gap of i, where all candidates of a question have
    rewards; else all are 1. Candidates of the same rank are not compared.
    """
    return _pro(groups, groups.scores_QK) + nll_weight * nll_of_best(groups)


def pro_detached(groups: ScoredGroups, nll_weight: float = 1.0) -> Tensor:
    """PRO with the worse candidates detached."""
    return _pro(groups, groups.scores_QK.detach()) + nll_weight * nll_of_best(groups)


@with_boundary
def pro_boundary(groups: ScoredGroups, beta: float = 0.2, nll_weight: float = 1.0) -> Tensor:
    """PRO with a boundary: `s_j / T_ij` has a counterpart `(2 B_j - s_j) / T_ij` in the sum, so that s_j rests at B_j.

    B_j as in BC. (The counterpart is detached but for s_j.)
    """
    up_QKK = boundary_terms(groups, groups.better_QKK, beta)
    return _pro(groups, groups.scores_QK, up_QKK) + nll_weight * nll_of_best(groups)


def _pro(groups: ScoredGroups, of_worse_QK: Tensor, up_QKK: Tensor | None = None) -> Tensor:
    pair_QKK = groups.better_QKK
    gap_QKK, largest_QK1 = _inverse_temperatures(groups, pair_QKK)
    terms_QKX = of_worse_QK[:, None, :] * gap_QKK - groups.scores_QK[:, :, None] * largest_QK1
    mask_QKX = pair_QKK
    if up_QKK is not None:
        better_QK1 = groups.scores_QK.detach()[:, :, None]
        up_QKK = (up_QKK + better_QK1) * gap_QKK - better_QK1 * largest_QK1
        terms_QKX, mask_QKX = torch.cat((terms_QKX, up_QKK), dim=2), torch.cat((pair_QKK, pair_QKK), dim=2)
    kept_QKX = terms_QKX.masked_fill(~mask_QKX, -torch.inf)
    return torch.cat((kept_QKX.new_zeros(*kept_QKX.shape[:2], 1), kept_QKX), dim=2).logsumexp(dim=2).sum(dim=1)


def _inverse_temperatures(groups: ScoredGroups, pair_QKK: Tensor) -> tuple[Tensor, Tensor]:
    """`1 / T_ij` [Q, K, K] and `1 / T_ii` [Q, K, 1]."""
    ones_QKK = torch.ones_like(pair_QKK, dtype=groups.scores_QK.dtype)
    if groups.reward_QK is None:
        return ones_QKK, ones_QKK[:, :, :1]
    reward_QK = groups.reward_QK.to(ones_QKK.dtype)
    known_Q = ~(reward_QK.isnan() & (groups.rank_QK > 0)).any(dim=1)
    gap_QKK = -difference(reward_QK, reward_QK).nan_to_num()
    gap_QKK = torch.where(known_Q[:, None, None], gap_QKK, ones_QKK).masked_fill(~pair_QKK, 0.0)
    return gap_QKK, gap_QKK.amax(dim=2, keepdim=True)


def _sum_over(values_QKK: Tensor, mask_QKK: Tensor) -> Tensor:
    return values_QKK.masked_fill(~mask_QKK, 0.0).flatten(1).sum(dim=1)
