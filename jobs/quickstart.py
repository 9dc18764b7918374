"""The whole method on one laptop CPU, in minutes: a tiny Llama learns to solve word problems, then to tell right from wrong.

Run as:  make quickstart          or, with any setting changed:  .venv/bin/python jobs/quickstart.py --alignment.beta 0.1
"""

from pathlib import Path

from aft_ray.cli import run_job
from aft_ray.config import AlignmentConfig, ModelConfig, ResourcesConfig, RunConfig, SamplingConfig, TaskConfig, TrainingConfig

JOB = RunConfig(
    name="quickstart",
    model=ModelConfig(path=Path(__file__).parent / "tiny_llama", precision="fp32"),
    task=TaskConfig(name="arithmetic", difficulty=1, train_questions=1200, references=400, test_questions=800),
    vft=TrainingConfig(learning_rate=5e-4, epochs=5, questions_per_step=16),
    sampling=SamplingConfig(k=6, max_prompt_tokens=100, max_new_tokens=80),
    alignment=AlignmentConfig(
        loss="bc", beta=0.5, weight=3.0, vft_covers="reference+positives", learning_rate=5e-4, epochs=2, questions_per_step=16
    ),
    resources=ResourcesConfig(sampling_actors=(2, 2)),
)

if __name__ == "__main__":
    run_job(JOB)
