"""Losses: pure functions of scores, one file a family. No model, no Ray."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from aft_ray.config import LossName
from aft_ray.losses.alignment import boundary_constraint, detached_constraint, unconstrained

AlignmentLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def alignment_loss(name: LossName, beta: float) -> AlignmentLoss:
    """The loss of that name as a function (scores_QK, positive_QK, negative_QK) -> [Q]; `beta` is BC's alone."""
    losses: dict[LossName, AlignmentLoss] = {
        "unconstrained": unconstrained,
        "dc": detached_constraint,
        "bc": partial(boundary_constraint, beta=beta),
    }
    return losses[name]


__all__ = ["AlignmentLoss", "alignment_loss", "boundary_constraint", "detached_constraint", "unconstrained"]
