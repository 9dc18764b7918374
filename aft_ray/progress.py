"""Progress of a stage: what the actors and workers count, drawn as a bar on a terminal, as plain lines elsewhere."""

import threading
import time
from types import TracebackType
from typing import Any

import ray
from ray.actor import ActorHandle
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from aft_ray.cluster import beside_the_driver

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_LINES = 15.0


@ray.remote(num_cpus=0)
class Counter:
    """How far a stage is. Lives on the cluster, so that any actor can count."""

    def __init__(self) -> None:
        self.done, self.total, self.note = 0, 0, ""

    def add(self, done: int) -> None:
        self.done += done

    def put(self, done: int, total: int, note: str) -> None:
        self.done, self.total, self.note = done, total, note

    def read(self) -> tuple[int, int, str]:
        return self.done, self.total, self.note


class StageProgress:
    """`with StageProgress(console, "sample", total, "questions") as counter:` draws until the block ends."""

    def __init__(self, console: Console, stage: str, total: int, unit: str) -> None:
        self.console, self.stage, self.total, self.unit = console, stage, total, unit
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._draw, daemon=True)

    def __enter__(self) -> ActorHandle[Any]:
        self.counter = Counter.options(scheduling_strategy=beside_the_driver()).remote()  # type: ignore[attr-defined]
        self.started = time.monotonic()
        self.thread.start()
        return self.counter

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ended.set()
        self.thread.join()
        ray.kill(self.counter)

    def _draw(self) -> None:
        if self.console.is_terminal:
            self._draw_bar()
        else:
            self._print_lines()

    def _draw_bar(self) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn(f"{self.stage:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{self.unit} {{task.fields[rate]}}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as bars:
            bar = bars.add_task(self.stage, total=self.total or None, rate="", note="")
            while not self.ended.wait(SECONDS_BETWEEN_LOOKS):
                done, total, note = self._look()
                bars.update(bar, completed=done, total=total or None, rate=self._rate(done), note=note)

    def _print_lines(self) -> None:
        last = time.monotonic()
        while not self.ended.wait(SECONDS_BETWEEN_LOOKS):
            if time.monotonic() - last < SECONDS_BETWEEN_LINES:
                continue
            last = time.monotonic()
            done, total, note = self._look()
            left = f", {(total - done) * (last - self.started) / done:.0f} s left" if 0 < done <= total else ""
            self.console.print(f"{self.stage:<14} {done}/{total} {self.unit} {self._rate(done)}{left} {note}".rstrip())

    def _look(self) -> tuple[int, int, str]:
        try:
            done, total, note = ray.get(self.counter.read.remote(), timeout=10)
        except ray.exceptions.RayError:
            return 0, self.total, "counter not reachable"
        return done, total or self.total, note

    def _rate(self, done: int) -> str:
        return f"{done / (time.monotonic() - self.started):.1f}/s"
