"""DeepSpeed's operators, compiled at their first use: one process at a time, whatever a killed one has left behind."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

from aft_ray.config import ResourcesConfig
from aft_ray.training.compiling import only_one_compiles


def compile_for_ever(folder: Path) -> None:
    """As PyTorch does: its lock is a file."""
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    with only_one_compiles("adam"):
        (folder / "adam" / "lock").touch()
        time.sleep(10**6)


def compile_at_once(folder: Path) -> None:
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    import torch.utils.cpp_extension  # noqa: F401  (so that nothing but the lock takes time from here on)

    (folder / "comes").touch()
    with only_one_compiles("adam"):
        assert not (folder / "adam" / "lock").exists(), "PyTorch would wait for it"
        (folder / "compiled").touch()


def wait_for(file: Path, made_by: multiprocessing.Process) -> None:
    while not file.exists():
        assert made_by.is_alive()
        time.sleep(0.05)


def test_one_waits_for_another_and_for_a_killed_one_no_longer(tmp_path):
    context = multiprocessing.get_context("spawn")
    first, second = (context.Process(target=work, args=(tmp_path,), daemon=True) for work in (compile_for_ever, compile_at_once))
    first.start()
    wait_for(tmp_path / "adam" / "lock", first)
    second.start()
    wait_for(tmp_path / "comes", second)
    second.join(2)
    assert second.is_alive()
    assert not (tmp_path / "compiled").exists()
    os.kill(first.pid, signal.SIGKILL)
    second.join(60)
    assert second.exitcode == 0
    assert (tmp_path / "compiled").exists()


def test_training_on_a_cpu_compiles_nothing_for_inference(tmp_path, monkeypatch):
    from aft_ray.training.engine import prepare_environment

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    prepare_environment(ResourcesConfig())
    from deepspeed.comm.torch import build_shm_op

    assert build_shm_op() is None
    assert not list(tmp_path.iterdir())
