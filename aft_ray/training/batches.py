"""From questions and chains to the tensors of a micro-batch. Without Ray and without a model.

One question is one row: [prompt][chain 1][chain 2] ... [chain C], positions restarting behind the prompt, and a mask that lets
each chain see the prompt and itself. The prompt is computed once, and a chain's score is what it would be alone.

Shape suffixes: R rows (questions), L tokens of the longest row, T chain tokens of all rows, C chains of all rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Role = Literal["reference", "positive", "negative"]


@dataclass(frozen=True)
class Chain:
    """A chain of thought as token ids, end-of-sequence included, and what losses know of a candidate."""

    token_ids: tuple[int, ...]
    role: Role
    rank: int = 0
    """1 is best; 0 for what is no candidate."""
    reward: float | None = None
    index: int = -1
    """Of the candidate in its group; -1 for what is no candidate."""
    reference: float | None = None
    """Its log-likelihood under the model that alignment starts from, nats."""


@dataclass(frozen=True)
class Example:
    """A question with the chains to train on."""

    question_id: str
    prompt_ids: tuple[int, ...]
    chains: tuple[Chain, ...]
    task: str = ""
    boundary: float | None = None
    """Below this score no negative is pushed (`beta: auto`), nats per token."""

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + sum(len(chain.token_ids) for chain in self.chains)


@dataclass(frozen=True)
class Batch:
    """A micro-batch. `target_*` list the chain tokens; the one at `predictor` (an index into R * L) predicts `target_ids`."""

    input_ids_RL: Tensor
    position_ids_RL: Tensor
    attention_mask_R1LL: Tensor
    predictor_T: Tensor
    target_ids_T: Tensor
    target_chain_T: Tensor
    chain_lengths_C: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def make_batch(examples: list[Example]) -> Batch:
    """The tensors of some questions. No examples make a batch of one token and no chain, which costs a pass and adds nothing."""
    rows, width = max(1, len(examples)), max((example.length for example in examples), default=1)
    input_ids = torch.zeros(rows, width, dtype=torch.long)
    positions = torch.zeros(rows, width, dtype=torch.long)
    # Segment 0 is the prompt, 1, 2, ... the chains; padding is a segment of its own, so that no token sees it.
    segments = torch.full((rows, width), -1, dtype=torch.long)
    predictors: list[int] = []
    for row, example in enumerate(examples):
        in_row = slice(0, example.length)
        input_ids[row, in_row], positions[row, in_row], segments[row, in_row] = map(torch.tensor, _lay_out(example))
        start = row * width + len(example.prompt_ids)
        last_of_prompt = start - 1
        for chain in example.chains:
            # The last token of the prompt predicts the first one of every chain.
            predictors += [last_of_prompt, *range(start, start + len(chain.token_ids) - 1)]
            start += len(chain.token_ids)
    chains = [chain.token_ids for example in examples for chain in example.chains]
    lengths = torch.tensor([len(token_ids) for token_ids in chains], dtype=torch.long)
    return Batch(
        input_ids_RL=input_ids,
        position_ids_RL=positions,
        attention_mask_R1LL=_attention_mask(segments),
        predictor_T=torch.tensor(predictors, dtype=torch.long),
        target_ids_T=torch.tensor([token for token_ids in chains for token in token_ids], dtype=torch.long),
        target_chain_T=torch.arange(len(chains)).repeat_interleave(lengths),
        chain_lengths_C=lengths,
    )


def _lay_out(example: Example) -> tuple[list[int], list[int], list[int]]:
    """Token ids, positions and segments of a row."""
    prompt = len(example.prompt_ids)
    tokens, positions, segments = list(example.prompt_ids), list(range(prompt)), [0] * prompt
    for number, chain in enumerate(example.chains, start=1):
        tokens += chain.token_ids
        positions += range(prompt, prompt + len(chain.token_ids))
        segments += [number] * len(chain.token_ids)
    return tokens, positions, segments


def _attention_mask(segment_RL: Tensor) -> Tensor:
    """bool [R, 1, L, L], true where a token may look: back, at the prompt or at its own segment."""
    of_query, of_key = segment_RL[:, :, None], segment_RL[:, None, :]
    causal = torch.ones(segment_RL.shape[1], segment_RL.shape[1], dtype=torch.bool).tril()
    return (((of_key == 0) | (of_key == of_query)) & causal)[:, None]


def global_batches(weights: Sequence[float], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The examples of every step of an epoch, by (seed, epoch) alone.

    `weights`: how often an epoch sees each example. Of a fraction, every example gets its share in turn: at 0.25 it stands
    in one epoch of four.
    """
    random = np.random.default_rng((seed, epoch))
    # One draw for all epochs: where in the turn an example begins.
    phase = np.random.default_rng(seed).random(len(weights))
    share = np.asarray(weights, dtype=float)
    times = np.floor(phase + share * (epoch + 1)) - np.floor(phase + share * epoch)
    order = random.permutation(np.repeat(np.arange(len(weights)), times.astype(int))).tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]


def share_out(lengths: list[int], world_size: int, tokens_per_micro_batch: int) -> list[list[list[int]]]:
    """Divide a global batch over the workers: indices by [rank][micro-batch].

    Every rank computes the same division, so all know without a word how many passes there are. Each gets the same number:
    under ZeRO-3 a rank that makes fewer passes leaves the others waiting for ever. The short ones pass empty micro-batches.
    Longest first, each to the rank with the least so far, so that no rank waits long.
    """
    shares: list[list[int]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        rank = load.index(min(load))
        shares[rank].append(index)
        load[rank] += lengths[index]
    division = [list(_micro_batches(share, lengths, tokens_per_micro_batch)) for share in shares]
    passes = max(len(micro_batches) for micro_batches in division)
    return [micro_batches + [[]] * (passes - len(micro_batches)) for micro_batches in division]


def _micro_batches(indices: list[int], lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Cut a list that falls in length so that (rows x longest row) stays within the budget; a longer row stands alone."""
    current: list[int] = []
    for index in indices:
        if current and lengths[current[0]] * (len(current) + 1) > budget:
            yield current
            current = []
        current.append(index)
    if current:
        yield current
