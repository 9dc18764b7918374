"""Training on the cluster: Ray Train starts the workers, restarts them after a failure, and keeps their checkpoints."""

import gc
import itertools
from collections.abc import Callable
from typing import Any

import torch
from ray import train
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from aft_ray.cluster import is_own_ray
from aft_ray.places import for_ray_train
from aft_ray.training.checkpoints import KEPT
from aft_ray.training.divergence import DIVERGED, raise_divergence
from aft_ray.training.engine import ALLOCATORS
from aft_ray.training.job import TrainingJob
from aft_ray.training.reference import reference_worker
from aft_ray.training.snapshot import prepare_resuming
from aft_ray.training.worker import train_worker

SECONDS_BETWEEN_RESIZES = 60.0
COLLECTIVE_SECONDS = 2 * 3600
"""That ranks wait for each other: for one that converts a checkpoint of a terabyte, too."""


class Trainer(TorchTrainer):
    """Ray's own, but for two of its habits."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """It would take Ctrl-C to itself, answer it with exit code 0, and keep it when the training is long over."""

    def _create_default_callbacks(self) -> list[Any]:
        """Its cleaner asks the dashboard whether the controller lives. A Ray of our own has none, and ends with this process;
        there each training would end with twelve seconds of waiting for an answer."""
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # typed as Ray's older trainers
        return [c for c in callbacks if not (is_own_ray() and isinstance(c, PlacementGroupCleanerCallback))]


def run_training(job: TrainingJob) -> None:
    """Train to the end. Run again with the same `job.out`, it goes on from the last checkpoint there.

    Raises DivergedError where the loss or its gradient became infinite or no number, BadInputError where its checkpoints are of
    another ZeRO stage or offloading.
    """
    (job.out / DIVERGED).unlink(missing_ok=True)  # of a start whose driver was killed before it could tell
    run_workers(train_worker, job)
    raise_divergence(job.out)


def score_references(job: TrainingJob) -> None:
    """Reference log-likelihoods of all candidates under the model `job.model`, as ReferenceScores in `job.out`."""
    run_workers(reference_worker, job)


def run_workers(worker: Callable[[dict[str, Any]], None], job: TrainingJob) -> None:
    """Start the workers and wait for them; without workers (training_workers: 0), do their work in this process.

    Raises ray.train.TrainingFailedError when the workers failed more than `resources.max_failures` times.
    """
    for failures in itertools.count():
        if job.resources.training_workers:
            prepare_resuming(job)
        try:
            trainer_of(worker, job).fit()
            if job.resources.training_workers == 0 and torch.cuda.is_initialized():
                gc.collect()
                torch.cuda.empty_cache()  # this process lives on, and an engine wants the GPU
            return
        except train.ControllerError as error:
            if failures == job.resources.max_failures or not passes(error.controller_failure):
                raise


def passes(failure: Exception) -> bool:
    """What Ray Train does not start again after by itself: workers lost in the moment in which they are told to begin, and a
    store that failed when it wrote its list of checkpoints."""
    return isinstance(failure, RayActorError | OSError) or type(failure).__module__.startswith("botocore.")


def trainer_of(worker: Callable[[dict[str, Any]], None], job: TrainingJob) -> Trainer:
    resources = job.resources
    on_gpu = resources.gpus_per_training_worker > 0
    per_worker = {"CPU": resources.cpus_per_training_worker} | ({"GPU": resources.gpus_per_training_worker} if on_gpu else {})
    storage, filesystem = for_ray_train(job.out)
    elastic = resources.fewest_training_workers is not None
    workers = (resources.least_training_workers, resources.training_workers) if elastic else resources.training_workers
    return Trainer(
        worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo", timeout_s=COLLECTIVE_SECONDS),
        scaling_config=train.ScalingConfig(  # type: ignore[call-arg]  # typed as that of Ray's older trainers
            num_workers=workers,  # type: ignore[arg-type]
            use_gpu=on_gpu,
            resources_per_worker=per_worker,
            elastic_resize_monitor_interval_s=SECONDS_BETWEEN_RESIZES,
        ),
        run_config=train.RunConfig(  # type: ignore[call-arg]  # as above
            name="checkpoints",
            storage_path=storage,
            storage_filesystem=filesystem,
            failure_config=train.FailureConfig(max_failures=resources.max_failures),
            checkpoint_config=train.CheckpointConfig(num_to_keep=KEPT),
            worker_runtime_env={"env_vars": ALLOCATORS},
        ),
    )
