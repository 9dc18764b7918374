"""What starts the workers of a training again, beyond what Ray Train does by itself."""

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError
from ray import train
from ray.exceptions import ActorUnavailableError

from aft_ray.config import AlignmentConfig, ModelConfig, ResourcesConfig
from aft_ray.training.job import TrainingJob
from aft_ray.training.trainer import Trainer, run_workers, trainer_of

LOST = train.ControllerError(ActorUnavailableError("a node went while its workers were told to begin", b"0" * 16))


def job_with(max_failures: int, out: Path) -> TrainingJob:
    resources = ResourcesConfig(training_workers=2, max_failures=max_failures)
    return TrainingJob(ModelConfig(path=out), AlignmentConfig(), resources, 0, {}, out, out, None)


def fail_with(monkeypatch: pytest.MonkeyPatch, failures: list[Exception]) -> list[int]:
    starts: list[int] = []

    def fit(self: Any) -> None:
        starts.append(1)
        if failures:
            raise failures.pop(0)

    monkeypatch.setattr(Trainer, "fit", fit)
    return starts


def test_workers_lost_while_they_are_told_to_begin_start_again(tmp_path, monkeypatch):
    starts = fail_with(monkeypatch, [LOST, LOST])
    run_workers(lambda _: None, job_with(2, tmp_path))
    assert len(starts) == 3


@pytest.mark.parametrize("failure", [OSError("a store's bad minute"), BotoCoreError()])
def test_so_they_do_where_the_list_of_checkpoints_could_not_be_written(failure, tmp_path, monkeypatch):
    starts = fail_with(monkeypatch, [train.ControllerError(failure)])
    run_workers(lambda _: None, job_with(2, tmp_path))
    assert len(starts) == 2


def test_but_not_more_often_than_max_failures(tmp_path, monkeypatch):
    starts = fail_with(monkeypatch, [LOST] * 9)
    with pytest.raises(train.ControllerError):
        run_workers(lambda _: None, job_with(2, tmp_path))
    assert len(starts) == 3


def test_nor_after_a_mistake_of_the_controller(tmp_path, monkeypatch):
    starts = fail_with(monkeypatch, [train.ControllerError(ValueError("a mistake"))])
    with pytest.raises(train.ControllerError, match="a mistake"):
        run_workers(lambda _: None, job_with(2, tmp_path))
    assert len(starts) == 1


def test_only_a_cluster_has_a_dashboard_for_ray_s_cleaner_to_ask(tmp_path, monkeypatch):
    def has_cleaner() -> bool:
        callbacks = trainer_of(lambda _: None, job_with(0, tmp_path))._create_default_callbacks()
        return any("Cleaner" in type(callback).__name__ for callback in callbacks)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not has_cleaner()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert has_cleaner()
