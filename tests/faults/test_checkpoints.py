"""Checkpoints that are broken, orphaned, of another number of workers; a loss that is no number; workers that fail at a step."""

import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import ray.train
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aft_ray.config import LoraConfig, ModelConfig, ResourcesConfig, TrainingConfig
from aft_ray.tasks import BadInputError
from aft_ray.tasks.arithmetic import generate
from aft_ray.training import trainer, worker
from aft_ray.training.divergence import DivergedError
from aft_ray.training.job import TrainingJob
from aft_ray.training.snapshot import ABOUT, SNAPSHOT, About, listing, names_in, prepare_resuming
from aft_ray.training.trainer import run_training
from schemas import Question, write_parquet
from tests.conftest import WITHIN, tokenized

pytestmark = [pytest.mark.usefixtures("ray_session"), WITHIN]
STEPS = 9


@dataclass(frozen=True)
class FailAt:
    """Ends a worker's process somewhere in a step, or makes its loss a `value`. `once`: a file that tells that it has struck."""

    step: int
    once: Path | None = None
    value: float | None = None
    where: str = "before forward"

    def __call__(self, usual, engine, *given):
        if engine.global_steps + 1 == self.step and (self.once is None or not self.once.exists()):
            if self.value is not None:
                return {"loss": self.value}
            if torch.distributed.get_rank() == 1:
                self.strike(engine)
        return usual(engine, *given)

    def strike(self, engine) -> None:
        match self.where:
            case "before forward":
                self.end()
            case "in backward":
                next(engine.module.parameters()).register_hook(self.end)
            case "before the optimizer's step":
                engine.step = self.end
            case "while saving":
                engine.save_checkpoint = self.save_half
            case "between saving and reporting":
                ray.train.report = self.end

    def end(self, *given, **named) -> None:
        self.once.touch()
        os._exit(1)

    def save_half(self, folder, **named) -> None:
        """As a full disk or a kill leaves it."""
        (Path(folder) / "zero_pp_rank_1_mp_rank_00_optim_states.pt").write_bytes(b"half")
        self.end()


def failing(fail: FailAt):
    """The worker with that in its way."""

    def train_worker(settings):
        usual = worker.train_step
        worker.train_step = lambda *given: fail(usual, *given)
        worker.train_worker(settings)

    return train_worker


@pytest.fixture(scope="module")
def job(tiny_llama, tmp_path_factory) -> TrainingJob:
    records = tmp_path_factory.mktemp("records")
    questions = tokenized(generate("train", 12, 0, 1), AutoTokenizer.from_pretrained(tiny_llama))
    write_parquet(records / "questions.parquet", Question, questions)
    return TrainingJob(
        model=ModelConfig(path=tiny_llama, precision="fp32"),
        training=TrainingConfig(learning_rate=1e-3, epochs=3, questions_per_step=4, steps_per_checkpoint=2),
        resources=ResourcesConfig(training_workers=2, zero_stage=3),
        seed=0,
        task_weights={},
        records=records,
        out=tmp_path_factory.mktemp("undisturbed"),
        counter=None,
    )


@pytest.fixture(scope="module")
def undisturbed(job) -> TrainingJob:
    run_training(job)
    return job


@pytest.fixture(scope="module")
def undisturbed_alone(job, tmp_path_factory) -> TrainingJob:
    """In this process: nothing to start, and to rounding the same."""
    resources = job.resources.model_copy(update={"training_workers": 0})
    alone = replace(job, out=tmp_path_factory.mktemp("alone"), resources=resources)
    run_training(alone)
    return alone


def history(job: TrainingJob) -> list[dict[str, float]]:
    return json.loads((job.out / "training.json").read_text())["history"]


def weights(job: TrainingJob) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(job.out / "model", dtype=torch.float32).named_parameters())


def checkpoints(job: TrainingJob) -> list[Path]:
    """Those that are kept, the newest last. Others may not be removed yet."""
    folder = job.out / "checkpoints"
    kept = json.loads((folder / "checkpoint_manager_snapshot.json").read_text())["checkpoint_results"]
    return [folder / result["checkpoint_dir_name"] for result in kept]


def stopped_at(step: int, job: TrainingJob, monkeypatch) -> None:
    """The training up to there, as a killed driver leaves it."""
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_worker", failing(FailAt(step, value=float("nan"))))
        with pytest.raises(DivergedError):
            run_training(job)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.chaos)])
def test_a_broken_newest_checkpoint_and_another_number_of_workers_change_nothing(workers, job, tmp_path, monkeypatch, request):
    """Stopped at step 7, its checkpoint of step 6 broken, an orphan beside it: it goes on from step 4, with 2 workers or 1."""
    disturbed = replace(job, out=tmp_path)
    undisturbed = request.getfixturevalue("undisturbed" if workers == 2 else "undisturbed_alone")
    stopped_at(7, disturbed, monkeypatch)
    (_, newest) = checkpoints(disturbed)
    broken = sorted(newest.rglob("*optim_states.pt"))[0]
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 0xFF
    broken.write_bytes(content)
    orphan = disturbed.out / "checkpoints" / "checkpoint_of_a_killed_worker"
    orphan.mkdir()
    (orphan / "half.pt").write_bytes(b"half")
    resumed = replace(disturbed, resources=job.resources.model_copy(update={"training_workers": workers}))
    run_training(resumed)
    assert not orphan.exists()
    expected, found = history(undisturbed), history(resumed)
    assert len(found) == len(expected) == STEPS
    for name, weight in weights(resumed).items():
        other = weights(undisturbed)[name]
        assert torch.equal(weight, other) if workers == 2 else torch.allclose(weight, other, atol=1e-5), name
    for before, after in zip(expected, found, strict=True):
        assert after == (before if workers == 2 else pytest.approx(before, abs=1e-3))


@pytest.mark.chaos
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_from_two_workers_to_one_and_back_the_losses_stay_the_same(zero_stage, job, undisturbed, tmp_path, monkeypatch):
    def with_workers(number: int) -> TrainingJob:
        resources = job.resources.model_copy(update={"training_workers": number, "zero_stage": zero_stage})
        return replace(job, out=tmp_path, resources=resources)

    stopped_at(4, with_workers(2), monkeypatch)
    stopped_at(7, with_workers(1), monkeypatch)
    run_training(with_workers(2))
    expected, found = ([step["loss"] for step in history(of)] for of in (undisturbed, with_workers(2)))
    assert len(found) == STEPS
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.chaos
@pytest.mark.parametrize("zero_stage", [3, 2])
def test_adapters_go_on_from_a_small_checkpoint_with_another_number_of_workers(zero_stage, job, tmp_path, monkeypatch):
    """Of the model nothing is in it. Two workers up to step 7, one from step 6 on, against none, in this process."""
    training = job.training.model_copy(update={"lora": LoraConfig(rank=4)})

    def with_workers(number: int, out: Path) -> TrainingJob:
        resources = job.resources.model_copy(update={"training_workers": number, "zero_stage": zero_stage})
        return replace(job, training=training, resources=resources, out=out)

    expected, disturbed = with_workers(0, tmp_path / "expected"), with_workers(2, tmp_path / "disturbed")
    run_training(expected)
    stopped_at(7, disturbed, monkeypatch)
    size = sum(file.stat().st_size for file in checkpoints(disturbed)[-1].rglob("*.pt"))
    assert size < 0.3 * (job.model.path / "model.safetensors").stat().st_size
    run_training(with_workers(1, disturbed.out))
    losses = [step["loss"] for step in history(expected)]
    assert [step["loss"] for step in history(disturbed)] == pytest.approx(losses, abs=1e-3)
    for name, weight in weights(disturbed).items():
        assert torch.allclose(weight, weights(expected)[name], atol=1e-5), name


def test_a_loss_that_is_no_number_stops_training_at_once_and_names_its_questions(job, tmp_path, monkeypatch):
    disturbed = replace(job, out=tmp_path, resources=ResourcesConfig(training_workers=0, zero_stage=0))
    usual, fail = worker.train_step, FailAt(5, value=float("nan"))
    monkeypatch.setattr(worker, "train_step", lambda *given: fail(usual, *given))
    with pytest.raises(DivergedError, match=r"step 5: loss no finite number any more. Its batch: (arithmetic-\w+(, |\. )){4}"):
        run_training(disturbed)
    assert not (disturbed.out / "model").exists()
    assert not (disturbed.out / "diverged.json").exists(), "the next run tries again"


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_gradient_that_is_no_number_stops_training_too(zero_stage, job, tmp_path, monkeypatch):
    usual = worker.start_engine

    def with_an_infinite_gradient(*given, **named):
        engine = usual(*given, **named)
        parameter = next(engine.module.parameters())
        parameter.register_hook(lambda gradient: gradient * float("inf"))
        return engine

    monkeypatch.setattr(worker, "start_engine", with_an_infinite_gradient)
    disturbed = replace(job, out=tmp_path, resources=ResourcesConfig(training_workers=0, zero_stage=zero_stage))
    with pytest.raises(DivergedError, match="step 1: gradient_norm no finite number any more"):
        run_training(disturbed)
    assert not (disturbed.out / "model").exists()


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("step", "where"),
    [
        *((step, "before forward") for step in (1, 2, 3, STEPS)),
        (3, "in backward"),
        (3, "before the optimizer's step"),
        (4, "while saving"),
        (4, "between saving and reporting"),
    ],
)
def test_a_worker_that_fails_in_a_step_changes_nothing(step, where, job, undisturbed, tmp_path, monkeypatch):
    """The checkpoints are of steps 2, 4, 6 and 8, an epoch has three."""
    out = tmp_path / "out"
    out.mkdir()
    disturbed, once = replace(job, out=out), tmp_path / "failed"
    monkeypatch.setattr(trainer, "train_worker", failing(FailAt(step, once, where=where)))
    run_training(disturbed)
    assert once.exists()
    assert history(disturbed) == history(undisturbed)
    for name, weight in weights(disturbed).items():
        assert torch.equal(weight, weights(undisturbed)[name]), name


@pytest.mark.chaos
def test_ray_s_list_of_checkpoints_half_written_loses_none_of_them(job, undisturbed, tmp_path, monkeypatch):
    disturbed = replace(job, out=tmp_path)
    stopped_at(7, disturbed, monkeypatch)
    snapshot = disturbed.out / "checkpoints" / SNAPSHOT
    snapshot.write_text(snapshot.read_text()[:100])
    # Begun anew it would come to step 3 again, and stop there.
    monkeypatch.setattr(trainer, "train_worker", failing(FailAt(3, value=float("nan"))))
    run_training(disturbed)
    assert history(disturbed) == history(undisturbed)


@pytest.mark.parametrize("content", [b"", b'{"step": 4, "wor', b"[]", b'{"step": 4}', b"\xff\xfe"])
@pytest.mark.parametrize("where", ["checkpoint_2", "checkpoint_of_a_killed_worker"])
def test_a_checkpoint_that_no_longer_says_what_it_is_keeps_nobody_from_going_on(content, where, job, tmp_path):
    """The newest one that was reported, or an orphan, as a full disk or a kill leaves it."""
    folder = tmp_path / "checkpoints"
    kept = {"checkpoint_1": About(2, 2, 3, "nothing"), "checkpoint_2": About(4, 2, 3, "nothing")}
    for name, told in kept.items():
        (folder / name).mkdir(parents=True)
        (folder / name / ABOUT).write_text(json.dumps(asdict(told)))
    (folder / SNAPSHOT).write_text(json.dumps(listing(kept)))
    (folder / where).mkdir(exist_ok=True)
    (folder / where / ABOUT).write_bytes(content)
    prepare_resuming(replace(job, out=tmp_path))
    names = names_in((folder / SNAPSHOT).read_text())
    assert names == (["checkpoint_1"] if where in kept else list(kept))


def test_checkpoints_of_another_zero_stage_are_refused_and_named(job, tmp_path):
    folder = tmp_path / "checkpoints"
    (folder / "checkpoint_1").mkdir(parents=True)
    (folder / SNAPSHOT).write_text(json.dumps(listing({"checkpoint_1": About(4, 2, 2, "nothing")})))
    (folder / "checkpoint_1" / ABOUT).write_text(json.dumps(asdict(About(4, 2, 2, "nothing"))))
    with pytest.raises(BadInputError, match=r"zero_stage: was 2 when the checkpoint of step 4 was written, and is 3"):
        run_training(replace(job, out=tmp_path))


@pytest.mark.chaos
def test_a_training_that_had_ended_when_its_driver_was_killed_ends_the_same_again(job, undisturbed, tmp_path):
    """After the last step, before the stage was in its place."""
    ended = replace(job, out=tmp_path / "ended")
    shutil.copytree(undisturbed.out, ended.out)
    (ended.out / "training.json").unlink()
    shutil.rmtree(ended.out / "model")
    run_training(ended)
    assert history(ended) == history(undisturbed)
    for name, weight in weights(ended).items():
        assert torch.equal(weight, weights(undisturbed)[name]), name
