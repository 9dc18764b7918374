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
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.cluster_utils import AutoscalingCluster

from schemas import CandidateGroup, read_parquet

ROOT = Path(__file__).parent.parent.parent
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
QUESTIONS = 160
COMMANDS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands",
    "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
)  # fmt: skip
COMMAND = f"""
    jobs/quickstart.py --name grown --task.train_questions {QUESTIONS - 16} --task.references 32 --task.test_questions 16
    --vft.epochs 1 --alignment.epochs 1 --sampling.k 4 --resources.training_workers 1 --resources.sampling_actors [2,2]
    --resources.cpus_per_sampling_actor 1
""".split()


class FakeCluster(AutoscalingCluster):
    """Ray's, with the settings that its package leaves out."""

    def _generate_config(self, head_resources, worker_node_types, autoscaler_v2=False, **more):
        head = {"resources": dict(head_resources), "node_config": {}, "max_workers": 0}
        provider = {"type": "external", "module": PROVIDER, "launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID}
        never = ("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check")
        empty = {name: [] for name in COMMANDS} | {name: {} for name in ("auth", "docker", "file_mounts")}
        return (
            empty
            | more
            | {
                "cluster_name": "fake",
                "max_workers": 8,
                "upscaling_speed": 1.0,
                "provider": provider | dict.fromkeys(never, True),
                "available_node_types": worker_node_types | {"ray.head.default": head},
                "head_node_type": "ray.head.default",
                "file_mounts_sync_continuously": False,
            }
        )


@pytest.mark.chaos
def test_a_cluster_grows_for_sampling_loses_a_node_and_shrinks(tmp_path, monkeypatch):
    ray.shutdown()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    node = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    cluster = FakeCluster({"CPU": 1}, {"worker": node}, autoscaler_v2=True, idle_timeout_minutes=0.5)
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
