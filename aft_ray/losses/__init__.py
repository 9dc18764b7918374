"""Losses: pure functions of the scores of candidate groups, one file a family. No model, no Ray.

A loss takes `ScoredGroups` and its own options as keywords, and returns the loss of every question, [Q]. A new one is a function
in a file here and a line below; one of yours is named in the configuration as module:function. Nothing here imports torch before
a loss is asked for, so that the configuration can know the names.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

LOSSES = {
    "unconstrained": "aft_ray.losses.constraint:unconstrained",
    "dc": "aft_ray.losses.constraint:detached_constraint",
    "bc": "aft_ray.losses.constraint:boundary_constraint",
    "unconstrained_ranking": "aft_ray.losses.constraint:unconstrained_ranking",
    "dc_ranking": "aft_ray.losses.constraint:detached_constraint_ranking",
    "bc_ranking": "aft_ray.losses.constraint:boundary_constraint_ranking",
    "rft": "aft_ray.losses.fine_tuning:rft",
    "rrhf": "aft_ray.losses.ranking:rrhf",
    "rrhf_dc": "aft_ray.losses.ranking:rrhf_detached",
    "rrhf_bc": "aft_ray.losses.ranking:rrhf_boundary",
    "pro": "aft_ray.losses.ranking:pro",
    "pro_dc": "aft_ray.losses.ranking:pro_detached",
    "pro_bc": "aft_ray.losses.ranking:pro_boundary",
    "dpo": "aft_ray.losses.preference:dpo",
    "dpo_nll": "aft_ray.losses.preference:dpo_nll",
    "ipo": "aft_ray.losses.preference:ipo",
    "cdpo": "aft_ray.losses.preference:cdpo",
    "dpop": "aft_ray.losses.preference:dpop",
    "cal_dpo": "aft_ray.losses.preference:cal_dpo",
    "kto": "aft_ray.losses.preference:kto",
    "nca": "aft_ray.losses.preference:nca",
    "simpo": "aft_ray.losses.reference_free:simpo",
    "orpo": "aft_ray.losses.reference_free:orpo",
}


Loss: TypeAlias = Callable[..., "Tensor"]
"""(ScoredGroups, **options) -> the loss of every question, [Q]; 0 with gradient 0 where it has nothing to compare."""


def loss_function(name: str) -> Loss:
    """The loss of that name, or the user's own, module:function. Raises ValueError where there is none."""
    module, _, function = LOSSES.get(name, name).partition(":")
    try:
        loss: Loss = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"no loss {name!r} ({error}); there are {', '.join(LOSSES)}, and your own as module:function") from None
    return loss


def bound_loss(name: str, beta: float | None, options: Mapping[str, float]) -> Loss:
    """The loss of that name with its options. `beta` is for a loss with a boundary; None: the boundaries come with the groups.

    Raises ValueError where there is no such loss, or it has no such option.
    """
    loss = loss_function(name)
    unknown = options.keys() - options_of(loss).keys()
    if unknown:
        raise ValueError(f"loss {name} has no option {', '.join(sorted(unknown))}; it has {options_of(loss) or 'none'}")
    chosen = dict(options)
    if has_boundary(loss) and "beta" not in options_of(loss):
        raise ValueError(f"loss {name} is marked as one with a boundary and has no option beta")
    if beta is not None and has_boundary(loss):
        chosen.setdefault("beta", beta)
    return partial(loss, **chosen)


def options_of(loss: Loss) -> dict[str, float]:
    """The keywords that a loss takes, with their defaults."""
    parameters = list(inspect.signature(loss).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters}


def needs_reference(loss: Loss) -> bool:
    """Whether it compares with the log-likelihoods of the model that alignment starts from."""
    return getattr(loss, "needs_reference", False)


def has_boundary(loss: Loss) -> bool:
    return getattr(loss, "has_boundary", False)
