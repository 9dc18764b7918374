"""The log-likelihood head: from hidden states and target tokens to log-likelihoods, with no [tokens, vocabulary] tensor.

Logits are made for a part of the vocabulary at a time and reduced at once. Up to a limit they are kept, and become their own
gradient in backward; beyond it backward makes them again, for one matrix product in four. Parts of the vocabulary, not of the
tokens, because then each weight's gradient is written once. As in Cut Your Losses (arXiv 2411.09009) and
https://github.com/linkedin/Liger-Kernel, whose fused loss must know each token's gradient already in forward; here it depends on
all chains of a question. fp32 from the logits on. On a GPU what is between the matrix products is compiled: each a single reading
of the logits.

Shape suffixes: T tokens, H hidden size, V vocabulary, W a part of the vocabulary.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

LOGITS_AT_A_TIME = {"cpu": 2**23, "cuda": 2**27}
LOGITS_KEPT = {"cpu": 2**26, "cuda": 2**29}
ALIGNED = 256
"""A part of the vocabulary is a multiple of this: at odd widths a GPU takes kernels of its ancestors, three times as slow."""


class LogLikelihoodHead(nn.Module):
    """A language model's output layer as a function of targets. A module, so that ZeRO-3 gathers its weights."""

    def __init__(self, output: nn.Linear, cap: float | None = None) -> None:
        """`cap`: logits l become cap * tanh(l / cap), as Gemma 2 has it (arXiv 2408.00118, section 2)."""
        super().__init__()
        self.weight, self.bias, self.cap = output.weight, output.bias, cap

    def forward(self, hidden_TH: Tensor, target_T: Tensor) -> Tensor:
        """Log-likelihood [T] of each target, nats, fp32."""
        result: Tensor = _LogLikelihood.apply(hidden_TH, self.weight, self.bias, target_T, self.cap, torch.is_grad_enabled())
        return result


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        target_T: Tensor,
        cap: float | None,
        goes_back: bool,
    ) -> Tensor:
        logsumexp_T = hidden_TH.new_full((len(hidden_TH),), -torch.inf, dtype=torch.float32)
        target_logit_T = torch.zeros_like(logsumexp_T)
        room = LOGITS_KEPT[hidden_TH.device.type] if goes_back else 0
        ctx.kept, ctx.cap = {}, cap
        for part in _parts(hidden_TH, weight_VH):
            logits_TW = _logits(hidden_TH, weight_VH, bias_V, part, cap)
            place_T, inside_T = _place(target_T, part)
            of_part_T, at_place_T = _on(hidden_TH.device, _reduced)(logits_TW, place_T)
            logsumexp_T = torch.logaddexp(logsumexp_T, of_part_T)
            target_logit_T += at_place_T * inside_T
            if logits_TW.numel() <= room:
                ctx.kept[part.start] = logits_TW
                room -= logits_TW.numel()
        ctx.save_for_backward(hidden_TH, weight_VH, bias_V, target_T, logsumexp_T)
        return target_logit_T - logsumexp_T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient by a logit: that of its token's log-likelihood, times [is the target] - softmax."""
        (gradient_T,) = gradients
        hidden_TH, weight_VH, bias_V, target_T, logsumexp_T = ctx.saved_tensors
        by_hidden_TH = torch.zeros_like(hidden_TH, dtype=torch.float32)
        by_weight_VH = torch.empty_like(weight_VH) if ctx.needs_input_grad[1] else None
        by_bias_V = torch.empty_like(bias_V) if ctx.needs_input_grad[2] else None
        for part in _parts(hidden_TH, weight_VH):
            logits_TW = ctx.kept.pop(part.start, None)
            if logits_TW is None:
                logits_TW = _logits(hidden_TH, weight_VH, bias_V, part, ctx.cap)
            place_T, inside_T = _place(target_T, part)
            by_logit_TW = _on(hidden_TH.device, _by_logit)(logits_TW, logsumexp_T, gradient_T, place_T, inside_T, ctx.cap)
            by_hidden_TH += by_logit_TW @ weight_VH[part]
            if by_weight_VH is not None:
                torch.mm(by_logit_TW.T, hidden_TH, out=by_weight_VH[part])
            if by_bias_V is not None:
                by_bias_V[part] = by_logit_TW.sum(dim=0)
        return by_hidden_TH.to(hidden_TH.dtype), by_weight_VH, by_bias_V, None, None, None


def _parts(hidden_TH: Tensor, weight_VH: Tensor) -> Iterator[slice]:
    size = max(1, LOGITS_AT_A_TIME[hidden_TH.device.type] // len(hidden_TH))
    size = size // ALIGNED * ALIGNED or size
    for start in range(0, len(weight_VH), size):
        yield slice(start, min(start + size, len(weight_VH)))


def _logits(hidden_TH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, part: slice, cap: float | None) -> Tensor:
    logits_TW = linear(hidden_TH, weight_VH[part], None if bias_V is None else bias_V[part])
    return logits_TW if cap is None else logits_TW.div_(cap).tanh_().mul_(cap)


def _reduced(logits_TW: Tensor, place_T: Tensor) -> tuple[Tensor, Tensor]:
    """Their logsumexp, and the logit at a place, fp32 [T]."""
    logits_TW = logits_TW.float()
    return logits_TW.logsumexp(dim=1), logits_TW.gather(1, place_T[:, None]).squeeze(1)


def _by_logit(
    logits_TW: Tensor, logsumexp_T: Tensor, gradient_T: Tensor, place_T: Tensor, inside_T: Tensor, cap: float | None
) -> Tensor:
    """The gradient by each logit, before it was capped, in the logits' type. May take their memory."""
    slope_TW = None if cap is None else 1 - (logits_TW.float() / cap).square()
    by_logit_TW = logits_TW.float().sub_(logsumexp_T[:, None]).exp_().mul_(-gradient_T[:, None])
    by_logit_TW.scatter_add_(1, place_T[:, None], (gradient_T * inside_T)[:, None])
    if slope_TW is not None:
        by_logit_TW.mul_(slope_TW)
    return by_logit_TW.to(logits_TW.dtype)


def _on(device: torch.device, function: Callable[..., Any]) -> Callable[..., Any]:
    return _compiled(function) if device.type == "cuda" else function


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def _place(target_T: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Where the target stands in this part of the vocabulary, and whether it does."""
    place_T = target_T - part.start
    return place_T.clamp(0, part.stop - part.start - 1), (target_T >= part.start) & (target_T < part.stop)
