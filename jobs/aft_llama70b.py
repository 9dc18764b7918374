"""AFT of Llama-2-70B on GSM8K: two nodes of 8 x 80 GB train, the optimizer in their hosts' memory; up to eight actors sample,
on 4 GPUs each. cluster/ has the cluster for it.

Submit:  ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/aft_llama70b.py
Before:  aft-ray plan jobs/aft_llama70b.py     what it needs, how long it takes; no GPU and no weights needed
"""

from pathlib import Path

from aft_ray.cli import run_job
from aft_ray.config import AlignmentConfig, ModelConfig, ResourcesConfig, RunConfig, SamplingConfig, TaskConfig, TrainingConfig

STORAGE = Path("/storage")  # what every node sees; runs_dir and the model may also be in an object store, as in s3://bucket/runs

JOB = RunConfig(
    name="aft_llama70b",
    runs_dir=STORAGE / "runs",
    model=ModelConfig(path=STORAGE / "models" / "Llama-2-70b-hf", precision="bf16"),
    task=TaskConfig(name="gsm8k", train_file=STORAGE / "gsm8k" / "train.jsonl", test_file=STORAGE / "gsm8k" / "test.jsonl"),
    vft=TrainingConfig(learning_rate=2e-5, epochs=3, questions_per_step=128),
    sampling=SamplingConfig(k=6, max_prompt_tokens=512, max_new_tokens=400),
    alignment=AlignmentConfig(loss="bc", learning_rate=2e-6, epochs=3, questions_per_step=128),
    resources=ResourcesConfig(
        training_workers=16,
        gpus_per_training_worker=1,
        cpus_per_training_worker=10,
        zero_stage=3,
        offload="optimizer",
        activation_checkpointing=True,
        sampling_actors=(1, 8),
        gpus_per_sampling_actor=4,
        cpus_per_sampling_actor=1,
        engine_seconds=1800,  # 138 GB from a slow disk
    ),
)

if __name__ == "__main__":
    run_job(JOB)
