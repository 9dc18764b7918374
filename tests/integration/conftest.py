"""One whole small run, shared by all integration tests: engines take long to start on two cores."""

from pathlib import Path

import pytest
from rich.console import Console

from aft_ray.config import AlignmentConfig, ModelConfig, ResourcesConfig, RunConfig, SamplingConfig, TaskConfig, TrainingConfig
from aft_ray.run import Run

TRAIN_QUESTIONS, HELD_OUT, K = 40, 24, 4


@pytest.fixture(scope="session")
def small_config(tiny_llama, tmp_path_factory) -> RunConfig:
    return RunConfig(
        name="small",
        runs_dir=tmp_path_factory.mktemp("runs"),
        model=ModelConfig(path=tiny_llama, precision="fp32"),
        task=TaskConfig(name="arithmetic", difficulty=1, train_questions=TRAIN_QUESTIONS, references=32, test_questions=HELD_OUT),
        vft=TrainingConfig(learning_rate=2e-3, epochs=12, questions_per_step=8),
        sampling=SamplingConfig(k=K, max_prompt_tokens=120, max_new_tokens=60),
        alignment=AlignmentConfig(learning_rate=1e-4, epochs=1, questions_per_step=8),
        resources=ResourcesConfig(training_workers=2, sampling_actors=(2, 2), zero_stage=2),
    )


@pytest.fixture(scope="session")
def finished_run(small_config, ray_session) -> tuple[Path, dict]:
    """The folder and the summary of a whole run on real vLLM, Ray and DeepSpeed."""
    run = Run(small_config, Console())
    return run.folder, run.execute()
