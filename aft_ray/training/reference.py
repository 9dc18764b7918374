"""Reference log-likelihoods: of every candidate under the model that alignment starts from, before a step is taken.

Computed once and kept as records, so that no second model is held in memory while training.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from aft_ray.places import Place
from aft_ray.training.batches import Example
from aft_ray.training.division import share_out
from aft_ray.training.engine import leave_process_group, prepare_environment, start_engine
from aft_ray.training.examples import alignment_examples, within
from aft_ray.training.job import TrainingJob
from aft_ray.training.layout import choose_layout
from aft_ray.training.passes import ahead
from aft_ray.training.worker import read_training_groups
from schemas import CandidateGroup, ReferenceScores, write_parquet


def reference_worker(settings: dict[str, Any]) -> None:
    """Ray Train's entry: score the candidates of `settings["job"].records`, each rank its share into a file of its own."""
    prepare_environment(settings["job"].resources)
    from ray import train

    job: TrainingJob = settings["job"]
    context = train.get_context()
    groups = read_training_groups(job.records)
    examples = candidates_to_score(groups, job.training.max_tokens)
    engine = start_engine(job, total_steps=1)
    layout = choose_layout(engine, examples[0], job.training.max_tokens)
    shares = share_out(examples, context.get_world_size(), job.training.tokens_per_micro_batch, layout)
    passes = shares[context.get_world_rank()].with_gradient
    found: dict[str, dict[int, float]] = {}
    for number, (part, batch) in enumerate(zip(passes, ahead(passes, layout), strict=True), start=1):
        with torch.no_grad():
            scores = iter(engine(batch.to(engine.device)).tolist())
        for example in part:
            scored = {chain.index: next(scores) * len(chain.token_ids) for chain in example.chains}
            found[example.question_id] = found.get(example.question_id, {}) | scored
        if job.counter is not None and context.get_world_rank() == 0:
            job.counter.put.remote(number, len(passes), {})
    sizes = {group.question.question_id: len(group.candidates) for group in groups}
    records = [
        ReferenceScores(question_id=question_id, log_likelihoods=tuple(by_index.get(i) for i in range(sizes[question_id])))
        for question_id, by_index in sorted(found.items())
    ]
    if context.get_world_rank() == 0:
        earlier: list[Place] = list(job.out.glob("references-*.parquet"))  # of more ranks, which began this before
        for file in earlier:
            file.unlink()
    torch.distributed.barrier()
    write_parquet(job.out / f"references-{context.get_world_rank():05}.parquet", ReferenceScores, records)
    leave_process_group(job.resources)


def candidates_to_score(groups: Sequence[CandidateGroup], max_tokens: int) -> list[Example]:
    """All that any loss, whatever L_VFT covers, may compare. Raises ValueError where there is nothing."""
    found = [
        replace(example, chains=tuple(chain for chain in example.chains if chain.index >= 0))
        for example in sorted(alignment_examples(groups, vft_covers_positives=True), key=lambda example: example.question_id)
    ]
    examples = within([example for example in found if example.chains], max_tokens)
    if not examples:
        raise ValueError(f"no candidates of at most max_tokens = {max_tokens} tokens to compute reference log-likelihoods of")
    return examples
