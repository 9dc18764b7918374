"""From questions and chains to the tensors of a micro-batch. Without Ray and without a model.

A question with its chains lies as [prompt][chain 1][chain 2] ... [chain C], positions restarting behind the prompt, and a mask
lets each chain see the prompt and itself. The prompt is computed once, and a chain's score is what it would be alone. Layouts:

flat   all questions in one row, without padding; attention cuts it into prompts and chains: on a CPU;
pack   all questions in one row, a block mask for FlexAttention, which computes only what the mask lets see: on a GPU;
rows   one question a row, a dense mask: for a model whose attention cannot be given those ways;
plain  one chain a row behind a prompt of its own: for a model that cannot share prompts.

Shape suffixes: R rows, L tokens of the longest row, T chain tokens of all rows, C chains of all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Role = Literal["reference", "positive", "negative"]
Layout = Literal["flat", "pack", "rows", "plain"]

PACKS_OF = 128
"""A pack's length is a multiple of this, the block of FlexAttention."""


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
    """A micro-batch. `target_*` list the chain tokens; the one at `predictor` (an index into R * L) predicts `target_ids`.

    `question_RL` numbers the questions of a row, -1 for padding; `segment_RL` is 0 in a prompt and 1, 2, ... in its chains.
    """

    layout: Layout
    input_ids_RL: Tensor
    position_ids_RL: Tensor
    question_RL: Tensor
    segment_RL: Tensor
    predictor_T: Tensor
    target_ids_T: Tensor
    target_chain_T: Tensor
    chain_lengths_C: Tensor

    @property
    def width(self) -> int:
        """Tokens of a row."""
        return int(self.input_ids_RL.shape[1])

    @property
    def padding_mask_RL(self) -> Tensor:
        """1 where a token is, 0 for padding; never a row of zeros, of which some models make NaN."""
        mask_RL = (self.question_RL >= 0).long()
        mask_RL[:, 0] = 1
        return mask_RL

    def to(self, device: torch.device) -> "Batch":
        tensors = {name: value.to(device, non_blocking=True) for name, value in vars(self).items() if name != "layout"}
        return Batch(layout=self.layout, **tensors)


def make_batch(examples: Sequence[Example], layout: Layout = "rows") -> Batch:
    """The tensors of some questions. No examples make a batch of one token and no chain, which costs a pass and adds nothing."""
    rows = rows_of(examples, layout)
    lengths = [sum(example.length for example in row) for row in rows]
    width = max([1, *lengths])
    if layout == "pack":
        width = -(-width // PACKS_OF) * PACKS_OF
    tokens, positions, segments = (np.zeros((max(1, len(rows)), width), dtype=np.int64) for _ in range(3))
    questions = np.full_like(tokens, -1)
    predictors: list[np.ndarray] = []
    for row, row_examples in enumerate(rows):
        start = 0
        for number, example in enumerate(row_examples):
            place = slice(start, start + example.length)
            tokens[row, place], positions[row, place], segments[row, place] = _lay_out(example)
            questions[row, place] = number
            first = row * width + start + len(example.prompt_ids)
            last_of_prompt = first - 1
            for chain in example.chains:
                # The last token of the prompt predicts the first one of every chain.
                predictors += [np.array([last_of_prompt]), np.arange(first, first + len(chain.token_ids) - 1)]
                first += len(chain.token_ids)
            start += example.length
    chains = [chain.token_ids for example in examples for chain in example.chains]
    chain_lengths = torch.tensor([len(token_ids) for token_ids in chains], dtype=torch.long)
    return Batch(
        layout=layout,
        input_ids_RL=torch.from_numpy(tokens),
        position_ids_RL=torch.from_numpy(positions),
        question_RL=torch.from_numpy(questions),
        segment_RL=torch.from_numpy(segments),
        predictor_T=torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *predictors])),
        target_ids_T=torch.tensor([token for token_ids in chains for token in token_ids], dtype=torch.long),
        target_chain_T=torch.arange(len(chains)).repeat_interleave(chain_lengths),
        chain_lengths_C=chain_lengths,
    )


def rows_of(examples: Sequence[Example], layout: Layout) -> list[list[Example]]:
    """What lies in each row; the chains stay in their order."""
    if layout in ("flat", "pack"):
        return [list(examples)] if examples else []
    if layout == "rows":
        return [[example] for example in examples]
    return [[replace(example, chains=(chain,))] for example in examples for chain in example.chains]


def _lay_out(example: Example) -> tuple[list[int], list[int], list[int]]:
    """Token ids, positions and segments of a question."""
    prompt = len(example.prompt_ids)
    tokens, positions, segments = list(example.prompt_ids), list(range(prompt)), [0] * prompt
    for number, chain in enumerate(example.chains, start=1):
        tokens += chain.token_ids
        positions += range(prompt, prompt + len(chain.token_ids))
        segments += [number] * len(chain.token_ids)
    return tokens, positions, segments
