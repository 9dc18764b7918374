"""Attention over questions that share their prompts: each token sees the prompt of its question and its own chain, up to itself.

In a pack FlexAttention takes that as a block mask. In rows a dense mask would have SDPA compute a row's whole square, of which
k chains use a k-th: so the row is cut into its prompt and its chains, each attends by itself, and the outputs go back to their
places. That is the attention function `SHARED_PROMPT`, which any model can be given whose attention is transformers' interface
(https://huggingface.co/docs/transformers/attention_interface); a model without it gets the dense mask.

Shape suffixes: R rows, L tokens of the longest row, P tokens of the longest prompt, C chains, W tokens of the longest chain,
S = P + W, H heads, D their size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from aft_ray.training.batches import Batch

SHARED_PROMPT = "shared_prompt"


@dataclass(frozen=True)
class Segments:
    """The prompts and chains of rows, as indices into their R * L tokens; 0 where there is none."""

    prompt_RP: Tensor
    chain_CW: Tensor
    seen_CS: Tensor
    """What a chain's tokens may see: its prompt, then itself."""
    sees_C1WS: Tensor
    place_X: Tensor
    """Of every token of the rows, where it stands among the R * P of all prompts and then C * W of all chains."""


def attention_arguments(batch: Batch, implementation: str) -> dict[str, Any]:
    """What a model's forward needs beside tokens and positions, for its attention to be that of the batch."""
    if batch.layout == "rows" and len(batch.chain_lengths_C) in (0, len(batch.question_RL)):
        return {"attention_mask": None}  # rows of one chain, the padding behind: causal attention does it
    if batch.layout == "pack":
        rows, width = batch.question_RL.shape
        return {"attention_mask": _block_mask(_rule(batch), rows, None, width, width, batch.question_RL.device)}
    if implementation == SHARED_PROMPT:
        # A mask of four dimensions is taken as it is; what it says is not looked at.
        return {"attention_mask": batch.segment_RL.new_ones(1, 1, 1, 1), "segments": segments_of(batch)}
    return {"attention_mask": dense_mask(batch)}


def segments_of(batch: Batch) -> Segments:
    """Of a batch in rows."""
    rows, width = batch.question_RL.shape
    device, length_C = batch.question_RL.device, batch.chain_lengths_C
    prompt_R = ((batch.segment_RL == 0) & (batch.question_RL >= 0)).sum(dim=1)
    first_C = length_C.cumsum(0) - length_C  # of its tokens among those of all chains
    row_C = batch.predictor_T[first_C] // width
    # The chains of a row lie one behind the other.
    first_R = first_C.new_zeros(rows).scatter_reduce(0, row_C, first_C, "amin", include_self=False)
    start_C = row_C * width + prompt_R[row_C] + first_C - first_R[row_C]
    place_P, place_W = (torch.arange(int(lengths.max()), device=device) for lengths in (prompt_R, length_C))
    in_prompt_RP, in_chain_CW = place_P < prompt_R[:, None], place_W < length_C[:, None]
    prompt_RP = (torch.arange(rows, device=device)[:, None] * width + place_P) * in_prompt_RP
    chain_CW = (start_C[:, None] + place_W) * in_chain_CW
    of_prompt_CWP = in_prompt_RP[row_C][:, None].expand(-1, len(place_W), -1)
    of_chain_CWW = (place_W[:, None] >= place_W).expand(len(length_C), -1, -1)
    place_X = torch.zeros(rows * width, dtype=torch.long, device=device)
    place_X[prompt_RP[in_prompt_RP]] = in_prompt_RP.flatten().nonzero().squeeze(1)
    place_X[chain_CW[in_chain_CW]] = prompt_RP.numel() + in_chain_CW.flatten().nonzero().squeeze(1)
    return Segments(
        prompt_RP=prompt_RP,
        chain_CW=chain_CW,
        seen_CS=torch.cat((prompt_RP[row_C], chain_CW), dim=1),
        sees_C1WS=torch.cat((of_prompt_CWP, of_chain_CWW), dim=2)[:, None],
        place_X=place_X,
    )


def shared_prompt_attention(
    module: torch.nn.Module,
    query_RHLD: Tensor,
    key_RHLD: Tensor,
    value_RHLD: Tensor,
    attention_mask: Tensor | None,
    segments: Segments | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """As transformers calls an attention function; returns [R, L, H, D]. Without `segments` it is SDPA."""
    if segments is None:
        result: tuple[Tensor, None] = sdpa_attention_forward(module, query_RHLD, key_RHLD, value_RHLD, attention_mask, **more)
        return result
    rows, _, width, _ = query_RHLD.shape
    tokens = [tensor.transpose(1, 2).flatten(0, 1) for tensor in (query_RHLD, key_RHLD, value_RHLD)]

    def attend(queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (
            tensor.index_select(0, index.flatten()).unflatten(0, index.shape).transpose(1, 2)
            for tensor, index in zip(tokens, (queries, keys, keys), strict=True)
        )
        output: Tensor = sdpa_attention_forward(module, query, key, value, mask, **more)[0]
        return output.flatten(0, 1)

    of_prompts = attend(segments.prompt_RP, segments.prompt_RP, None)
    of_chains = attend(segments.chain_CW, segments.seen_CS, segments.sees_C1WS)
    return torch.cat((of_prompts, of_chains)).index_select(0, segments.place_X).unflatten(0, (rows, width)), None


AttentionInterface.register(SHARED_PROMPT, shared_prompt_attention)
AttentionMaskInterface.register(SHARED_PROMPT, sdpa_mask)


def dense_mask(batch: Batch) -> Tensor:
    """bool [R, 1, L, L]. Padding sees padding."""
    rows, width = batch.question_RL.shape
    place = torch.arange(width, device=batch.question_RL.device)
    row = torch.arange(rows, device=batch.question_RL.device)
    mask: Tensor = _rule(batch)(row[:, None, None], None, place[:, None], place)[:, None]
    return mask


def _rule(batch: Batch) -> Any:
    """From where a token's own question and segment begin and its prompt ends: nothing is looked up by key, which is asked for
    every pair of a query and a key."""
    question_RL, segment_RL = batch.question_RL, batch.segment_RL
    place_L = torch.arange(question_RL.shape[1], dtype=torch.int32, device=question_RL.device)

    def latest(here_RL: Tensor) -> Tensor:
        """Of every token, the last place up to it where that holds; 0 before the first."""
        return (place_L * here_RL).cummax(dim=1).values.int()

    new_question_RL, new_segment_RL = _changed(question_RL), _changed(segment_RL)
    question_start_RL = latest(new_question_RL)
    segment_start_RL = latest(new_question_RL | new_segment_RL)
    last_of_prompt_RL = latest(segment_RL == 0)

    def sees(row: Any, head: Any, query: Any, key: Any) -> Any:
        in_prompt = (key >= question_start_RL[row, query]) & (key <= last_of_prompt_RL[row, query])
        return (key <= query) & (in_prompt | (key >= segment_start_RL[row, query]))

    return sees


def _changed(numbers_RL: Tensor) -> Tensor:
    return torch.cat((torch.zeros_like(numbers_RL[:, :1], dtype=torch.bool), numbers_RL[:, 1:] != numbers_RL[:, :-1]), dim=1)


def _block_mask(*given: Any) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    # Uncompiled it would make the whole square.
    return torch.compile(create_block_mask)(*given)
