"""Progress of a stage: what the actors and workers count, drawn as a bar on a terminal, as plain lines elsewhere.

The driver looks at it twice a second; whoever else wants to know (metrics.py, tracking.py) is told of each look.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import TracebackType
from typing import Any

import ray
from ray.actor import ActorHandle
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from aft_ray.cluster import beside_the_driver
from aft_ray.heartbeat import SECONDS_BETWEEN_BEATS, Use

SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_LINES = 0.5, 15.0
SECONDS_OF_RATE = 600.0
SECONDS_WITHOUT_BEAT = 3 * SECONDS_BETWEEN_BEATS
Measures = dict[str, float | None]


@dataclass(frozen=True)
class Look:
    """What is known of a stage at a moment. None: nothing, or it has no such thing."""

    done: int
    total: int
    acceptance: float | None
    """Share of right chains among those checked since this start of the run."""
    engines: int | None
    latest: Measures
    """Of the last step of a training."""
    steps: tuple[tuple[int, Measures], ...]
    """Of a training, since the last look that arrived."""
    rate: float | None = None
    """Units a second."""
    use: Use = field(default_factory=dict)
    """Mean of the stage's processes and of their time."""

    def __str__(self) -> str:
        found = []
        if self.rate is not None:
            found.append(f"{self.rate:.1f}/s" if self.rate >= 10 else f"{self.rate:.2g}/s")
        if self.rate and self.done <= self.total:
            found.append(f"{timedelta(seconds=round((self.total - self.done) / self.rate))} left")
        if self.acceptance is not None:
            found.append(f"{self.acceptance:.0%} right")
        if self.engines is not None:
            found.append(f"{self.engines} engine{'' if self.engines == 1 else 's'}")
        if (loss := self.latest.get("loss")) is not None:
            found.append(f"loss {loss:.3f}")
        return ", ".join(found)


class Tally:
    """How far a stage is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.done, self.total, self.checked, self.right = 0, 0, 0, 0
        self.latest: Measures = {}
        self.steps: list[tuple[int, Measures]] = []
        self.heard: dict[str, float] = {}
        self.uses: dict[str, tuple[float, int]] = {}
        """Sums, and of how many beats."""

    def add(self, done: int, checked: int = 0, right: int = 0) -> None:
        """Questions, and of their chains those that were checked and those that were right."""
        self.done, self.checked, self.right = self.done + done, self.checked + checked, self.right + right

    def put(self, done: int, total: int, measures: Measures) -> None:
        """A step of a training, and what is known of it."""
        self.done, self.total, self.latest = done, total, measures
        if measures:
            self.steps.append((done, measures))

    def beat(self, engine: str, use: Use | None = None) -> None:
        self.heard[engine] = self.clock()
        self.add_use(use or {})

    def add_use(self, use: Use) -> None:
        """Of a process, since it told of itself last."""
        for name, value in use.items():
            total, beats = self.uses.get(name, (0.0, 0))
            self.uses[name] = total + value, beats + 1

    def look(self, after: int = 0) -> Look:
        """Steps are kept until a later look says that they have arrived: all up to `after`."""
        self.steps = [step for step in self.steps if step[0] > after]
        alive = sum(self.clock() - heard < SECONDS_WITHOUT_BEAT for heard in self.heard.values())
        return Look(
            done=self.done,
            total=self.total,
            acceptance=self.right / self.checked if self.checked else None,
            engines=alive if self.heard else None,
            latest=self.latest,
            steps=tuple(self.steps),
            use={name: total / beats for name, (total, beats) in self.uses.items()},
        )


Counter: Any = ray.remote(num_cpus=0)(Tally)
"""On the cluster, so that any actor can count."""


class Pace:
    """Units a second over the last minutes, from the first that was done on: an engine takes long to start, and a run that goes
    on begins with what it finds done."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.looks: deque[tuple[float, int]] = deque()

    def at(self, done: int) -> float | None:
        if not done:
            return None
        if self.looks and done < self.looks[-1][1]:  # training goes on from a checkpoint
            self.looks.clear()
        now = self.clock()
        self.looks.append((now, done))
        while now - self.looks[0][0] > SECONDS_OF_RATE:
            self.looks.popleft()
        since, before = self.looks[0]
        return (done - before) / (now - since) if now > since else None


Listener = Callable[[str, Look, bool], None]
"""Of a stage, at every look; whether it is the stage's last."""


class StageProgress:
    """`with StageProgress(console, "sample", total, "questions") as counter:` draws until the block ends."""

    def __init__(self, console: Console, stage: str, total: int, unit: str, listeners: Sequence[Listener] = ()) -> None:
        self.console, self.stage, self.total, self.unit, self.listeners = console, stage, total, unit, listeners
        self.pace = Pace()
        self.arrived = 0
        """The greatest step that a look has brought."""
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ActorHandle[Any]:
        self.counter = Counter.options(scheduling_strategy=beside_the_driver()).remote()
        self.thread.start()
        return self.counter

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ended.set()
        # Who is told to stop may have three seconds (`ray job stop`), and a look at a Ray that is ending takes ten.
        self.thread.join(None if error is None else 1.0)
        ray.kill(self.counter)

    def _watch(self) -> None:
        with self._bar() if self.console.is_terminal else self._lines() as draw:
            look, last = Look(0, self.total, None, None, {}, ()), False
            while not last:
                last = self.ended.wait(SECONDS_BETWEEN_LOOKS)
                found = self._look()
                if found is not None or last:  # of the end listeners are told in any case
                    look = found or replace(look, steps=())
                    draw(look)
                    for listener in self.listeners:
                        listener(self.stage, look, last)

    def _look(self) -> Look | None:
        """None where the counter cannot be reached just now."""
        try:
            look: Look = ray.get(self.counter.look.remote(self.arrived), timeout=10)
        except ray.exceptions.RayError:
            return None
        self.arrived = max([self.arrived, *(step for step, _ in look.steps)])
        return replace(look, total=look.total or self.total, rate=self.pace.at(look.done))

    @contextmanager
    def _bar(self) -> Iterator[Callable[[Look], None]]:
        columns = (
            SpinnerColumn(),
            TextColumn(f"{self.stage:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(self.unit),
            TimeElapsedColumn(),
            TextColumn("{task.fields[told]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as bars:
            bar = bars.add_task(self.stage, total=self.total or None, told="")
            yield lambda look: bars.update(bar, completed=look.done, total=look.total or None, told=str(look))

    @contextmanager
    def _lines(self) -> Iterator[Callable[[Look], None]]:
        last = time.monotonic()

        def draw(look: Look) -> None:
            nonlocal last
            if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                line = f"{self.stage:<14} {look.done}/{look.total} {self.unit} {look}"
                self.console.print(line.rstrip(), highlight=False)

        yield draw
