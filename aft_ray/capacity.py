"""Is there room for what a stage asks? What can never be given is refused with its name; Ray itself would wait for ever.

This machine's own Ray is looked at before anything starts. A cluster may grow, and only its autoscaler knows how far: so before
each stage a placement group asks for the stage's room, which is what makes the autoscaler start machines or say that it cannot.
"""

import json
import math
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import ray
import torch
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from rich.console import Console

from aft_ray.cluster import own_cpus
from aft_ray.config import ResourcesConfig

NAMED_BY_ITS_ID = re.compile(r"node_[0-9a-f]+")
Bundle = dict[str, float]
"""Resources by their names, of a worker or a node."""
TELL_SECONDS, PATIENCE_SECONDS, AUTOSCALER_PATIENCE_SECONDS = 10.0, 60.0, 1200.0
"""A node that is to join may be on its way; with an autoscaler so may the end of an idle one that others are counted against."""


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


def demands_of(stages: Iterable[str], resources: ResourcesConfig) -> list[Demand]:
    """What stages of these names ask for: some train, some have engines."""
    trains = any(name.startswith(("vft", "align", "reference")) for name in stages)
    samples = any(name.startswith(("sample", "held-out", "evaluate")) for name in stages)
    return [training_demand(resources)] * trains + [sampling_demand(resources)] * samples


def without_zeros(bundle: Bundle) -> Bundle:
    return {kind: amount for kind, amount in bundle.items() if amount}


def check_this_machine(demands: Iterable[Demand]) -> None:
    """Raises NotEnoughResourcesError where the run is for this machine's own Ray and asks for more than there is."""
    if os.environ.get("RAY_ADDRESS"):
        return
    have = {"CPU": float(own_cpus()), "GPU": float(torch.cuda.device_count())}
    missing = [demand for demand in demands if not holds([have], demand.bundles)]
    if missing:
        told = [f"  resources.{demand}" for demand in missing]
        had = f"This machine has {have['CPU']:g} CPU and {have['GPU']:g} GPU: submit the run to a cluster, or ask for less."
        raise NotEnoughResourcesError("\n".join(["Not enough for this run:", *told, had]))


def check_nodes(demands: Iterable[Demand]) -> None:
    """Raises NotEnoughResourcesError where nodes that were started by hand do not hold a demand with all other work gone.

    So that what a later stage will lack is told before an earlier one has spent its hours. A node may be on its way for a while.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while os.environ.get("RAY_ADDRESS"):
        missing = [demand for demand in demands if not holds(nodes(), demand.bundles)]
        try:
            if not missing or not started_by_hand():
                return
        except RayError:  # a head that is too busy to answer has refused nothing
            return
        if time.monotonic() > deadline:
            raise never(missing, "and none will be added to them")
        time.sleep(2)


def wait_for_room(demand: Demand, console: Console) -> None:
    """Returns when the cluster has room. Raises NotEnoughResourcesError when it will never have.

    Full of other work, or waiting for machines to come, is no reason to end: a line on the screen says that a run waits. Nodes
    that were started by hand must hold the demand with all other work gone. Where an autoscaler starts them (Ray's second; the
    first does not say), it must have been at the end of its means for a while.
    """
    if not os.environ.get("RAY_ADDRESS") or not demand.number:
        return
    asked = placement_group(demand.bundles)
    try:
        began, told, hopeless_since = time.monotonic(), False, math.inf
        while not asked.wait(2):
            now = time.monotonic()
            if not told and now - began > TELL_SECONDS:
                console.print(f"[dim]waits for room in the cluster: {demand}[/]")
                told = True
            try:
                fixed = started_by_hand()
                hopeless = not holds(nodes(), demand.bundles) and (fixed or autoscaler_refuses())
            except RayError:  # a head that is too busy to answer has refused nothing
                fixed, hopeless = False, False
            hopeless_since = min(hopeless_since, now) if hopeless else math.inf
            if now - hopeless_since > (PATIENCE_SECONDS if fixed else AUTOSCALER_PATIENCE_SECONDS):
                why = "and none will be added to them" if fixed else "and its autoscaler can add none that would do"
                raise never([demand], why)
    finally:
        remove_placement_group(asked)


def never(missing: Iterable[Demand], why: str) -> NotEnoughResourcesError:
    told = [f"  resources.{demand}" for demand in missing]
    had = f"Its nodes: {described(nodes())}, {why}. Give it more or larger machines, or ask for less."
    return NotEnoughResourcesError("\n".join(["The cluster will never have room for this run:", *told, had]))


def started_by_hand() -> bool:
    """Whether the cluster's nodes are surely not of an autoscaler's kinds: `ray start --head` has one too, which can start none.

    It says so by naming each node after its id. Who says nothing may be about to start some.
    """
    reported = ray_kv(DEBUG_AUTOSCALING_STATUS)
    kinds = list(json.loads(reported)["autoscaler_report"]["active_nodes"]) if reported else []
    return bool(kinds) and all(NAMED_BY_ITS_ID.fullmatch(kind) for kind in kinds)


def autoscaler_refuses() -> bool:
    """Whether it has found a request for which it can start nothing now, and has no machine on its way."""
    state = cluster_status().autoscaling_state
    return bool(state.infeasible_gang_resource_requests) and not state.pending_instances and not state.pending_instance_requests


def cluster_status() -> GetClusterStatusReply:
    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=10))
    return reply


def ray_kv(key: str) -> bytes | None:
    client = GcsClient(ray.get_runtime_context().gcs_address)
    found: bytes | None = client.internal_kv_get(key.encode(), None, timeout=10)
    return found


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
