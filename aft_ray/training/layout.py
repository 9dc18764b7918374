"""Which layout a model is trained in: prompts shared where that gives the scores that the model itself gives, plain where not."""

import inspect
import logging
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from aft_ray.training.attention import SHARED_PROMPT
from aft_ray.training.batches import Example, Layout, make_batch

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Of a score, nats. What a model does that sharing ignores (positions not rotary, logits scaled) changes far more."""


SHARED: dict[str, Layout] = {"flex_attention": "pack", SHARED_PROMPT: "flat"}
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers, as configurations call them, in which a mask decides all that a token sees."""


def choose_layout(engine: Any, example: Example, max_tokens: int) -> Layout:
    """On all ranks the same. Scores the first chains of an example in both ways, so that little need be known of the model."""
    model = engine.module.model
    config = model.config
    reason = why_plain(model, max_tokens)
    if reason is not None:
        return _plain(reason)
    shared: Layout = SHARED.get(config._attn_implementation, "rows")
    probe = [Example(example.question_id, example.prompt_ids, example.chains[:3])]
    if len(probe[0].chains) == 1:
        probe = [Example(example.question_id, example.prompt_ids, example.chains * 2)]
    tolerance = TOLERANCE[next(engine.module.parameters()).dtype]
    difference = difference_of(engine, probe, shared)
    if not difference <= tolerance and config._attn_implementation == SHARED_PROMPT:
        model.set_attn_implementation("sdpa")  # with a dense mask, which more models follow
        shared = "rows"
        difference = difference_of(engine, probe, shared)
    return shared if difference <= tolerance else _plain(f"with a shared prompt its scores differ by {difference:.2g} nats")


def why_plain(model: PreTrainedModel, max_tokens: int) -> str | None:
    """What a model is known by that cannot share prompts, though it has no weights yet."""
    if "position_ids" not in inspect.signature(model.base_model.forward).parameters:
        return "it takes no positions"
    if has_state(model):
        return "layers of it carry a state from token to token"
    window = shortest_window(model.config)
    if window is not None and max_tokens > window:
        return f"its attention has a window of {window} tokens, below max_tokens = {max_tokens}"
    return None


def has_state(model: PreTrainedModel) -> bool:
    """Whether some layer reads a row as it stands, whatever a mask says: a state space, linear attention, a convolution."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    return bool(kinds - ATTENTION) or any(isinstance(module, torch.nn.Conv1d) for module in model.modules())


def difference_of(engine: Any, probe: list[Example], shared: Layout) -> float:
    """Of the scores with a shared prompt from those of the model's own; over all ranks."""
    with torch.no_grad():
        alone = engine(make_batch(probe, "plain").to(engine.device))
        try:
            difference = (engine(make_batch(probe, shared).to(engine.device)) - alone).abs().max()
        except TypeError:  # its forward does not hand on what attention is to know
            difference = alone.new_tensor(torch.inf)
    if torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(difference, torch.distributed.ReduceOp.MAX)
    return float(difference)


def shortest_window(config: PretrainedConfig) -> int | None:
    """How far back some layer sees, in tokens; None where all see everything. A mask of ours takes the place of such a window."""
    config = config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    windows = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    names = windows.values() if kinds is None else {windows[kind] for kind in kinds if kind in windows}
    found = [size for name in names if (size := getattr(config, name, None)) is not None]
    return min(found, default=None)


def _plain(reason: str) -> Layout:
    logging.getLogger(__name__).warning("This model is trained with every chain in a row of its own, which is slower: %s", reason)
    return "plain"
