"""Processes killed in the middle of their work: the stage ends all the same, with what it would have had without."""

import json
import threading
import time
from dataclasses import replace

import psutil
import pytest
import ray
import torch
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from transformers import AutoModelForCausalLM, AutoTokenizer

from aft_ray.config import LabellingConfig, ModelConfig, ResourcesConfig, SamplingConfig, TrainingConfig
from aft_ray.progress import Counter
from aft_ray.sampling.engine import EngineSettings
from aft_ray.sampling.stream import sample_candidates
from aft_ray.tasks import TASKS
from aft_ray.tasks.arithmetic import generate
from aft_ray.training.job import TrainingJob
from aft_ray.training.trainer import run_training
from schemas import CandidateGroup, Question, read_parquet, write_parquet
from tests.conftest import WITHIN, tokenized

pytestmark = [pytest.mark.usefixtures("ray_session"), WITHIN]


class KillOnce(threading.Thread):
    """Kills one process of that title as soon as `ready()` says so. It looks for as long as the test lasts."""

    def __init__(self, title: str, ready) -> None:
        super().__init__(daemon=True)
        self.title, self.ready, self.killed = title, ready, None
        self.start()

    def run(self) -> None:
        while self.killed is None:
            if self.ready():
                found = [p for p in psutil.process_iter(["cmdline"]) if self.title in " ".join(p.info["cmdline"] or [])]
                if found:
                    found[0].kill()
                    self.killed = found[0].pid
            time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(tiny_llama, tmp_path_factory) -> TrainingJob:
    records = tmp_path_factory.mktemp("records")
    questions = tokenized(generate("train", 12, 0, 1), AutoTokenizer.from_pretrained(tiny_llama))
    write_parquet(records / "questions.parquet", Question, questions)
    job = TrainingJob(
        model=ModelConfig(path=tiny_llama, precision="fp32"),
        training=TrainingConfig(learning_rate=1e-3, epochs=12, questions_per_step=4, steps_per_checkpoint=8),
        resources=ResourcesConfig(training_workers=2, zero_stage=2),
        seed=0,
        task_weights={},
        records=records,
        out=tmp_path_factory.mktemp("undisturbed"),
        counter=None,
    )
    run_training(job)
    return job


def same_training(one: TrainingJob, other: TrainingJob) -> None:
    histories = [json.loads((job.out / "training.json").read_text())["history"] for job in (one, other)]
    assert len(histories[0]) == len(histories[1]) == 36
    assert histories[0] == histories[1]
    models = [AutoModelForCausalLM.from_pretrained(job.out / "model", dtype=torch.float32) for job in (one, other)]
    for (name, mine), (_, its) in zip(models[0].named_parameters(), models[1].named_parameters(), strict=True):
        assert torch.equal(mine, its), name


def test_a_killed_training_worker_changes_nothing(undisturbed, tmp_path):
    disturbed = replace(undisturbed, out=tmp_path)
    killer = KillOnce("RayTrainWorker", lambda: any(tmp_path.glob("checkpoints/checkpoint_*")))
    run_training(disturbed)
    assert killer.killed is not None
    same_training(undisturbed, disturbed)


def end_of_driver() -> None:
    """What its controller held goes with it. (Ray Train's own cleaner asks the dashboard, which is not there.)"""
    for name, held in placement_group_table().items():
        if held["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))
    # To Ray Data its CPUs are taken for another three minutes, in which no pool grows.
    ray.kill(get_or_create_autoscaling_coordinator())


@pytest.mark.chaos
def test_a_killed_controller_ends_the_training_and_the_next_start_goes_on(undisturbed, tmp_path):
    disturbed = replace(undisturbed, out=tmp_path)
    killer = KillOnce("TrainController", lambda: any(tmp_path.glob("checkpoints/checkpoint_*")))
    with pytest.raises(RayActorError):
        run_training(disturbed)
    assert killer.killed is not None
    assert not (tmp_path / "training.json").exists()
    end_of_driver()
    run_training(disturbed)
    same_training(undisturbed, disturbed)


@pytest.mark.chaos
def test_a_killed_sampling_actor_and_an_interrupted_stream_lose_and_double_nothing(tiny_llama, tmp_path):
    questions = tokenized(generate("train", 96, 0, 1), AutoTokenizer.from_pretrained(tiny_llama))
    (tmp_path / "questions").mkdir()
    write_parquet(tmp_path / "questions" / "questions.parquet", Question, questions)
    settings = EngineSettings(
        model=ModelConfig(path=tiny_llama, precision="fp32"),
        model_fingerprint="tiny",
        tasks=TASKS,
        labelling=LabellingConfig(),
        sampling=SamplingConfig(k=4, max_prompt_tokens=120, max_new_tokens=120),
        resources=ResourcesConfig(sampling_actors=(1, 1)),
        seed=0,
    )
    out = tmp_path / "groups"
    killer = KillOnce("MapWorker(MapBatches(SamplingActor))", lambda: any(out.glob("*.parquet")))
    sample_candidates(tmp_path / "questions", out, settings, Counter.remote())
    assert killer.killed is not None
    groups = read_parquet(out, CandidateGroup)
    assert sorted(g.question.question_id for g in groups) == sorted(q.question_id for q in questions)
    assert {len(group.candidates) for group in groups} == {4}

    # As a driver leaves it that is killed: some blocks are missing, one is half written. The rest is not made again.
    first, second, *kept = sorted(out.glob("*.parquet"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    before = {file: file.read_bytes() for file in kept}
    sample_candidates(tmp_path / "questions", out, settings, Counter.remote())
    assert {file: file.read_bytes() for file in kept} == before
    again = {group.question.question_id: group for group in read_parquet(out, CandidateGroup)}
    assert again.keys() == {question.question_id for question in questions}
    assert len(read_parquet(out, CandidateGroup)) == len(questions)
