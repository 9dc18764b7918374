"""Calls in a process of their own that can be killed: checks that may hang, crash or eat all memory, and users' functions.

Neither a signal handler nor a thread stops a computation inside a C library (github.com/huggingface/Math-Verify/issues/65,
github.com/volcengine/verl/issues/5635), so the caller waits no longer than the limit and then kills the process. What
happened to one call costs no other call anything but the start of a new process.
"""

import functools
import importlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

# The first start imports sympy, and on a loaded machine that takes long; it is no part of any call's limit.
START_SECONDS = 180.0
MEMORY_BYTES = 4 * 2**30


class NotLoadableError(Exception):
    """A function that was named as module:name cannot be imported."""


@dataclass(frozen=True)
class Outcome:
    """What a call returned, or why it did not."""

    value: Any = None
    failure: str | None = None


class Isolated:
    """One such process, started when it is first needed. Safe to share among threads; calls come one after the other."""

    def __init__(self, limit_seconds: float) -> None:
        self.limit_seconds = limit_seconds
        self.starts = 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._loaded: set[str] = set()

    def call(self, function: str, *arguments: Any) -> Outcome:
        """The outcome of module:name(*arguments). Raises NotLoadableError where there is no such function."""
        with self._lock:
            self._load(function)
            return self._ask((function, arguments, self.limit_seconds), self.limit_seconds)

    def load(self, function: str) -> None:
        """Raises NotLoadableError where there is no such function."""
        with self._lock:
            self._load(function)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None
        self._loaded.clear()

    def _load(self, function: str) -> None:
        if function in self._loaded:
            return
        if self._process is None:
            self._start()
        outcome = self._ask((function, None, START_SECONDS), START_SECONDS)
        if outcome.failure is not None:
            raise NotLoadableError(f"{function} cannot be imported: {outcome.failure}")
        self._loaded.add(function)

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        # The same modules as here, the user's own included: a Ray job's working directory stands in sys.path alone.
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "aft_ray.isolated", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self.starts += 1

    def _ask(self, message: Any, limit_seconds: float) -> Outcome:
        assert self._connection is not None
        assert self._process is not None
        try:
            self._connection.send(message)
            if self._connection.poll(limit_seconds):
                outcome: Outcome = self._connection.recv()
                return outcome
            failure = f"took longer than {limit_seconds:g} s"
        except (EOFError, OSError):
            failure = f"crashed ({_how_it_ended(self._process)})"
        self.close()
        return Outcome(failure=failure)


@functools.cache
def shared(limit_seconds: float) -> Isolated:
    """The one of this process."""
    return Isolated(limit_seconds)


def resolve(function: str) -> Callable[..., Any]:
    """The function that module:name names."""
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def serve(connection: Connection) -> None:
    """The other side: calls what it is asked to until the asker is gone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    while True:
        try:
            function, arguments, limit_seconds = connection.recv()
        except EOFError:
            return
        # Should the asker be killed while this hangs, the kernel ends it all the same.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit_seconds + 1)
        try:
            found = resolve(function)
            outcome = Outcome() if arguments is None else Outcome(found(*arguments))
        except Exception as error:
            outcome = Outcome(failure=f"{type(error).__name__}: {error}"[:300])
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(outcome)


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "no answer"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


if __name__ == "__main__":
    # As this module's own name, so that outcomes are pickled as the asker knows them.
    importlib.import_module("aft_ray.isolated").serve(Connection(int(sys.argv[1])))
