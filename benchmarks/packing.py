"""A training step over candidate groups: ours, each question one row with its prompt once, against one padded row a chain.

Run as:  .venv/bin/python benchmarks/packing.py

The padded rows are what a user would write with transformers: a batch of (prompt, chain) with an attention mask. Both make the
same scores and the same gradient (checked here), in one process, in turn; the ratio is the median over pairs of runs.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, PreTrainedModel

from aft_ray.training.attention import SHARED_PROMPT
from aft_ray.training.batches import Chain, Example, make_batch
from aft_ray.training.scores import Scorer

RUNS, QUESTIONS = 7, 4
SHAPES = [(54, 48, 6), (150, 80, 6), (60, 130, 6), (54, 48, 16)]  # prompt tokens, mean chain tokens, k


def groups(prompt: int, chain: int, k: int) -> list[Example]:
    generator = torch.Generator().manual_seed(0)

    def tokens(size: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 400, (size,), generator=generator).tolist())

    def chains() -> tuple[Chain, ...]:
        sizes = torch.randint(chain // 2, chain + chain // 2, (k,), generator=generator).tolist()
        return tuple(Chain(tokens(size), "positive") for size in sizes)

    return [Example(str(number), tokens(prompt), chains()) for number in range(QUESTIONS)]


def packed(model: PreTrainedModel, examples: list[Example]) -> Tensor:
    return Scorer(model)(make_batch(examples))


def padded(model: PreTrainedModel, examples: list[Example]) -> Tensor:
    rows = [(example.prompt_ids, chain.token_ids) for example in examples for chain in example.chains]
    ids = pad_sequence([torch.tensor([*p, *c]) for p, c in rows], batch_first=True)
    real = pad_sequence([torch.ones(len(p) + len(c), dtype=torch.long) for p, c in rows], batch_first=True)
    of_chain = pad_sequence([torch.tensor([0] * len(p) + [1] * len(c)) for p, c in rows], batch_first=True)[:, 1:]
    logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits[:, :-1].float()
    likelihood = logits.gather(2, ids[:, 1:, None]).squeeze(2) - logits.logsumexp(2)
    return (likelihood * of_chain).sum(1) / of_chain.sum(1)


def timed(model: PreTrainedModel, score: Callable[[PreTrainedModel, list[Example]], Tensor], examples: list[Example]) -> float:
    model.zero_grad()
    started = time.perf_counter()
    score(model, examples).sum().backward()
    return time.perf_counter() - started


def main() -> None:
    torch.set_num_threads(2)
    path = Path(__file__).parent.parent / "jobs" / "tiny_llama"
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation=SHARED_PROMPT)
    print("prompt  chain   k   padded / packed: median [min, max]")
    for prompt, chain, k in SHAPES:
        examples = groups(prompt, chain, k)
        torch.testing.assert_close(packed(model, examples), padded(model, examples), atol=1e-4, rtol=1e-4)
        ratios = [timed(model, padded, examples) / timed(model, packed, examples) for _ in range(RUNS + 1)][1:]
        print(f"{prompt:6}  {chain:5}  {k:2}   {statistics.median(ratios):.2f} x [{min(ratios):.2f}, {max(ratios):.2f}]")


if __name__ == "__main__":
    main()
