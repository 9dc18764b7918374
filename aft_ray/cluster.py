"""The connection to Ray: the cluster that a submitted job runs on, or a Ray of this machine's own."""

import logging
import os
from pathlib import Path
from typing import Any

import ray
import ray.data
import torch

from aft_ray.config import ResourcesConfig


class NotEnoughResourcesError(Exception):
    """This machine's own Ray can never give what the run asks for; without this, Ray would wait for ever."""


def connect(run_folder: Path) -> None:
    """Connect once. Ray's own chatter goes to log files, never to the screen."""
    if ray.is_initialized():
        return
    logs = run_folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(logs / "driver.log")
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {} if address else {"num_cpus": own_cpus(), "include_dashboard": False}
    ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
    for name in ("ray", "ray.data", "ray.train"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    ray.data.DataContext.get_current().enable_progress_bars = False
    link = logs / "ray"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(ray.nodes()[0]["ObjectStoreSocketName"]).parent.parent / "logs")


def own_cpus() -> int:
    """Two at least: what two workers and two actors are counted against, also on a machine with one core."""
    return max(2, os.cpu_count() or 1)


def check_resources(resources: ResourcesConfig) -> None:
    """Raises NotEnoughResourcesError. Asks nothing of a cluster, which may grow."""
    if os.environ.get("RAY_ADDRESS"):
        return
    cpus, gpus = own_cpus(), torch.cuda.device_count()
    asked = {
        "training_workers x cpus_per_training_worker": (
            resources.training_workers * resources.cpus_per_training_worker,
            cpus,
            "CPUs",
        ),
        "sampling_actors x cpus_per_sampling_actor": (
            resources.sampling_actors[0] * resources.cpus_per_sampling_actor,
            cpus,
            "CPUs",
        ),
        "training_workers x gpus_per_training_worker": (
            resources.training_workers * resources.gpus_per_training_worker,
            gpus,
            "GPUs",
        ),
        "sampling_actors x gpus_per_sampling_actor": (
            resources.sampling_actors[0] * resources.gpus_per_sampling_actor,
            gpus,
            "GPUs",
        ),
    }
    missing = [
        f"  resources: {what} = {need:g} {kind}, this machine has {have}"
        for what, (need, have, kind) in asked.items()
        if need > have
    ]
    if missing:
        raise NotEnoughResourcesError("\n".join(["Not enough for this run (submit it to a cluster, or ask for less):", *missing]))
