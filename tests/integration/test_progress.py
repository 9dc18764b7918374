"""What a stage says of itself on a real Ray: from the actors that count to the line, the listeners and Prometheus."""

import io
import time
from urllib.request import urlopen

import pytest
import ray
from rich.console import Console

from aft_ray import progress
from aft_ray.heartbeat import keep_beating
from aft_ray.metrics import METRICS, Gauges
from aft_ray.progress import Look, StageProgress

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(120)]


@ray.remote(num_cpus=0)
class Engine:
    def __init__(self, counter):
        actor = ray.get_runtime_context().get_actor_id()
        keep_beating(lambda use: counter.beat.remote(actor, use), gpu=None)


def exported() -> dict[str, float]:
    """What Prometheus would find of the run at the agent of this Ray's only node."""
    (node,) = ray.nodes()
    with urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as page:
        lines = [line for line in page.read().decode().splitlines() if 'run="job"' in line and 'stage="sample"' in line]
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_engines_beat_and_who_listens_is_told_and_prometheus(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    printed, looks = io.StringIO(), []
    listeners = [lambda stage, look, last: looks.append((stage, look, last)), Gauges("job")]
    with StageProgress(Console(file=printed, width=200), "sample", 40, "questions", listeners) as counter:
        counter.add.remote(8, checked=32, right=8)
        engines = [Engine.remote(counter) for _ in range(2)]
        while not looks or looks[-1][1].engines != 2:
            time.sleep(0.1)
        ray.get(counter.put.remote(9, 40, {"loss": 0.5, "assessment_accuracy": 0.75, "tokens_per_second": 100.0}))
        while exported().keys() != {f"ray_aft_{name}" for name in METRICS}:  # every ten seconds
            time.sleep(0.5)
        of_ray = exported()
    del engines
    stage, look, _ = looks[-1]
    assert (stage, look.done, look.total, look.acceptance, look.engines) == ("sample", 9, 40, 0.25, 2)
    assert [last for _, _, last in looks] == [False] * (len(looks) - 1) + [True]
    assert any(line.startswith("sample         9/40 questions ") for line in printed.getvalue().splitlines())
    assert any(line.endswith(" left, 25% right, 2 engines, loss 0.500") for line in printed.getvalue().splitlines())
    assert (of_ray["ray_aft_acceptance"], of_ray["ray_aft_pool_size"], of_ray["ray_aft_total"]) == (0.25, 2, 40)


def test_on_a_terminal_it_is_a_bar_with_the_same_in_it():
    printed, looks = io.StringIO(), []
    console = Console(file=printed, width=120, force_terminal=True)
    with StageProgress(console, "align", 0, "steps", [lambda stage, look, last: looks.append(look)]) as counter:
        ray.get(counter.put.remote(3, 8, {"loss": 0.5}))
        while not looks or not looks[-1].done:
            time.sleep(0.1)
    assert "3/8" in printed.getvalue()
    assert "loss 0.500" in printed.getvalue()


def test_each_step_arrives_once_and_the_end_is_told_even_where_the_counter_is_gone():
    looks: list[tuple[Look, bool]] = []
    listeners = [lambda stage, look, last: looks.append((look, last))]
    with StageProgress(Console(file=io.StringIO()), "align", 0, "steps", listeners) as counter:
        for step in (1, 2):
            ray.get(counter.put.remote(step, 8, {"loss": 1 / step}))
            while not looks or looks[-1][0].done != step:
                time.sleep(0.1)
        ray.kill(counter)
    assert [step for look, _ in looks for step, _ in look.steps] == [1, 2]
    assert (looks[-1][0].done, looks[-1][1]) == (2, True)
