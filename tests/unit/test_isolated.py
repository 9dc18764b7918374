"""Calls that hang, crash, eat memory or raise cost themselves alone, and end within their limit."""

import os
import signal
import time

import psutil
import pytest

from aft_ray.isolated import Isolated, NotLoadableError

HERE = "tests.unit.test_isolated"


def double(number):
    return 2 * number


def hang_in_c():
    """A computation in C holds the interpreter: no signal handler runs, no thread either."""
    return len(str(7 ** (10**9)))


def sleep():
    time.sleep(60)


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def leave():
    os._exit(3)


def fail():
    raise ValueError("no such thing")


def eat():
    return len(bytearray(20 * 2**30))


@pytest.fixture
def isolated():
    process = Isolated(0.5)
    assert process.call(f"{HERE}:double", 4).value == 8
    yield process
    process.close()


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        ("hang_in_c", "took longer than 0.5 s"),
        ("sleep", "took longer than 0.5 s"),
        ("crash", "crashed (SIGSEGV)"),
        ("leave", "crashed (exit code 3)"),
        ("fail", "ValueError: no such thing"),
        ("eat", "MemoryError: "),
    ],
)
def test_a_call_that_does_not_return_says_why_and_the_next_one_works(isolated, function, failure):
    started = time.monotonic()
    isolated.load(f"{HERE}:{function}")
    outcome = isolated.call(f"{HERE}:{function}")
    assert (outcome.value, outcome.failure) == (None, failure)
    assert isolated.call(f"{HERE}:double", 21).value == 42
    assert time.monotonic() - started < 30


def test_hanging_calls_in_a_row_leave_everything_as_it_was():
    isolated, before = Isolated(0.05), psutil.Process()
    isolated.load(f"{HERE}:hang_in_c")
    descriptors, children = before.num_fds(), len(before.children())
    for _ in range(40):
        assert isolated.call(f"{HERE}:hang_in_c").failure == "took longer than 0.05 s"
    assert isolated.call(f"{HERE}:double", 1).value == 2
    assert (before.num_fds(), len(before.children())) == (descriptors, children)
    isolated.close()
    assert len(before.children()) == children - 1


def test_a_process_whose_asker_is_gone_ends():
    isolated = Isolated(5.0)
    isolated.load(f"{HERE}:double")
    process = psutil.Process(isolated._process.pid)
    isolated._connection.close()
    assert process.wait(timeout=20) == 0


@pytest.mark.parametrize("function", ["no.such.module:check", f"{HERE}:nothing_of_that_name"])
def test_a_function_that_is_not_there_is_told_at_once(function):
    isolated = Isolated(5.0)
    with pytest.raises(NotLoadableError, match=function):
        isolated.call(function, 1)
    isolated.close()
