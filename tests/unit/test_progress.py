"""What is known of a stage while it goes on: sums, engines that stand, the pace, the line; without Ray (with it: integration)."""

import json
import queue
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aft_ray.heartbeat import keep_beating
from aft_ray.metrics import METRICS
from aft_ray.progress import SECONDS_OF_RATE, SECONDS_WITHOUT_BEAT, Look, Pace, Tally

DASHBOARD = Path(__file__).parent.parent.parent / "cluster" / "grafana_dashboard.json"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_questions_and_chains_add_up_and_without_chains_there_is_no_share_of_right_ones():
    tally = Tally()
    tally.add(7)
    assert (tally.look().done, tally.look().acceptance) == (7, None)
    tally.add(2, checked=8, right=6)
    tally.add(1, checked=4, right=0)
    assert (tally.look().done, tally.look().acceptance) == (10, 0.5)


def test_every_step_is_handed_out_until_it_has_arrived_and_the_last_one_stays_known():
    tally = Tally()
    tally.put(1, 3, {"loss": 2.0})
    tally.put(2, 3, {"loss": 1.0})
    assert tally.look().steps == ((1, {"loss": 2.0}), (2, {"loss": 1.0}))
    tally.put(3, 3, {"loss": 0.5})
    assert tally.look(after=1).steps == ((2, {"loss": 1.0}), (3, {"loss": 0.5})), "a reply may be lost"
    assert tally.look(after=3).steps == ()
    assert (tally.look(3).done, tally.look(3).total, tally.look(3).latest) == (3, 3, {"loss": 0.5})


def test_an_engine_that_falls_silent_is_not_counted_for_ever(clock):
    tally = Tally(clock)
    assert tally.look().engines is None
    tally.beat("one")
    tally.beat("other")
    clock.now += SECONDS_WITHOUT_BEAT - 1
    tally.beat("other")
    assert tally.look().engines == 2
    clock.now += 2
    assert tally.look().engines == 1
    clock.now += SECONDS_WITHOUT_BEAT
    assert tally.look().engines == 0


def test_the_use_of_a_stage_is_the_mean_of_its_processes_and_their_time():
    tally = Tally()
    tally.beat("one", {})
    tally.beat("one", {"cores": 1.0, "gpu": 0.5})
    tally.beat("other", {"cores": 0.5, "gpu": 0.9})
    tally.add_use({"cores": 0.9})
    assert tally.look().use == pytest.approx({"cores": 0.8, "gpu": 0.7})


def test_a_process_tells_how_busy_it_is_with_its_children(monkeypatch):
    monkeypatch.setattr("aft_ray.heartbeat.SECONDS_BETWEEN_BEATS", 0.5)
    told: queue.Queue[dict[str, float]] = queue.Queue()
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        keep_beating(told.put, gpu=None)
        assert told.get(timeout=10) == {}
        assert told.get(timeout=10)["cores"] > 0.1
    finally:
        child.kill()


def test_the_pace_is_that_of_what_was_done_since_the_first(clock):
    pace = Pace(clock)
    assert pace.at(0) is None
    clock.now += 300  # an engine starts
    assert pace.at(5000) is None, "a run that goes on finds these done"
    clock.now += 10
    assert pace.at(5040) == 4
    clock.now += 10
    assert pace.at(5040) == 2


def test_the_pace_of_a_stage_that_hangs_falls_to_nothing(clock):
    pace = Pace(clock)
    rates = []
    for second in range(int(SECONDS_OF_RATE) + 100):
        clock.now += 1
        rates.append(pace.at(min(1 + second, 50)))
    assert rates[40] == 1
    assert rates[-1] == 0


def test_a_training_that_goes_on_from_a_checkpoint_has_no_pace_below_nothing(clock):
    pace = Pace(clock)
    for done in (100, 140, 120):
        clock.now += 10
        rate = pace.at(done)
    assert rate is None
    clock.now += 10
    assert pace.at(125) == 0.5


@pytest.mark.parametrize(
    ("look", "line"),
    [
        (Look(0, 64, None, None, {}, ()), ""),
        (Look(64, 512, 0.534, 2, {}, (), rate=4.48), "4.5/s, 0:01:40 left, 53% right, 2 engines"),
        (Look(64, 512, 0.5, 1, {}, (), rate=0.0), "0/s, 50% right, 1 engine"),
        (Look(100, 7300, None, None, {"loss": 1.23456}, (), rate=0.02), "0.02/s, 4 days, 4:00:00 left, loss 1.235"),
        (Look(64, 512, None, 0, {}, (), rate=1234.5), "1234.5/s, 0:00:00 left, 0 engines"),
    ],
)
def test_the_line_says_what_is_known(look, line):
    assert str(look) == line


def test_the_dashboard_shows_every_metric_and_no_other():
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [variable["query"] for variable in dashboard["templating"]["list"]]
    assert {name for text in asked for name in re.findall(r"\bray_\w+", text)} == {f"ray_aft_{name}" for name in METRICS}
