"""The nearest settings that fit, for settings that do not: what gives up least speed is tried first."""

from collections.abc import Callable, Iterator
from itertools import product

from aft_ray.config import ResourcesConfig, TrainingConfig, least_zero_stage

Fits = Callable[[TrainingConfig, ResourcesConfig], bool]
MORE_WORKERS = (1, 2, 4, 8, 16)
PARTS_OF_BUDGET = (1, 2, 4)
SMALLEST_BUDGET = 1024


def nearest(training: TrainingConfig, resources: ResourcesConfig, fits: Fits) -> dict[str, object] | None:
    """The settings to change, and to what; None where none of these helps."""
    for budget, changes in candidates(training, resources):
        changed = {name: value for name, value in changes.items() if getattr(resources, name) != value}
        if fits(training.model_copy(update={"tokens_per_micro_batch": budget}), resources.model_copy(update=changes)):
            told: dict[str, object] = {f"resources.{name}": value for name, value in changed.items()}
            return told if budget == training.tokens_per_micro_batch else told | {"tokens_per_micro_batch": budget}
    return None


def candidates(training: TrainingConfig, resources: ResourcesConfig) -> Iterator[tuple[int, dict[str, object]]]:
    """First less at a time, then recomputing, then a higher stage, then the host's memory, then more workers."""
    budget, workers = training.tokens_per_micro_batch, resources.least_training_workers
    budgets = [budget // part for part in PARTS_OF_BUDGET if part == 1 or budget // part >= SMALLEST_BUDGET]
    offloads = ("nothing", "optimizer", "optimizer+parameters")
    for more, offload, stage, recompute, at_once in product(MORE_WORKERS, offloads, (0, 1, 2, 3), (False, True), budgets):
        higher = offloads.index(offload) < offloads.index(resources.offload) or stage < resources.zero_stage
        if higher or stage < least_zero_stage(offload) or recompute < resources.activation_checkpointing:
            continue
        yield (
            at_once,
            {
                "activation_checkpointing": recompute,
                "zero_stage": stage,
                "offload": offload,
                "training_workers": resources.training_workers if more == 1 else workers * more,
                "fewest_training_workers": resources.fewest_training_workers if more == 1 else None,
            },
        )
