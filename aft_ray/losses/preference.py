"""Preference losses against a reference, the model that alignment starts from.

`r = log pi - log pi_ref` of the whole candidate, w / l the better / worse one of a pair. Published for one pair a question; here
each is the mean over all pairs of a question (over its candidates, for KTO and NCA), so that its size does not grow with k.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from aft_ray.losses.groups import ScoredGroups, difference, mean_over, nll_of_best, with_reference


@with_reference
def dpo(groups: ScoredGroups, beta: float = 0.1) -> Tensor:
    """DPO (arXiv 2305.18290, eq. 7): `-log sigmoid(beta (r_w - r_l))`."""
    return mean_over(-logsigmoid(beta * _margin(groups)), groups.better_QKK)


@with_reference
def dpo_nll(groups: ScoredGroups, beta: float = 0.1, nll_weight: float = 1.0) -> Tensor:
    """DPO + NLL (iterative RPO, arXiv 2404.19733, eq. 1): DPO and `nll_weight` times the mean `-s` of the best candidates."""
    return dpo(groups, beta=beta) + nll_weight * nll_of_best(groups)


@with_reference
def ipo(groups: ScoredGroups, beta: float = 0.1) -> Tensor:
    """IPO (arXiv 2310.12036, eq. 17): `(h_w - h_l - 1 / (2 beta))^2` with `h = r / |c|`.

    By token, as TRL has it from the authors: the sums of the paper's text would grow with length.
    """
    h_QK = groups.log_ratio_QK / groups.length_QK
    return mean_over((-difference(h_QK, h_QK) - 1 / (2 * beta)) ** 2, groups.better_QKK)


@with_reference
def cdpo(groups: ScoredGroups, beta: float = 0.1, smoothing: float = 0.1) -> Tensor:
    """Conservative DPO (Mitchell 2023, ericmitchell.ai/cdpo.pdf): DPO where a label is false with probability `smoothing`."""
    margin_QKK = beta * _margin(groups)
    return mean_over(-(1 - smoothing) * logsigmoid(margin_QKK) - smoothing * logsigmoid(-margin_QKK), groups.better_QKK)


@with_reference
def dpop(groups: ScoredGroups, beta: float = 0.3, penalty: float = 50.0) -> Tensor:
    """DPO-Positive (arXiv 2402.13228, eq. 3): `-log sigmoid(beta (r_w - r_l - penalty max(0, -r_w)))`."""
    fallen_QK = (-groups.log_ratio_QK).relu()
    return mean_over(-logsigmoid(beta * (_margin(groups) - penalty * fallen_QK[:, :, None])), groups.better_QKK)


@with_reference
def cal_dpo(groups: ScoredGroups, beta: float = 0.1) -> Tensor:
    """Cal-DPO (arXiv 2412.14516, eq. 8): `-log sigmoid(r_w - r_l) + (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2`."""
    r_QK, target = groups.log_ratio_QK, 1 / (2 * beta)
    calibration_QKK = ((r_QK - target) ** 2)[:, :, None] + ((r_QK + target) ** 2)[:, None, :]
    return mean_over(-logsigmoid(_margin(groups)) + calibration_QKK, groups.better_QKK)


@with_reference
def kto(groups: ScoredGroups, beta: float = 0.1, desirable: float = 1.0, undesirable: float = 1.0) -> Tensor:
    """KTO (arXiv 2402.01306, eq. 8): the mean of `desirable (1 - sigmoid(beta (r - z)))` over positives and of
    `undesirable (1 - sigmoid(beta (z - r)))` over negatives.

    The reference point z is the mean of r over all candidates of the question, at least 0 and constant: they are samples of the
    model that alignment starts from. KTO itself, which has one chain a question, takes chains of other questions for it.
    """
    r_QK, part_QK = groups.log_ratio_QK, groups.positive_QK | groups.negative_QK
    z_Q1 = mean_over(r_QK.detach(), part_QK).clamp(min=0)[:, None]
    loss_QK = torch.where(
        groups.positive_QK,
        desirable * (1 - torch.sigmoid(beta * (r_QK - z_Q1))),
        undesirable * (1 - torch.sigmoid(beta * (z_Q1 - r_QK))),
    )
    return mean_over(loss_QK, part_QK & groups.right_over_wrong_QKK.flatten(1).any(dim=1, keepdim=True))


@with_reference
def nca(groups: ScoredGroups, beta: float = 0.1, temperature: float = 1.0) -> Tensor:
    """NCA (arXiv 2402.05369, eq. 12): `-sum_c [w(c) log sigmoid(beta r) + (1 / K) log sigmoid(-beta r)]`.

    `w` is the softmax of `reward / temperature` over the K candidates of a question where all have rewards; else uniform over
    those of the best rank.
    """
    r_QK = beta * groups.log_ratio_QK
    part_QK = (groups.rank_QK > 0) & groups.better_QKK.flatten(1).any(dim=1, keepdim=True)
    wanted_QK = -logsigmoid(r_QK) * _noise_contrastive_weights(groups, part_QK, temperature)
    return wanted_QK.masked_fill(~part_QK, 0.0).sum(dim=1) + mean_over(-logsigmoid(-r_QK), part_QK)


def _noise_contrastive_weights(groups: ScoredGroups, part_QK: Tensor, temperature: float) -> Tensor:
    best_QK = groups.best_QK.to(groups.scores_QK.dtype)
    uniform_QK = best_QK / best_QK.sum(dim=1, keepdim=True).clamp(min=1)
    if groups.reward_QK is None:
        return uniform_QK
    known_Q = part_QK.any(dim=1) & ~(groups.reward_QK.isnan() & part_QK).any(dim=1)
    logits_QK = (groups.reward_QK.to(best_QK.dtype) / temperature).nan_to_num().masked_fill(~part_QK, -torch.inf)
    return torch.where(known_Q[:, None], logits_QK.softmax(dim=1), uniform_QK)


def _margin(groups: ScoredGroups) -> Tensor:
    """`r_w - r_l` of every pair, [Q, K, K]."""
    r_QK = groups.log_ratio_QK
    return -difference(r_QK, r_QK)
