"""`ray job submit` of a job file, as to a cluster: to a real head on this machine, its working directory uploaded."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray

from schemas import CandidateGroup, read_parquet

ROOT = Path(__file__).parent.parent.parent
SMALL = """
    --vft.epochs 1 --alignment.epochs 1 --task.difficulty 1 --task.train_questions 16 --task.references 16 --task.test_questions 8
    --sampling.k 2 --resources.sampling_actors [1,1] --resources.training_workers 1
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def head(tmp_path):
    """The address of a head's job server, and the process. What it has started ends with it."""
    ray.shutdown()
    port, job_server = free_port(), free_port()
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_ADDRESS": "",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(
            ["ray", "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
             f"--dashboard-port={job_server}", "--num-cpus=2"],
            env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    address = f"http://127.0.0.1:{job_server}"
    try:
        wait_for(address, process)
        yield address, environment, psutil.Process(process.pid)
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(60)
        _, left = psutil.wait_procs(started, timeout=60)
        assert not left, left


def wait_for(address: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, "the head ended"
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=2)
        except urllib.error.HTTPError:
            return  # it answers, and wants a token
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(address)


def working(head: psutil.Process) -> list[str]:
    """What of a run's processes a head has: its driver, workers, actors, tasks. (Some of Ray's own stay as long as it does.)"""
    found = []
    for process in head.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found.append(" ".join(process.cmdline()))
    of_run = re.compile(r"quickstart\.py|ray::(Map|RayTrainWorker|TrainController|Tally|Attempts)")
    return [title for title in found if of_run.search(title)]


def test_the_quickstart_is_submitted_stopped_half_way_and_submitted_again(head, tmp_path):
    address, environment, head_process = head
    run = tmp_path / "runs" / "submitted"

    def ray_job(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["ray", "job", arguments[0], "--address", address, *arguments[1:]]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=540)

    job = ["python", "jobs/quickstart.py", "--name", "submitted", "--runs_dir", str(tmp_path / "runs"), *SMALL.split()]
    ray_job("submit", "--working-dir", str(ROOT), "--no-wait", "--submission-id", "first", "--", *job)
    deadline = time.monotonic() + 300
    while not (run / "vft" / "manifest.json").exists():  # `ray job status` would take the cores that the job is to have
        assert time.monotonic() < deadline, ray_job("logs", "first").stdout[-3000:]
        time.sleep(0.2)
    ray_job("stop", "first")
    assert "was stopped" in ray_job("status", "first").stdout
    assert not (run / "summary.json").exists()
    deadline = time.monotonic() + 60
    while left := working(head_process):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
    held = subprocess.run(
        ["ray", "list", "placement-groups", "--address", address, "--filter", "state!=REMOVED"],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "No resource in the cluster" in held.stdout, held.stdout
    again = ray_job("submit", "--working-dir", str(ROOT), "--", *job)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "succeeded" in again.stdout
    assert re.search(r"vft +done before", again.stdout)
    summary = json.loads((run / "summary.json").read_text())
    assert [model["n"] for model in summary["models"]] == [8, 8]
    ids = [group.question.question_id for group in read_parquet(run / "sample" / "groups", CandidateGroup)]
    assert len(ids) == len(set(ids)) == 24


@pytest.mark.chaos
def test_what_no_machine_will_ever_hold_is_refused_and_not_waited_for(head, tmp_path):
    address, environment, _ = head
    job = ["python", "jobs/quickstart.py", "--name", "hopeless", "--runs_dir", str(tmp_path), *SMALL.split()]
    command = ["ray", "job", "submit", "--address", address, "--working-dir", str(ROOT), "--", *job]
    command += ["--resources.training_workers", "64"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert refused.returncode != 0
    assert "never have room for this run:\n  resources.training_workers: 64 x 1 CPU\n" in refused.stdout
    assert "Its nodes: 1 with 2 CPU, and none will be added" in refused.stdout
