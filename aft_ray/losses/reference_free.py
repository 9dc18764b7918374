"""Preference losses that need no reference model: the mean over all pairs of a better candidate w and a worse one l."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from aft_ray.losses.groups import ScoredGroups, difference, mean_over, nll_of_best

# A chain of probability 1 has no odds; scores of a model come this close to 0 only by rounding.
HIGHEST_SCORE = -1e-6


def simpo(groups: ScoredGroups, beta: float = 2.0, gamma: float = 1.0) -> Tensor:
    """SimPO (arXiv 2405.14734, eq. 6): `-log sigmoid(beta (s_w - s_l) - gamma)`."""
    margin_QKK = -difference(groups.scores_QK, groups.scores_QK)
    return mean_over(-logsigmoid(beta * margin_QKK - gamma), groups.better_QKK)


def orpo(groups: ScoredGroups, weight: float = 0.1) -> Tensor:
    """ORPO (arXiv 2403.07691, eq. 6-7): `NLL(best) - weight * log sigmoid(log(odds_w / odds_l))`, `odds = P / (1 - P)`,
    `P = exp(s)`.
    """
    scores_QK = groups.scores_QK.clamp(max=HIGHEST_SCORE)
    log_odds_QK = scores_QK - torch.log(-torch.expm1(scores_QK))
    odds_ratio_QKK = -difference(log_odds_QK, log_odds_QK)
    return nll_of_best(groups) + weight * mean_over(-logsigmoid(odds_ratio_QKK), groups.better_QKK)
