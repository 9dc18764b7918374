"""Ends a process whose engine hangs, so that Ray starts another in its place."""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager


class Watchdog:
    """While requests are under way, at least one must finish within each span of `seconds`.

    Python's faulthandler watches from a thread of its own that needs no interpreter, so also where an engine holds that; it
    writes where every thread hangs to the process's error log, and ends the process.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.under_way = seconds, 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """One request, or another thing that must end."""
        self.under_way += 1
        if self.under_way == 1:
            faulthandler.dump_traceback_later(self.seconds, exit=True)
        try:
            yield
        finally:
            self.under_way -= 1
            faulthandler.cancel_dump_traceback_later()
            if self.under_way:
                faulthandler.dump_traceback_later(self.seconds, exit=True)
