"""Ctrl-C or SIGTERM while engines are at work: the run ends at once, says how to go on, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray

from aft_ray.cli import INTERRUPTED, TERMINATED
from schemas import CandidateGroup, read_parquet

ROOT = Path(__file__).parent.parent.parent
SMALL = """
    --vft.epochs 1 --alignment.epochs 1 --task.difficulty 1 --task.train_questions 300 --task.references 16
    --task.test_questions 20 --sampling.k 2 --resources.sampling_actors [1,1] --resources.training_workers 1
"""


@pytest.mark.chaos
@pytest.mark.parametrize(("told_to_stop", "status"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
def test_who_is_told_to_stop_leaves_a_run_that_goes_on_no_processes_and_no_shared_memory(told_to_stop, status, tmp_path):
    ray.shutdown()
    shared_before = set(os.listdir("/dev/shm"))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "jobs/quickstart.py", "--name", "stopped", "--runs_dir", str(tmp_path), *SMALL.split()]
    # Started in the background of a shell, this process ignores the signal, and what it starts would too.
    heeds = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, **heeds)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "stopped").glob(".sample-*/groups/*.parquet")):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    processes = psutil.Process(driver.pid).children(recursive=True)
    assert any("SamplingActor" in " ".join(process.cmdline()) for process in processes if process.is_running())
    driver.send_signal(told_to_stop)
    told, _ = driver.communicate(timeout=60)
    assert driver.returncode == status
    assert "Stopped. The same command goes on from here." in told
    _, left = psutil.wait_procs(processes, timeout=30)
    assert not left
    assert set(os.listdir("/dev/shm")) <= shared_before
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, again.stdout[-3000:]
    assert re.search(r"vft +done before", again.stdout)
    ids = [group.question.question_id for group in read_parquet(tmp_path / "stopped" / "sample" / "groups", CandidateGroup)]
    assert len(ids) == len(set(ids)) == 320
