"""What fits where, and what a machine that is too small is told. (Of clusters: tests/submission.)"""

import pytest

from aft_ray import capacity
from aft_ray.capacity import (
    NotEnoughResourcesError,
    check_nodes,
    check_this_machine,
    demands_of,
    holds,
    sampling_demand,
    training_demand,
)
from aft_ray.cluster import own_cpus
from aft_ray.config import ResourcesConfig


@pytest.mark.parametrize(
    ("nodes", "bundles", "fits"),
    [
        ([{"CPU": 2.0}], [{"CPU": 1.0}] * 2, True),
        ([{"CPU": 2.0}], [{"CPU": 1.0}] * 3, False),
        ([{"CPU": 1.0}, {"CPU": 1.0}], [{"CPU": 2.0}], False),  # a worker is on one node
        ([{"CPU": 1.0}, {"CPU": 1.0}], [{"CPU": 0.5}] * 4, True),
        ([{"CPU": 64.0}], [{"CPU": 1.0, "GPU": 1.0}], False),
        ([{"CPU": 4.0}, {"CPU": 4.0, "GPU": 2.0}], [{"CPU": 1.0, "GPU": 1.0}] * 2 + [{"CPU": 6.0}], False),
        ([{"CPU": 4.0}, {"CPU": 4.0, "GPU": 2.0}], [{"CPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}], True),
        ([], [], True),
    ],
)
def test_bundles_find_places_on_nodes_or_not(nodes, bundles, fits):
    assert holds(nodes, bundles) is fits


def test_a_machine_that_is_too_small_is_told_by_which_settings(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def check(**resources):
        check_this_machine(demands_of(["vft", "sample"], ResourcesConfig(**resources)))

    check(training_workers=0)
    too_many = own_cpus() + 1
    with pytest.raises(NotEnoughResourcesError) as refused:
        check(training_workers=too_many, gpus_per_sampling_actor=64)
    told = str(refused.value)
    assert f"resources.training_workers: {too_many} x 1 CPU\n" in told
    assert "resources.sampling_actors: 1 x 0.5 CPU and 64 GPU, and 1 CPU to read and label" in told
    assert f"This machine has {own_cpus()} CPU" in told
    # With fewer while there is no room for all it can begin.
    check(training_workers=too_many, fewest_training_workers=1)


def test_a_cluster_is_not_judged_by_this_machine(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    check_this_machine([training_demand(ResourcesConfig(training_workers=10_000))])


@pytest.fixture
def cluster_by_hand(monkeypatch):
    """As Ray tells of one: four nodes with a CPU and a GPU each. (A real one: tests/submission.)"""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setattr(capacity, "nodes", lambda: [{"CPU": 2.0, "GPU": 1.0}] * 4)
    monkeypatch.setattr(capacity, "started_by_hand", lambda: True)
    monkeypatch.setattr(capacity, "PATIENCE_SECONDS", 0.0)


def test_what_a_later_stage_will_lack_is_told_before_the_first(cluster_by_hand, monkeypatch):
    resources = ResourcesConfig(training_workers=4, gpus_per_training_worker=1, gpus_per_sampling_actor=2)
    check_nodes(demands_of(["vft"], resources))
    with pytest.raises(NotEnoughResourcesError) as refused:
        check_nodes(demands_of(["vft", "sample", "align"], resources))
    told = str(refused.value)
    assert "resources.sampling_actors: 1 x 0.5 CPU and 2 GPU, and 1 CPU to read and label\n" in told
    assert "training_workers" not in told
    assert "Its nodes: 4 with 2 CPU and 1 GPU, and none will be added" in told
    monkeypatch.setattr(capacity, "started_by_hand", lambda: False)
    check_nodes(demands_of(["vft", "sample", "align"], resources))  # an autoscaler may have larger ones


@pytest.mark.parametrize(
    ("stages", "settings"),
    [
        ([], []),
        (["questions"], []),
        (["reference-2"], ["training_workers"]),
        (["held-out", "evaluate-aft"], ["sampling_actors"]),
        (["questions", "vft", "sample", "align"], ["training_workers", "sampling_actors"]),
    ],
)
def test_stages_ask_for_what_their_kind_needs(stages, settings):
    assert [demand.setting for demand in demands_of(stages, ResourcesConfig())] == settings


def test_what_a_stage_must_have_at_once():
    resources = ResourcesConfig(
        training_workers=4,
        fewest_training_workers=2,
        gpus_per_training_worker=1,
        sampling_actors=(3, 8),
        gpus_per_sampling_actor=2,
    )
    assert training_demand(resources).bundles == [{"CPU": 1.0, "GPU": 1.0}] * 2
    assert sampling_demand(resources).bundles == [{"CPU": 0.5, "GPU": 2.0}] * 3 + [{"CPU": 1.0}]
