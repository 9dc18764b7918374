"""Training on nodes that are taken away with a notice, and come back: Ray's own cluster for tests, real processes."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from transformers import AutoTokenizer

from aft_ray.cluster import connect
from aft_ray.config import ModelConfig, ResourcesConfig, TrainingConfig
from aft_ray.tasks.arithmetic import generate
from aft_ray.training import trainer, worker
from aft_ray.training.job import TrainingJob
from aft_ray.training.trainer import run_training
from schemas import Question, write_parquet
from tests.conftest import tokenized

RAY = Path(sys.executable).parent / "ray"
EPOCHS = 30
STEPS = 3 * EPOCHS


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    ray.shutdown()
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", found.address)
    connect(tmp_path / "ray")
    yield found
    ray.shutdown()
    found.shutdown()


def slowly(told: Path):
    """The worker, a second a step, and a file a step that says how many there were."""

    def train_worker(settings):
        import torch

        usual = worker.train_step

        def step(engine, *given):
            time.sleep(1)
            (told / f"{engine.global_steps + 1}-{torch.distributed.get_world_size()}").touch()
            return usual(engine, *given)

        worker.train_step = step
        worker.train_worker(settings)

    return train_worker


def wait_for(found, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.mark.chaos
def test_a_node_goes_with_a_notice_and_another_comes_and_the_losses_stay_the_same(cluster, tiny_llama, tmp_path, monkeypatch):
    (records := tmp_path / "records").mkdir()
    questions = tokenized(generate("train", 12, 0, 1), AutoTokenizer.from_pretrained(tiny_llama))
    write_parquet(records / "questions.parquet", Question, questions)
    job = TrainingJob(
        model=ModelConfig(path=tiny_llama, precision="fp32"),
        training=TrainingConfig(learning_rate=1e-3, epochs=EPOCHS, questions_per_step=4, steps_per_checkpoint=STEPS + 1),
        resources=ResourcesConfig(training_workers=2, fewest_training_workers=1, zero_stage=3),
        seed=0,
        task_weights={},
        records=records,
        out=tmp_path / "undisturbed",
        counter=None,
    )
    stays, goes = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    job.out.mkdir()
    run_training(job)

    disturbed = replace(job, out=tmp_path / "disturbed")
    disturbed.out.mkdir()
    (told := tmp_path / "told").mkdir()
    monkeypatch.setattr(trainer, "train_worker", slowly(told))
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_RESIZES", 5.0)

    def steps_with(workers: int) -> list[int]:
        return sorted(int(file.name.split("-")[0]) for file in told.glob(f"*-{workers}"))

    ended = []
    training = threading.Thread(target=lambda: (run_training(disturbed), ended.append(True)), daemon=True)
    training.start()
    wait_for(lambda: len(steps_with(2)) >= 5, 120, "no training")
    notice = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "60"]
    command = [str(RAY), "drain-node", "--address", cluster.address, "--node-id", goes.node_id, *notice]
    subprocess.run(command, check=True, capture_output=True)
    wait_for(lambda: any(disturbed.out.glob("checkpoints/checkpoint_*")), 60, "no checkpoint after the notice")
    saved = steps_with(2)[-1]  # by nothing but the notice
    wait_for(lambda: steps_with(1), 180, "it did not go on with one worker")
    assert 1 < steps_with(1)[0] <= saved + 1, "it did not go on from there"
    if any(node.node_id == goes.node_id for node in cluster.worker_nodes):
        cluster.remove_node(goes, allow_graceful=False)
    wait_for(lambda: len(steps_with(1)) >= 5, 60, "it stands with one worker")
    last_of_two = steps_with(2)[-1]
    cluster.add_node(num_cpus=1)
    wait_for(lambda: steps_with(2)[-1] > last_of_two, 180, "it did not take the second worker back")
    training.join(300)
    assert ended
    assert stays in cluster.worker_nodes
    histories = [json.loads((of.out / "training.json").read_text())["history"] for of in (job, disturbed)]
    expected, found = ([step["loss"] for step in history] for history in histories)
    assert len(found) == STEPS
    assert found == pytest.approx(expected, abs=1e-3)
