"""The log-likelihood head: from hidden states and target tokens to log-likelihoods, with no [tokens, vocabulary] tensor.

Logits are made for some tokens at a time and reduced at once. Up to a limit they are kept, and become their own gradient in
backward; beyond it backward makes them again, for one matrix product in four. Chunks as in
https://github.com/linkedin/Liger-Kernel (fused linear cross-entropy), which must know each token's gradient already in forward;
here it depends on all chains of a question. fp32 from the logits on.

Shape suffixes: T tokens, H hidden size, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

LOGITS_AT_A_TIME = {"cpu": 2**23, "cuda": 2**27}
LOGITS_KEPT = {"cpu": 2**26, "cuda": 2**28}


class LogLikelihoodHead(nn.Module):
    """A language model's output layer as a function of targets. A module, so that ZeRO-3 gathers its weights."""

    def __init__(self, output: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = output.weight, output.bias

    def forward(self, hidden_TH: Tensor, target_T: Tensor) -> Tensor:
        """Log-likelihood [T] of each target, nats, fp32."""
        result: Tensor = _LogLikelihood.apply(hidden_TH, self.weight, self.bias, target_T)
        return result


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_TH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_T: Tensor) -> Tensor:
        log_likelihood_T = hidden_TH.new_empty(len(hidden_TH), dtype=torch.float32)
        logsumexp_T = torch.empty_like(log_likelihood_T)
        room = LOGITS_KEPT[hidden_TH.device.type] if any(ctx.needs_input_grad) else 0
        ctx.kept = {}
        for part in _parts(hidden_TH, weight_VH):
            logits_TV = linear(hidden_TH[part], weight_VH, bias_V).float()
            logsumexp_T[part] = logits_TV.logsumexp(dim=1)
            log_likelihood_T[part] = logits_TV.gather(1, target_T[part, None]).squeeze(1) - logsumexp_T[part]
            if logits_TV.numel() <= room:
                ctx.kept[part.start] = logits_TV
                room -= logits_TV.numel()
        ctx.save_for_backward(hidden_TH, weight_VH, bias_V, target_T, logsumexp_T)
        return log_likelihood_T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient by a logit: that of its token's log-likelihood, times [is the target] - softmax."""
        (gradient_T,) = gradients
        hidden_TH, weight_VH, bias_V, target_T, logsumexp_T = ctx.saved_tensors
        by_hidden_TH = torch.empty_like(hidden_TH)
        by_weight_VH = torch.zeros_like(weight_VH) if ctx.needs_input_grad[1] else None
        by_bias_V = torch.zeros_like(bias_V) if ctx.needs_input_grad[2] else None
        for part in _parts(hidden_TH, weight_VH):
            logits_TV = ctx.kept.pop(part.start, None)
            if logits_TV is None:
                logits_TV = linear(hidden_TH[part], weight_VH, bias_V).float()
            by_logit_TV = logits_TV.sub_(logsumexp_T[part, None]).exp_().mul_(-gradient_T[part, None])
            by_logit_TV.scatter_add_(1, target_T[part, None], gradient_T[part, None])
            by_logit_TV = by_logit_TV.to(hidden_TH.dtype)
            by_hidden_TH[part] = by_logit_TV @ weight_VH
            if by_weight_VH is not None:
                by_weight_VH.addmm_(by_logit_TV.T, hidden_TH[part])
            if by_bias_V is not None:
                by_bias_V += by_logit_TV.sum(dim=0)
        return by_hidden_TH, by_weight_VH, by_bias_V, None


def _parts(hidden_TH: Tensor, weight_VH: Tensor) -> Iterator[slice]:
    size = max(1, LOGITS_AT_A_TIME[hidden_TH.device.type] // len(weight_VH))
    for start in range(0, len(hidden_TH), size):
        yield slice(start, start + size)
