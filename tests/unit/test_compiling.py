"""DeepSpeed's operators, compiled at their first use: one process at a time, whatever a killed one has left behind."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

from aft_ray.training.engine import only_one_compiles


def compile_for_ever(folder: Path) -> None:
    """As PyTorch does: its lock is a file."""
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    with only_one_compiles("adam"):
        (folder / "adam" / "lock").touch()
        time.sleep(10**6)


def compile_at_once(folder: Path) -> None:
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    with only_one_compiles("adam"):
        assert not (folder / "adam" / "lock").exists(), "PyTorch would wait for it"
        (folder / "compiled").touch()


def test_one_waits_for_another_and_for_a_killed_one_no_longer(tmp_path):
    context = multiprocessing.get_context("spawn")
    first, second = (context.Process(target=work, args=(tmp_path,)) for work in (compile_for_ever, compile_at_once))
    first.start()
    while not (tmp_path / "adam" / "lock").exists():
        assert first.is_alive()
        time.sleep(0.05)
    second.start()
    second.join(15)
    assert second.is_alive()
    assert not (tmp_path / "compiled").exists()
    os.kill(first.pid, signal.SIGKILL)
    second.join(60)
    assert second.exitcode == 0
    assert (tmp_path / "compiled").exists()
