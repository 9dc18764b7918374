"""Attention over questions that share their prompts: each token sees the prompt of its question and its own chain, up to itself.

In a pack FlexAttention takes that as a block mask. On a CPU a dense mask would have SDPA compute the square of the whole row: so
the row is cut into its prompts and its chains, each attends by itself, and the outputs go back to their places. That is the
attention function `SHARED_PROMPT`, which any model can be given whose attention is transformers' interface
(https://huggingface.co/docs/transformers/attention_interface); a model without it gets the dense mask, a question a row.

Shape suffixes: R rows, L tokens of the longest row, X all prompts and chains of a row, N some of those, W tokens of the longest
of them, S all that it may see (of a chain its prompt too), H heads, D their size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from aft_ray.training.batches import Batch

SHARED_PROMPT = "shared_prompt"
LENGTHS_OF_PIECE = 64


@dataclass(frozen=True)
class Piece:
    """Prompts or chains of about one length, as indices into the L tokens of a row; 0 where there is none."""

    query_NW: Tensor
    key_NS: Tensor
    mask_N1WS: Tensor | None
    """To be added: 0 or minus infinity. None: causal attention, of prompts to themselves."""


@dataclass(frozen=True)
class Segments:
    """A row in pieces. A chain without others counts with its prompt: what it sees, causal attention tells without a mask."""

    pieces: tuple[Piece, ...]
    place_L: Tensor
    """Of every token of the row, where it stands among the N * W of all pieces."""


def set_own_attention(model: PreTrainedModel) -> None:
    """Ours, where a model takes one and would have SDPA's, with which ours computes: that caps no scores and has no sinks."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # the only one beside FlexAttention that caps (Gemma 2)
    elif model.is_backend_compatible() and model._supports_sdpa:
        model.set_attn_implementation(SHARED_PROMPT)


def attention_arguments(batch: Batch, model: PreTrainedModel) -> dict[str, Any]:
    """What a model's forward needs beside tokens and positions, for its attention to be that of the batch."""
    implementation, dtype = model.config._attn_implementation, model.dtype
    if batch.layout == "rows" and len(batch.chain_lengths_C) in (0, len(batch.question_RL)):
        return {"attention_mask": None}  # rows of one chain, the padding behind: causal attention does it
    if batch.layout == "pack":
        rows, width = batch.question_RL.shape
        return {"attention_mask": _block_mask(_rule(batch), rows, None, width, width, batch.question_RL.device)}
    if batch.layout == "flat":
        assert implementation == SHARED_PROMPT
        # A mask of four dimensions is taken as it is; what it says is not looked at.
        return {"attention_mask": batch.segment_RL.new_ones(1, 1, 1, 1), "segments": segments_of(batch, dtype)}
    # Eager attention adds what it is given.
    return {"attention_mask": to_be_added(dense_mask(batch), dtype) if implementation == "eager" else dense_mask(batch)}


def to_be_added(sees: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(sees, dtype=dtype).masked_fill_(~sees, -torch.inf)


def segments_of(batch: Batch, dtype: torch.dtype) -> Segments:
    """Of a batch in one row; `dtype` is that of queries. Of a mask of bools SDPA would make one in every layer, and keep it."""
    question_L, segment_L, width = batch.question_RL[0].clamp(min=0), batch.segment_RL[0], batch.width
    chains_Q = segment_L.new_zeros(int(question_L.max()) + 1).scatter_reduce(0, question_L, segment_L, "amax")
    segment_L = segment_L * (chains_Q > 1)[question_L]
    start_X = (_changed(question_L) | _changed(segment_L)).index_fill(0, question_L.new_zeros(1), True).nonzero().squeeze(1)
    length_X = torch.cat((start_X[1:], start_X.new_tensor([width]))) - start_X
    of_prompt_X = segment_L[start_X] == 0
    start_Q, length_Q = start_X[of_prompt_X], length_X[of_prompt_X]
    pieces, real = [], []
    for alike_N in _alike(length_X, of_prompt_X):
        place_NW, real_NW = _places(start_X[alike_N], length_X[alike_N])
        pieces.append(Piece(place_NW, place_NW, None))
        real.append(real_NW.flatten())
    for alike_N in _alike(length_X, ~of_prompt_X):
        place_NW, real_NW = _places(start_X[alike_N], length_X[alike_N])
        question_N = question_L[start_X[alike_N]]
        prompt_NP, real_NP = _places(start_Q[question_N], length_Q[question_N])
        number, longest = place_NW.shape
        of_prompt_NWP = real_NP[:, None].expand(-1, longest, -1)
        of_chain_NWW = torch.ones(longest, longest, dtype=torch.bool, device=start_X.device).tril().expand(number, -1, -1)
        mask_NWS = to_be_added(torch.cat((of_prompt_NWP, of_chain_NWW), dim=2), dtype)
        pieces.append(Piece(place_NW, torch.cat((prompt_NP, place_NW), dim=1), mask_NWS[:, None]))
        real.append(real_NW.flatten())
    real_T = torch.cat(real)
    place_L = torch.empty(width, dtype=torch.long, device=start_X.device)
    place_L[torch.cat([piece.query_NW.flatten() for piece in pieces])[real_T]] = real_T.nonzero().squeeze(1)
    return Segments(tuple(pieces), place_L)


def _alike(length_X: Tensor, chosen_X: Tensor) -> list[Tensor]:
    """The chosen ones by length: attention is computed over the longest of a piece, and some chains are many times others."""
    step_X = (length_X - 1) // LENGTHS_OF_PIECE
    return [(chosen_X & (step_X == step)).nonzero().squeeze(1) for step in step_X[chosen_X].unique()]


def _places(start_N: Tensor, length_N: Tensor) -> tuple[Tensor, Tensor]:
    """Of N prompts or chains of a row, the place of every token, and where there is one; both as wide as the longest."""
    place = torch.arange(int(length_N.max()), device=start_N.device)
    there = place < length_N[:, None]
    return (start_N[:, None] + place) * there, there


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
    tokens = [tensor.transpose(1, 2).flatten(0, 1) for tensor in (query_RHLD, key_RHLD, value_RHLD)]

    def attend(piece: Piece) -> Tensor:
        places = piece.query_NW, piece.key_NS, piece.key_NS
        query, key, value = (
            tensor.index_select(0, place.flatten()).unflatten(0, place.shape).transpose(1, 2)
            for tensor, place in zip(tokens, places, strict=True)
        )
        output: Tensor = sdpa_attention_forward(module, query, key, value, piece.mask_N1WS, **more)[0]
        return output.flatten(0, 1)

    found = torch.cat([attend(piece) for piece in segments.pieces])
    return found.index_select(0, segments.place_L)[None], None


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


def _changed(numbers: Tensor) -> Tensor:
    """Along the last dimension, where a number is another than the one before; not so the first."""
    first = torch.zeros_like(numbers[..., :1], dtype=torch.bool)
    return torch.cat((first, numbers[..., 1:] != numbers[..., :-1]), dim=-1)


def _block_mask(*given: Any) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    # Uncompiled it would make the whole square.
    return torch.compile(create_block_mask)(*given)
