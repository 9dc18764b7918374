"""A training step with each loss, against BC on the same groups; and what reference log-likelihoods add, over the epochs.

Run as:  .venv/bin/python benchmarks/losses.py

Scores, loss, gradient and optimizer step of the tiny Llama on 16 questions with 6 candidates, all losses in turn, in one process;
ratios within each round, the median of several, after a round of warm-up. In fp32, from the model that sampled, reference
log-likelihoods are the sampler's own and cost nothing; else (bf16, another start, given candidates) they are one pass without
gradient over all candidates, once a run: the last column has it spread over three epochs.
"""

import random
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from figures import keep, spread, table
from transformers import AutoModelForCausalLM, PreTrainedModel

from aft_ray.losses import LOSSES, bound_loss, loss_function, needs_reference
from aft_ray.training.attention import SHARED_PROMPT
from aft_ray.training.batches import Chain, Example, make_batch
from aft_ray.training.scores import GlobalLoss, Scorer

ROUNDS, QUESTIONS, K, PROMPT, CHAIN, EPOCHS = 7, 16, 6, 54, 48, 3
QUESTIONS_AT_A_TIME = 4


def groups() -> list[Example]:
    draw = random.Random(0)

    def tokens(size: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 400) for _ in range(size))

    def candidate(index: int) -> Chain:
        role, rank = ("positive", 1) if index < K // 2 else ("negative", 2)
        ids = tokens(draw.randint(CHAIN // 2, CHAIN + CHAIN // 2))
        return Chain(ids, role, rank=rank, index=index, reference=-6.0 * len(ids))

    return [Example(str(q), tokens(PROMPT), tuple(candidate(index) for index in range(K))) for q in range(QUESTIONS)]


def step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, loss: GlobalLoss, examples: list[Example]) -> None:
    scorer = Scorer(model)
    for start in range(0, len(examples), QUESTIONS_AT_A_TIME):
        part = examples[start : start + QUESTIONS_AT_A_TIME]
        value, _ = loss.part(scorer(make_batch(part)), part, examples)
        value.backward()
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def score(model: PreTrainedModel, examples: list[Example]) -> None:
    for start in range(0, len(examples), QUESTIONS_AT_A_TIME):
        Scorer(model)(make_batch(examples[start : start + QUESTIONS_AT_A_TIME]))


def seconds(work: partial[None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    torch.set_num_threads(2)
    path = Path(__file__).parent.parent / "jobs" / "tiny_llama"
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation=SHARED_PROMPT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    examples = groups()
    plain = [replace(e, chains=tuple(replace(c, reference=None) for c in e.chains)) for e in examples]
    names = [*LOSSES, "bc"]  # BC twice: what two runs of the same differ by
    ratios: dict[int, list[float]] = {place: [] for place in range(len(names))}
    passes = []
    for number in range(ROUNDS + 1):
        taken = []
        reference = seconds(partial(score, model, examples))
        for name in names:
            loss = GlobalLoss(bound_loss(name, 0.2, {}), 1.0, 1.0, vft_covers_positives=True)
            given = examples if needs_reference(loss_function(name)) else plain
            taken.append(seconds(partial(step, model, optimizer, loss, given)))
        if number:
            base = taken[names.index("bc")]
            passes.append(reference / base)
            for place, value in enumerate(taken):
                ratios[place].append(value / base)
    once = statistics.median(passes)
    lines, figures = [], []
    for place, name in enumerate(names):
        told = "bc, again" if place == len(LOSSES) else name
        median = statistics.median(ratios[place])
        with_pass = f"{median + once / EPOCHS:.3f} x" if needs_reference(loss_function(name)) else ""
        lines.append([told, f"{spread(ratios[place], 3)} x", with_pass])
        figures.append({"loss": told, "of_bc": ratios[place]})
    keep(
        "losses",
        {"losses": figures, "reference_pass_of_bc": passes},
        table(["loss", "step / that of BC", "with a reference pass"], lines),
    )


if __name__ == "__main__":
    main()
