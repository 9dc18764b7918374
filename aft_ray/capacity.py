"""Is there room for what a stage asks? What can never be given is refused with its name; Ray itself would wait for ever.

This machine's own Ray is looked at before anything starts. A cluster may grow, and only its autoscaler knows how far: so before
each stage a placement group asks for the stage's room, which is what makes the autoscaler start machines or say that it cannot.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group
from rich.console import Console

from aft_ray.cluster import own_cpus
from aft_ray.config import ResourcesConfig

Bundle = dict[str, float]
"""Resources by their names, of a worker or a node."""
PATIENCE_SECONDS = 20.0
"""The autoscaler looks every five."""


class NotEnoughResourcesError(Exception):
    """Nothing that can come will ever hold what the run asks for."""


@dataclass(frozen=True)
class Demand:
    """What a stage must have at once: equal bundles, and beside them a CPU for the tasks that read, label and write."""

    setting: str
    number: int
    bundle: Bundle
    reader: bool = False

    @property
    def bundles(self) -> list[Bundle]:
        return [self.bundle] * self.number + ([{"CPU": 1.0}] if self.reader else [])

    def __str__(self) -> str:
        each = " and ".join(f"{amount:g} {kind}" for kind, amount in self.bundle.items())
        return f"{self.setting}: {self.number} x {each}{', and 1 CPU to read and label' if self.reader else ''}"


def training_demand(resources: ResourcesConfig) -> Demand:
    bundle = {"CPU": resources.cpus_per_training_worker, "GPU": resources.gpus_per_training_worker}
    return Demand("training_workers", resources.least_training_workers, without_zeros(bundle))


def sampling_demand(resources: ResourcesConfig) -> Demand:
    bundle = {"CPU": resources.cpus_per_sampling_actor, "GPU": float(resources.gpus_per_sampling_actor)}
    return Demand("sampling_actors", resources.sampling_actors[0], without_zeros(bundle), reader=True)


def without_zeros(bundle: Bundle) -> Bundle:
    return {kind: amount for kind, amount in bundle.items() if amount}


def check_this_machine(resources: ResourcesConfig) -> None:
    """Raises NotEnoughResourcesError where the run is for this machine's own Ray and asks for more than there is."""
    if os.environ.get("RAY_ADDRESS"):
        return
    have = {"CPU": float(own_cpus()), "GPU": float(torch.cuda.device_count())}
    missing = [demand for demand in (training_demand(resources), sampling_demand(resources)) if not holds([have], demand.bundles)]
    if missing:
        told = [f"  resources.{demand}" for demand in missing]
        had = f"This machine has {have['CPU']:g} CPU and {have['GPU']:g} GPU: submit the run to a cluster, or ask for less."
        raise NotEnoughResourcesError("\n".join(["Not enough for this run:", *told, had]))


def wait_for_room(demand: Demand, console: Console) -> None:
    """Returns when the cluster has room. Raises NotEnoughResourcesError when its autoscaler says that it will never have.

    Full of other work, or waiting for machines to come, is no reason to end: a line on the screen says that a run waits.
    """
    if not os.environ.get("RAY_ADDRESS") or not demand.number:
        return
    asked = placement_group(demand.bundles)
    try:
        began, told, refused_since = time.monotonic(), False, math.inf
        while not asked.wait(2):
            now = time.monotonic()
            if not told and now - began > PATIENCE_SECONDS / 2:
                console.print(f"[dim]waits for room in the cluster: {demand}[/]")
                told = True
            refused_since = min(refused_since, now) if can_never_hold(demand.bundles) else math.inf
            if now - refused_since > PATIENCE_SECONDS:
                raise NotEnoughResourcesError(
                    f"The cluster will never have room for this run:\n  resources.{demand}\nIts nodes: {described(nodes())}. "
                    "Its autoscaler says that it can add none for it: give it more or larger machines, or ask for less."
                )
    finally:
        remove_placement_group(asked)


def can_never_hold(bundles: Sequence[Bundle]) -> bool:
    """As far as can be told now: not with all other work gone, and the autoscaler, if there is one, starts nothing for it."""
    return not holds(nodes(), bundles) and autoscaler_refuses()


def autoscaler_refuses() -> bool:
    """It has found some request that cannot be met and has no machine on its way; or there is no autoscaler."""
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=10))
    state = reply.autoscaling_state
    if not state.autoscaler_state_version:
        return True
    return bool(state.infeasible_gang_resource_requests) and not state.pending_instances and not state.pending_instance_requests


def nodes() -> list[Bundle]:
    """What each node has, used or not."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def holds(nodes: Sequence[Bundle], bundles: Sequence[Bundle]) -> bool:
    """Whether the bundles, the largest first, find places on empty nodes: each on one, the first that has room."""
    left = [dict(node) for node in nodes]
    for bundle in sorted(bundles, key=lambda bundle: sum(bundle.values()), reverse=True):
        place = next((node for node in left if all(node.get(kind, 0.0) >= amount for kind, amount in bundle.items())), None)
        if place is None:
            return False
        for kind, amount in bundle.items():
            place[kind] -= amount
    return True


def described(nodes: Sequence[Bundle]) -> str:
    kinds: dict[str, int] = {}
    for node in nodes:
        told = " and ".join(f"{node[kind]:g} {kind}" for kind in ("CPU", "GPU") if node.get(kind)) or "none of either"
        kinds[told] = kinds.get(told, 0) + 1
    return "; ".join(f"{number} with {told}" for told, number in kinds.items())
