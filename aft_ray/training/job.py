"""What a training worker is told."""

from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from aft_ray.config import ModelConfig, ResourcesConfig, TrainingConfig
from aft_ray.places import Place

TOLD = "training.json"
"""What a training that ended leaves beside its model, written last: counts, and measures of every step."""


@dataclass(frozen=True)
class TrainingJob:
    """What a worker needs to know. `training` is an AlignmentConfig for alignment on candidate groups, else VFT on questions."""

    model: ModelConfig
    training: TrainingConfig
    resources: ResourcesConfig
    seed: int
    task_weights: dict[str, float]
    records: Place
    out: Place
    counter: ActorHandle[Any] | None
    references: Place | None = None
    """ReferenceScores of the groups in `records`, for a loss that needs them; None where the sampler's own log-likelihoods do."""
