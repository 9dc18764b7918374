"""Packs of several questions under FlexAttention, and the head, against every chain in a row of its own on the same GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aft_ray.training import head
from aft_ray.training.batches import Chain, Example, make_batch
from aft_ray.training.layout import choose_layout
from aft_ray.training.scores import Scorer
from tests.unit.test_layouts import EXAMPLE, FAMILIES, ROTARY, Engine, candidates, gradient_of, ids, made, one_rank

__all__ = ["one_rank"]
GPU = torch.device("cuda")


@pytest.fixture(scope="module", params=ROTARY)
def model(request):
    # FlexAttention takes heads of 16 dimensions or more, which these have.
    assert FAMILIES[request.param].hidden_size // FAMILIES[request.param].num_attention_heads == 16
    found = made(request.param).to(GPU)
    found.set_attn_implementation("flex_attention")
    return found


questions = st.builds(Example, st.just("q"), ids, st.lists(candidates, min_size=1, max_size=8).map(tuple))


@settings(max_examples=10)
@given(batch=st.lists(questions, min_size=1, max_size=6))
def test_a_pack_gives_the_loss_and_the_gradient_of_plain_rows(model, batch):
    _, loss, gradient = gradient_of(model, batch, 10**6, "pack")
    model.set_attn_implementation("sdpa")
    _, expected_loss, expected = gradient_of(model, batch, 10**6, "plain")
    model.set_attn_implementation("flex_attention")
    assert loss == pytest.approx(expected_loss, rel=1e-5, abs=1e-6)
    assert (gradient - expected).norm() <= 1e-5 * expected.norm() + 1e-7


def test_a_long_pack_whose_chains_cross_blocks(model):
    """Prompts and chains longer than FlexAttention's blocks of 128, so that some are wholly seen, some in part, some not."""
    torch.manual_seed(0)
    draw = lambda length: tuple(torch.randint(3, 60, (length,)).tolist())  # noqa: E731
    batch = [Example("q", draw(200 + 77 * n), tuple(Chain(draw(150 + 41 * i), "positive") for i in range(4))) for n in range(3)]
    with torch.no_grad():
        packed = Scorer(model)(make_batch(batch, "pack").to(GPU))
        model.set_attn_implementation("sdpa")
        plain = Scorer(model)(make_batch(batch, "plain").to(GPU))
        model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=1e-5)


def test_a_model_with_flex_attention_is_trained_in_packs(model):
    engine = Engine(model)
    engine.device = GPU
    assert choose_layout(engine, EXAMPLE, 100) == "pack"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_is_as_exact_as_whole_logits_in_fp64(dtype, monkeypatch):
    """In parts of the vocabulary, some kept and some not. bf16: as near as whole logits of bf16 come."""
    torch.manual_seed(0)
    monkeypatch.setitem(head.LOGITS_AT_A_TIME, "cuda", 2**16)
    monkeypatch.setitem(head.LOGITS_KEPT, "cuda", 2**17)
    layer = torch.nn.Linear(64, 5000, bias=False, device=GPU, dtype=dtype)
    hidden_TH, target_T = torch.randn(90, 64, device=GPU, dtype=dtype), torch.randint(0, 5000, (90,), device=GPU)
    gradient_T = torch.rand(90, device=GPU)

    def found(log_likelihoods, kind):
        hidden = hidden_TH.to(kind).clone().requires_grad_()
        output = torch.nn.Linear(64, 5000, bias=False, device=GPU, dtype=kind)
        output.weight.data.copy_(layer.weight)
        value_T = log_likelihoods(hidden, output)
        value_T.backward(gradient_T.to(value_T.dtype))
        return [tensor.double() for tensor in (value_T.detach(), hidden.grad, output.weight.grad)]

    def ours(hidden, output):
        return head.LogLikelihoodHead(output)(hidden, target_T)

    def whole(hidden, output):
        return output(hidden).log_softmax(1).gather(1, target_T[:, None]).squeeze(1)

    exact, mine, theirs = found(whole, torch.float64), found(ours, dtype), found(whole, dtype)
    for right, own, other in zip(exact, mine, theirs, strict=True):
        error = (own - right).norm() / right.norm()
        assert error < (1e-5 if dtype == torch.float32 else max(1.1 * (other - right).norm() / right.norm(), 5e-3))
