"""One whole small run, shared by all integration tests: engines take long to start on two cores.

It trains on one task and is evaluated on two; of two training questions the candidates are given, with ranks.
"""

import json
from pathlib import Path

import pytest
from rich.console import Console

from aft_ray.config import (
    AlignmentConfig,
    ModelConfig,
    ResourcesConfig,
    RunConfig,
    SamplingConfig,
    TaskConfig,
    TrackingConfig,
    TrainingConfig,
)
from aft_ray.run import Run
from aft_ray.tasks import read_questions

TRAIN_QUESTIONS, HELD_OUT, NEVER_TRAINED_ON, GIVEN, K = 40, 24, 8, 2, 4


@pytest.fixture(scope="session")
def small_config(tiny_llama, tmp_path_factory) -> RunConfig:
    folder = tmp_path_factory.mktemp("runs")
    trained = TaskConfig(name="arithmetic", difficulty=1, train_questions=TRAIN_QUESTIONS, references=32, test_questions=HELD_OUT)
    longer = TaskConfig(name="arithmetic", called="longer", difficulty=2, train_questions=0, test_questions=NEVER_TRAINED_ON)
    task = TaskConfig(name="mixture", parts=(trained, longer))
    return RunConfig(
        name="small",
        runs_dir=folder,
        model=ModelConfig(path=tiny_llama, precision="fp32"),
        task=task,
        vft=TrainingConfig(learning_rate=2e-3, epochs=12, questions_per_step=8),
        sampling=SamplingConfig(
            k=K,
            temperature=0.9,
            top_p=0.95,
            max_prompt_tokens=120,
            max_new_tokens=60,
            candidates_file=write_candidates(task, folder / "candidates.jsonl"),
        ),
        alignment=AlignmentConfig(learning_rate=1e-4, epochs=1, questions_per_step=8),
        resources=ResourcesConfig(training_workers=2, sampling_actors=(1, 1), zero_stage=2),
        tracking=TrackingConfig(to=("tensorboard",)),
    )


def write_candidates(task: TaskConfig, file: Path) -> Path:
    """Of the first training questions: the reference, a chain that is right by a false equation, and two equally wrong ones."""
    rows = [
        {
            "question_id": question.question_id,
            "candidates": [
                {"text": f"The answer is {int(question.gold) + 1}.", "rank": 3},
                {"text": question.reference, "rank": 1},
                {"text": f"<<1+1=3>>. The answer is {question.gold}.", "rank": 2},
                {"text": f"The answer is {int(question.gold) + 2}.", "rank": 3},
            ],
        }
        for question in read_questions(task, seed=0).train[:GIVEN]
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture(scope="session")
def finished_run(small_config, ray_session) -> tuple[Path, dict]:
    """The folder and the summary of a whole run on real vLLM, Ray and DeepSpeed."""
    run = Run(small_config, Console())
    return run.folder, run.execute()
