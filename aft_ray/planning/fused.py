"""What a GPU runs fused, on torch's meta device: stand-ins that keep for backward what FlexAttention and Liger's kernels keep.

They compute nothing. Kept, by the sources of both: queries, keys, values, outputs and a logsumexp of every head and token
(torch.nn.attention.flex_attention); the input of a norm and a number a token; both inputs of an activation times a gate
(liger_kernel.ops).
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

FUSED = "fused_stand_in"


def with_stand_ins(model: PreTrainedModel) -> PreTrainedModel:
    """In a model on meta: for FlexAttention where it has that, for norms and gates that look as if Liger had kernels for them."""
    if model._supports_flex_attn:
        model.set_attn_implementation(FUSED)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(_norm, module)
        elif all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj")):
            module.forward = MethodType(_gated, module)
    return model


class _Keeping(torch.autograd.Function):
    """From some tensors to one like the first; keeps them, the output where `and_output`, and fp32 numbers."""

    @staticmethod
    def forward(ctx: Any, numbers: int, and_output: bool, *inputs: Tensor) -> Tensor:
        output = torch.empty_like(inputs[0])
        kept = [*inputs, output] if and_output else list(inputs)
        ctx.save_for_backward(*kept, inputs[0].new_empty(numbers, dtype=torch.float32))
        return output


def _norm(module: nn.Module, hidden_RLH: Tensor) -> Tensor:
    output: Tensor = _Keeping.apply(hidden_RLH.shape[:-1].numel(), False, hidden_RLH)
    return output


def _gated(module: Any, hidden_RLH: Tensor) -> Tensor:
    output: Tensor = module.down_proj(_Keeping.apply(0, False, module.gate_proj(hidden_RLH), module.up_proj(hidden_RLH)))
    return output


def _attention(
    module: nn.Module, query_RHLD: Tensor, key_RHLD: Tensor, value_RHLD: Tensor, mask: Any, **more: Any
) -> tuple[Tensor, None]:
    output = _Keeping.apply(query_RHLD.shape[:-1].numel(), True, query_RHLD, key_RHLD, value_RHLD)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(FUSED, _attention)
AttentionMaskInterface.register(FUSED, sdpa_mask)
