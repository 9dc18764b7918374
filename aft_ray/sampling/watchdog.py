"""Ends a process whose engine hangs, so that Ray starts another in its place."""

import faulthandler
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class Watchdog:
    """While requests are under way, at least one must finish, or a step of the engine be made, within each span of `seconds`.

    Python's faulthandler watches from a thread of its own that needs no interpreter, so also where an engine holds that; it
    writes where every thread hangs to the process's error log, and ends the process.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.under_way, self.lock = seconds, 0, Lock()
        self.began = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """One request, or another thing that must end."""
        with self.lock:
            self.under_way += 1
            if self.under_way == 1:
                self._begin_span()
        try:
            yield
        finally:
            with self.lock:
                self.under_way -= 1
                self._begin_span()

    def hear(self) -> None:
        """A sign of life from the engine's own thread: on a CPU it may well finish nothing for longer than a span."""
        with self.lock:
            if time.monotonic() - self.began > self.seconds / 100:  # each span is a thread anew
                self._begin_span()

    def _begin_span(self) -> None:
        """Of which there is none while nothing is under way."""
        if self.under_way:
            faulthandler.dump_traceback_later(self.seconds, exit=True)
            self.began = time.monotonic()
        else:
            faulthandler.cancel_dump_traceback_later()
