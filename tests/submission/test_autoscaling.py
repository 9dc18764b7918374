"""A run on a cluster that grows and shrinks: Ray's autoscaler, real nodes as processes of this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import AutoscalingCluster

from schemas import CandidateGroup, read_parquet

ROOT = Path(__file__).parent.parent.parent
QUESTIONS = 64
COMMAND = f"""
    jobs/quickstart.py --name grown --task.train_questions {QUESTIONS - 16} --task.references 32 --task.test_questions 16
    --vft.epochs 1 --alignment.epochs 1 --sampling.k 4 --resources.training_workers 1 --resources.sampling_actors [2,2]
    --resources.cpus_per_sampling_actor 1
""".split()


@pytest.mark.chaos
def test_a_cluster_grows_for_sampling_loses_a_node_and_shrinks(tmp_path):
    ray.shutdown()
    node = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    cluster = AutoscalingCluster({"CPU": 1}, {"worker": node}, autoscaler_v2=True, idle_timeout_minutes=0.5)
    cluster.start()
    try:
        ray.init(address="auto", log_to_driver=False)
        environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        with (tmp_path / "driver.log").open("w") as log:
            command = [sys.executable, *COMMAND, "--runs_dir", str(tmp_path)]
            driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        sizes, killed, deadline = [alive()], False, time.monotonic() + 540
        while driver.poll() is None and time.monotonic() < deadline:
            sizes.append(alive())
            if not killed and sizes[-1] == 3 and list((tmp_path / "grown").glob(".sample-*/groups/*.parquet")):
                youngest_raylet().kill()
                killed = True
            time.sleep(0.5)
        assert driver.returncode == 0, (tmp_path / "driver.log").read_text()[-3000:]
        assert sizes[0] == 1
        assert max(sizes) == 3
        assert killed
        groups = read_parquet(tmp_path / "grown" / "sample" / "groups", CandidateGroup)
        assert len({group.question.question_id for group in groups}) == len(groups) == QUESTIONS
        assert json.loads((tmp_path / "grown" / "summary.json").read_text())["models"]
        deadline = time.monotonic() + 180
        while alive() > 1:
            assert time.monotonic() < deadline, "nodes that nothing needs stay"
            time.sleep(1)
    finally:
        ray.shutdown()
        cluster.shutdown()


def alive() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def youngest_raylet() -> psutil.Process:
    found = [process for process in psutil.process_iter(["name", "create_time"]) if process.info["name"] == "raylet"]
    return max(found, key=lambda process: process.info["create_time"])
