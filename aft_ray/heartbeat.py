"""A process of a stage says again and again that it stands, and how busy it is: so what stands is counted, whatever ends one."""

import threading
import time
from collections.abc import Callable

import psutil

SECONDS_BETWEEN_BEATS = 10.0
Use = dict[str, float]
"""`cores`: that a process and its children kept busy; `gpu`: share of the time in which its GPU computed. Since the last beat."""


def keep_beating(beat: Callable[[Use], object], gpu: int | None) -> None:
    """From this process, as long as it lives; the first time at once, when nothing is known of its use.

    `gpu`: which of those that it sees it computes on, the first one where there are several; None without.
    """

    def go_on() -> None:
        busy, since = cpu_seconds(), time.monotonic()
        beat({})
        while True:
            time.sleep(SECONDS_BETWEEN_BEATS)
            before, until = busy, since
            busy, since = cpu_seconds(), time.monotonic()
            # A child that has ended takes its seconds along.
            beat({"cores": max(0.0, busy - before) / (since - until)} | gpu_use(gpu))

    threading.Thread(target=go_on, daemon=True).start()


def cpu_seconds() -> float:
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def gpu_use(gpu: int | None) -> Use:
    """As NVML tells it, of its last moments; nothing where it cannot."""
    if gpu is None:
        return {}
    import torch

    try:
        return {"gpu": torch.cuda.utilization(gpu) / 100}
    except Exception:  # NVML's errors are of a class of their own, and who only wants to know must not fall silent of them
        return {}
