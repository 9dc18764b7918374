"""An engine that gives no sign of life ends its process, and only such a one. Each in a process of its own, that it may end."""

import subprocess
import sys

import pytest

BEGIN = """
import time
from aft_ray.sampling.watchdog import Watchdog

def hear(watchdog, seconds):
    for _ in range(round(10 * seconds)):
        time.sleep(0.1)
        watchdog.hear()

watchdog = Watchdog(1.0)
"""


@pytest.mark.parametrize(
    ("work", "ends"),
    [
        ("with watchdog.watching(): hear(watchdog, 2)", False),
        ("with watchdog.watching(): hear(watchdog, 2); time.sleep(2)", True),
        ("with watchdog.watching(): time.sleep(2)", True),
        # One of two has finished: the other has a span from then on.
        ("with watchdog.watching():\n  with watchdog.watching(): time.sleep(0.7)\n  time.sleep(0.7)", False),
        ("with watchdog.watching():\n  with watchdog.watching(): pass\n  time.sleep(2)", True),
        # An engine with nothing to do makes no steps for hours, and its last one may be told of late.
        ("with watchdog.watching(): pass\nwatchdog.hear(); time.sleep(2)", False),
    ],
)
def test_only_who_is_silent_for_a_span_is_ended(work, ends):
    done = subprocess.run([sys.executable, "-c", BEGIN + work], capture_output=True, text=True, timeout=60)
    assert done.returncode == (1 if ends else 0), done.stderr
    assert ("Timeout" in done.stderr) is ends
