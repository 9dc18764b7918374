"""The whole method on a real pretrained model (SmolLM2-135M) and real questions (GSM8K), on a CPU.

Run as:  .venv/bin/python jobs/smollm2_gsm8k.py --model DIR --questions train.jsonl --test test.jsonl --limit 48

DIR is a Hugging Face directory; the files are those of github.com/openai/grade-school-math. So small a model answers next
to no GSM8K: expect few positives. Any setting can follow, as in --alignment.beta 0.1.
"""

import argparse
from pathlib import Path

from aft_ray.cli import run_job
from aft_ray.config import AlignmentConfig, ModelConfig, ResourcesConfig, RunConfig, SamplingConfig, TaskConfig, TrainingConfig


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", type=Path, required=True, help="directory of the base model")
    parser.add_argument("--questions", type=Path, required=True, help="training questions, GSM8K's JSON lines")
    parser.add_argument("--test", type=Path, required=True, help="held-out questions, likewise")
    parser.add_argument("--limit", type=int, help="use this many training questions, and as many held-out ones")
    given, settings = parser.parse_known_args()
    job = RunConfig(
        name="smollm2_gsm8k",
        model=ModelConfig(path=given.model, precision="bf16"),
        task=TaskConfig(
            name="gsm8k",
            train_file=given.questions,
            test_file=given.test,
            train_questions=given.limit,
            test_questions=given.limit,
        ),
        vft=TrainingConfig(learning_rate=5e-5, epochs=1, questions_per_step=8, tokens_per_micro_batch=1024),
        sampling=SamplingConfig(k=4, max_prompt_tokens=256, max_new_tokens=160),
        alignment=AlignmentConfig(learning_rate=1e-5, epochs=1, questions_per_step=8, tokens_per_micro_batch=1024),
        resources=ResourcesConfig(sampling_actors=(2, 2)),
    )
    run_job(job, settings)


if __name__ == "__main__":
    main()
