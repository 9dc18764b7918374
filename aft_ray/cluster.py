"""The connection to Ray: the cluster that a submitted job runs on, or a Ray of this machine's own."""

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.data._internal.execution.backpressure_policy.downstream_capacity_backpressure_policy import (
    DownstreamCapacityBackpressurePolicy,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LOST_READERS = 5
MOST_WAITING = 16.0
"""Blocks before a stage of a stream, for each that it works on: enough for all of an actor's to come at once."""


def connect(logs: Path) -> None:
    """Connect once. Ray's own chatter goes to log files, never to the screen."""
    if ray.is_initialized():
        return
    logs.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(logs / "driver.log")
    # A worker's own processes (vLLM's, where an actor is killed) end with it, and keep no GPU.
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "true")
    own: dict[str, Any] = {"address": "local", "num_cpus": own_cpus(), "include_dashboard": False}
    options = own if is_own_ray() else {"address": os.environ["RAY_ADDRESS"]}
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    if threading.current_thread() is threading.main_thread():
        # In the place of Ray's own handler, which aborts the process where its end takes more than three seconds.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    for name in ("ray", "ray.data", "ray.train"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A pool grows when its actors have as many blocks in hand as they work on at once. By itself Ray wants 1.75 times as many,
    # which none ever has.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 0.9
    # What waits before a stage of a stream is bounded by what the stage has in hand. By itself Ray bounds it only where half of
    # its memory is full, and of every block that waits the driver knows something: 50 KB, of a million questions a gigabyte.
    DownstreamCapacityBackpressurePolicy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD = 0.0
    context.downstream_capacity_backpressure_ratio = MOST_WAITING
    # Ray Data reads the ends of Parquet files in actors of its own. Where one goes with its node, the task that waits for it
    # fails, which Ray takes for a mistake in our code.
    context.retried_map_errors = ["ActorDiedError", "ActorUnavailableError"]
    context.max_map_retries = LOST_READERS
    # Ray Data would end a stream in which nothing has moved for half an hour, as while an engine of 70B is fetched and started or
    # a machine is awaited. What hangs is found by who knows what he waits for: watchdog, `Attempts`, `wait_for_room`.
    context.execution_no_progress_timeout_s = -1
    link = logs / "ray"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(ray.nodes()[0]["ObjectStoreSocketName"]).parent.parent / "logs")


def is_own_ray() -> bool:
    """Whether it is this process's own, made by `connect`, and not a cluster's."""
    return not os.environ.get("RAY_ADDRESS")


def beside_the_driver() -> NodeAffinitySchedulingStrategy:
    """Where small actors live that must not be lost with a spot machine: on the driver's own node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def own_cpus() -> int:
    """Two at least: what two workers and two actors are counted against, also on a machine with one core."""
    return max(2, os.cpu_count() or 1)
