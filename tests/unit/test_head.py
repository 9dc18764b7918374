"""The head against log_softmax of whole logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aft_ray.training import head

VOCABULARY, HIDDEN = 23, 6


def both(tokens, bias, cap, seed):
    """Log-likelihoods and gradients of ours and of log_softmax, for the same random weights of the tokens."""
    torch.manual_seed(seed)
    output = torch.nn.Linear(HIDDEN, VOCABULARY, bias=bias)
    hidden, targets, weights = torch.randn(tokens, HIDDEN), torch.randint(0, VOCABULARY, (tokens,)), torch.randn(tokens)
    found = []

    def whole(hidden, targets):
        logits = output(hidden).double()
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)

    for way in (head.LogLikelihoodHead(output, cap), whole):
        inputs = [hidden.clone().requires_grad_(), *output.parameters()]
        values = way(inputs[0], targets)
        found.append([values, *torch.autograd.grad((values * weights).sum(), inputs)])
    return zip(*found, strict=True)


@given(
    tokens=st.integers(1, 40),
    bias=st.booleans(),
    cap=st.sampled_from([None, 0.5, 30.0]),
    at_a_time=st.integers(1, 50 * VOCABULARY),
    kept=st.integers(0, 40 * VOCABULARY),
    seed=st.integers(0, 99),
)
def test_in_chunks_kept_or_made_again_it_is_log_softmax(tokens, bias, cap, at_a_time, kept, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(head.LOGITS_AT_A_TIME, "cpu", at_a_time)
        patch.setitem(head.LOGITS_KEPT, "cpu", kept)
        for ours, theirs in both(tokens, bias, cap, seed):
            torch.testing.assert_close(ours.double(), theirs.double(), atol=1e-5, rtol=1e-5)


def test_what_is_not_trained_gets_no_gradient():
    output = torch.nn.Linear(HIDDEN, VOCABULARY)
    output.weight.requires_grad_(False)
    hidden = torch.randn(5, HIDDEN, requires_grad=True)
    head.LogLikelihoodHead(output)(hidden, torch.arange(5)).sum().backward()
    assert output.weight.grad is None
    assert hidden.grad is not None
    assert output.bias.grad is not None


def test_no_tensor_of_tokens_times_vocabulary_is_made():
    """Of every tensor that an operation gives, the largest is a chunk of logits or the weights."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, arguments=(), more=None):
            result = function(*arguments, **(more or {}))
            if isinstance(result, torch.Tensor):
                self.size = max(self.size, result.numel())
            return result

    tokens, vocabulary = 400, 997
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(head.LOGITS_AT_A_TIME, "cpu", 50 * tokens)
        patch.setitem(head.LOGITS_KEPT, "cpu", 0)
        layer = head.LogLikelihoodHead(torch.nn.Linear(HIDDEN, vocabulary))
        with Largest() as largest:
            layer(torch.randn(tokens, HIDDEN), torch.arange(tokens)).sum().backward()
    assert largest.size == 50 * tokens


@pytest.mark.parametrize(("room", "made_again"), [(0, 7), (2.5, 5), (100, 0)])
def test_logits_are_kept_up_to_a_limit_and_beyond_it_made_again(room, made_again, monkeypatch):
    tokens, part, parts, made = 10, 4, 7, []
    usual = head._logits
    monkeypatch.setitem(head.LOGITS_AT_A_TIME, "cpu", tokens * part)
    monkeypatch.setitem(head.LOGITS_KEPT, "cpu", int(room * tokens * part))
    monkeypatch.setattr(head, "_logits", lambda *given: made.append(given) or usual(*given))
    hidden = torch.randn(tokens, HIDDEN, requires_grad=True)
    scores = head.LogLikelihoodHead(torch.nn.Linear(HIDDEN, part * parts))(hidden, torch.arange(tokens))
    assert len(made) == parts
    scores.sum().backward()
    assert len(made) == parts + made_again
