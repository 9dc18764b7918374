"""What every training worker runs: DeepSpeed over the same deterministic sequence of global batches."""

import json
import time
from dataclasses import replace
from typing import Any

import torch

from aft_ray.config import AlignmentConfig, TrainingConfig
from aft_ray.heartbeat import keep_beating
from aft_ray.losses import bound_loss, has_boundary, loss_function, needs_reference
from aft_ray.losses.boundary import boundaries_by_task
from aft_ray.places import Place, write_atomically
from aft_ray.training.batches import Batch, Example, Layout, make_batch
from aft_ray.training.checkpoints import CheckpointClock, Progress, load, newest_whole_checkpoint, save
from aft_ray.training.divergence import all_finite, tell_divergence
from aft_ray.training.division import global_batches, share_out
from aft_ray.training.engine import DTYPES, leave_process_group, prepare_environment, start_engine
from aft_ray.training.examples import alignment_examples, sampler_scores, vft_examples, with_references, within
from aft_ray.training.job import TOLD, TrainingJob
from aft_ray.training.layout import choose_layout
from aft_ray.training.passes import run_passes
from aft_ray.training.scores import GlobalLoss, batch_measures
from schemas import CandidateGroup, Question, ReferenceScores, iter_parquet, read_parquet


def train_worker(settings: dict[str, Any]) -> None:
    """Ray Train's entry: train `settings["job"]` and write the model, and the loss at every step, below its `out`."""
    prepare_environment(settings["job"].resources)
    import deepspeed
    from ray import train

    from aft_ray.training.export import export

    job: TrainingJob = settings["job"]
    context = train.get_context()
    if context.get_world_rank() == 0:
        # Of workers that had ended, and all had to start again: with it a model half of theirs would count as finished.
        (job.out / TOLD).unlink(missing_ok=True)
    if job.counter is not None and job.resources.training_workers:
        keep_beating(job.counter.add_use.remote, own_gpu(job))
    examples, left_out = load_examples(job)
    batches = schedule(examples, job)
    with newest_whole_checkpoint(job) as checkpoint:
        engine = start_engine(job, total_steps=len(batches), universal=checkpoint is not None and checkpoint.universal)
        layout = choose_layout(engine, examples[0], job.training.max_tokens)
        progress = Progress() if checkpoint is None else load(engine, checkpoint)
    if not train_steps(engine, batches, progress, job, layout):
        leave_process_group(job.resources)
        return
    export(engine, job, DTYPES[job.model.precision])
    probe = probe_scores(engine, examples[0], layout)
    if context.get_world_rank() == 0:
        counts = {"examples": len(examples), "left out": left_out, "steps": progress.step}
        told = {"counts": counts, "step_seconds": progress.step_seconds, "history": progress.history, "probe": probe}
        write_atomically(job.out / TOLD, json.dumps(told))
    deepspeed.comm.barrier()
    leave_process_group(job.resources)


def own_gpu(job: TrainingJob) -> int | None:
    """Of those that this process sees, which are all that the node's workers have."""
    from ray.train.torch import get_device

    return get_device().index if job.resources.gpus_per_training_worker else None


def train_steps(engine: Any, batches: list[list[Example]], progress: Progress, job: TrainingJob, layout: Layout) -> bool:
    """From where `progress` stands to the end, with checkpoints on the way. False where training diverged and was stopped."""
    loss, clock, rank = global_loss(job.training), CheckpointClock(job), torch.distributed.get_rank()
    while progress.step < len(batches):
        started, batch = time.monotonic(), batches[progress.step]
        rate = {"learning_rate": engine.get_lr()[0], "tokens": sum(example.length for example in batch)}
        measures = train_step(engine, loss, batch, job, layout)
        progress.step += 1
        progress.step_seconds.append(time.monotonic() - started)
        progress.history.append(measures | rate)
        speed = {"tokens_per_second": rate["tokens"] / progress.step_seconds[-1]}
        if not all_finite(measures):
            if rank == 0:
                tell_divergence(job.out, progress.step, measures, batch)
            return False
        if rank == 0 and job.counter is not None:
            job.counter.put.remote(progress.step, len(batches), measures | rate | speed)
        if clock.says_save(progress.step) and progress.step < len(batches):
            save(engine, progress, job, clock)
    return True


def load_examples(job: TrainingJob) -> tuple[list[Example], int]:
    """The same list in the same order on every rank, and how many chains max_tokens left out.

    Raises ValueError where nothing is left to train on.
    """
    if isinstance(job.training, AlignmentConfig):
        groups = read_training_groups(job.records)
        found = alignment_examples(groups, job.training.vft_covers == "reference+positives")
        if job.training.beta == "auto" and has_boundary(loss_function(job.training.loss)):
            boundary = boundaries_by_task(sampler_scores(groups))
            found = [replace(example, boundary=boundary[example.question_id]) for example in found]
    else:
        questions = [question for question in read_parquet(job.records, Question) if question.split == "train"]
        found = vft_examples(questions)
    # Ray writes a stream's files in no fixed order.
    examples = within(sorted(found, key=lambda example: example.question_id), job.training.max_tokens)
    if not examples:
        raise ValueError(
            f"nothing to train on in {job.records}: no chain of at most max_tokens = {job.training.max_tokens} tokens"
        )
    left_out = sum(len(e.chains) for e in found) - sum(len(e.chains) for e in examples)
    if isinstance(job.training, AlignmentConfig) and needs_reference(loss_function(job.training.loss)):
        examples = with_references(examples, reference_log_likelihoods(job, groups))
    return examples, left_out


def reference_log_likelihoods(job: TrainingJob, groups: list[CandidateGroup]) -> dict[str, tuple[float | None, ...]]:
    """By question and candidate: of a pass made for them, else as the sampler gave them."""
    if job.references is None:
        return {group.question.question_id: tuple(c.log_likelihood for c in group.candidates) for group in groups}
    return {scores.question_id: scores.log_likelihoods for scores in read_parquet(job.references, ReferenceScores)}


def read_training_groups(records: Place) -> list[CandidateGroup]:
    return [group for group in iter_parquet(records, CandidateGroup) if group.question.split == "train"]


def schedule(examples: list[Example], job: TrainingJob) -> list[list[Example]]:
    """The global batch of every step of the whole training."""
    weights = [job.task_weights.get(example.task, 1.0) for example in examples]
    return [
        [examples[index] for index in batch]
        for epoch in range(job.training.epochs)
        for batch in global_batches(weights, job.training.questions_per_step, job.seed, epoch)
    ]


def global_loss(training: TrainingConfig) -> GlobalLoss:
    if not isinstance(training, AlignmentConfig):
        return GlobalLoss(None, weight=0.0, vft_weight=1.0, vft_covers_positives=False)
    beta = None if training.beta == "auto" else training.beta
    return GlobalLoss(
        bound_loss(training.loss, beta, training.options),
        training.weight,
        training.vft_weight,
        vft_covers_positives=training.vft_covers == "reference+positives",
        beta=beta if has_boundary(loss_function(training.loss)) else None,
    )


def train_step(engine: Any, loss: GlobalLoss, batch: list[Example], job: TrainingJob, layout: Layout) -> dict[str, float | None]:
    """One optimizer step on a global batch; returns what `batch_measures` says of it, over all ranks, and the gradient's norm.

    No step is made where the loss is no finite number.
    """
    import deepspeed

    rank, world_size = deepspeed.comm.get_rank(), deepspeed.comm.get_world_size()

    def score(made: Batch) -> torch.Tensor:
        scores_C: torch.Tensor = engine(made.to(engine.device))
        return scores_C

    def backward(value: torch.Tensor, last: bool) -> None:
        engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages gradients over the ranks; ours is a sum over them.
        engine.backward(value * world_size)

    share = share_out(batch, world_size, job.training.tokens_per_micro_batch, layout)[rank]
    sums = run_passes(score, backward, loss, share, batch, layout)
    totals = torch.tensor(list(sums.values()), dtype=torch.float64, device=engine.device)
    deepspeed.comm.all_reduce(totals)
    measures = batch_measures(dict(zip(sums, totals.tolist(), strict=True)))
    with_zero = job.resources.zero_stage > 0
    if not with_zero:  # DeepSpeed then tells no norm
        gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
        measures["gradient_norm"] = float(torch.nn.utils.get_total_norm(gradients))
    if all_finite(measures):
        engine.step()
        if with_zero:
            norm = engine.get_global_grad_norm()
            measures["gradient_norm"] = None if norm is None else float(norm)
    return measures


def probe_scores(engine: Any, example: Example, layout: Layout) -> dict[str, Any]:
    """Scores of some chains under the trained weights: whoever loads the exported model can compare."""
    example = replace(example, chains=example.chains[:3])
    with torch.no_grad():
        scores_C = engine(make_batch([example], layout).to(engine.device))
    return {"question_id": example.question_id, "chains": [c.token_ids for c in example.chains], "scores": scores_C.tolist()}
