"""The layouts of a micro-batch over families of models: sharing a prompt, splitting a question, one chain a row."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3NextConfig,
)

from aft_ray.losses import bound_loss
from aft_ray.training import attention
from aft_ray.training.batches import Chain, Example, make_batch
from aft_ray.training.division import share_out
from aft_ray.training.layout import SHARED, choose_layout, shortest_window
from aft_ray.training.passes import run_passes
from aft_ray.training.scores import GlobalLoss, Scorer

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {"intermediate_size": 48, "num_key_value_heads": 1}
FAMILIES = {
    "llama": LlamaConfig(**SIZES, **WIDE, initializer_range=0.3, tie_word_embeddings=True),
    "qwen": Qwen2Config(**SIZES, **WIDE, initializer_range=0.3),
    "gpt_neox": GPTNeoXConfig(**SIZES, intermediate_size=48, initializer_range=0.3, rotary_pct=0.5, attention_dropout=0.0),
    "bloom": BloomConfig(**SIZES, initializer_range=0.3),
    "gemma2": Gemma2Config(**SIZES, **WIDE, head_dim=16, initializer_range=0.3, final_logit_softcapping=5.0),
    "gpt_oss": GptOssConfig(
        **SIZES, **WIDE, head_dim=16, initializer_range=0.3, num_local_experts=2, num_experts_per_tok=1, sliding_window=4096
    ),
    "cohere": CohereConfig(**SIZES, **WIDE, initializer_range=0.3, logit_scale=0.25),
    "granite": GraniteConfig(**SIZES, **WIDE, initializer_range=0.3, logits_scaling=8.0),
    "lfm2": Lfm2Config(**SIZES, **WIDE, layer_types=["conv", "full_attention"]),
    "qwen3_next": Qwen3NextConfig(
        **SIZES,
        **WIDE,
        head_dim=16,
        layer_types=["linear_attention", "full_attention"],
        num_experts=2,
        num_experts_per_tok=1,
        linear_num_key_heads=1,
        linear_num_value_heads=1,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "mistral": MistralConfig(**SIZES, **WIDE, initializer_range=0.3, sliding_window=24),
}
ROTARY = ("llama", "qwen", "gpt_neox")
WAYS = [(family, how) for family in ROTARY for how in ("sdpa", attention.SHARED_PROMPT)]
WAYS += [("gemma2", "eager"), ("gpt_oss", "eager"), ("cohere", attention.SHARED_PROMPT)]


@pytest.fixture(scope="module", params=WAYS)
def rotary(request):
    family, how = request.param
    model = made(family)
    model.set_attn_implementation(how)
    return model


def shared(model):
    """The layout that shares prompts, by a model's attention."""
    return SHARED.get(model.config._attn_implementation, "rows")


def made(family):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(FAMILIES[family]), dtype=torch.float32).eval()


tokens = st.integers(3, 60)
ids = st.lists(tokens, min_size=1, max_size=16).map(tuple)
candidates = st.builds(Chain, ids, st.sampled_from(["positive", "negative"]))
questions = st.builds(Example, st.just("q"), ids, st.lists(candidates, min_size=1, max_size=8).map(tuple))


def gradient_of(model, batch, budget, layout):
    """Loss and gradient of a global batch on one rank."""
    model.zero_grad()
    loss = GlobalLoss(bound_loss("bc", 0.2, {}), 1.0, 1.0, vft_covers_positives=True)
    (share,) = share_out(batch, 1, budget, layout)
    scorer = Scorer(model)

    def score(made):
        return scorer(made.to(model.device))

    sums = run_passes(score, lambda value, last: value.backward(), loss, share, batch, layout)
    return share, sums["loss"], torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@settings(max_examples=15)
@given(batch=st.lists(questions, min_size=1, max_size=3), budget=st.integers(20, 60))
def test_shared_split_and_plain_give_the_same_loss_and_gradient(rotary, batch, budget):
    _, loss, gradient = gradient_of(rotary, batch, 10**6, "plain")
    for limit in (10**6, budget):
        share, other_loss, other = gradient_of(rotary, batch, limit, shared(rotary))
        assert limit == budget or not share.split
        assert other_loss == pytest.approx(loss, rel=1e-5, abs=1e-6)
        assert (other - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7


def test_a_question_over_the_budget_is_split_and_never_whole(rotary):
    """The largest pass is within the budget, and all chains still meet in one loss."""
    chains = tuple(Chain(tuple(range(3, 13)), role) for role in ("positive", "negative") * 10)
    share, *_ = gradient_of(rotary, [Example("q", (5, 6, 7), chains)], 50, shared(rotary))
    assert len(share.split[0]) == 5
    assert max(make_batch(part, shared(rotary)).input_ids_RL.numel() for part in share.with_gradient) <= 50


@settings(max_examples=30, deadline=None)
@given(batch=st.lists(questions, min_size=1, max_size=4))
def test_the_block_mask_of_a_pack_lets_each_chain_see_its_prompt_and_itself(batch):
    """FlexAttention's own reading of our rule, made dense, against a loop over tokens."""
    model = made("llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_block_mask", create_mask)
        dense = attention.attention_arguments(make_batch(batch, "pack"), model)["attention_mask"][0, 0]
    assert len(dense) % 128 == 0
    owner = []
    for number, example in enumerate(batch):
        owner += [(number, None)] * len(example.prompt_ids)
        owner += [(number, place) for place, chain in enumerate(example.chains) for _ in chain.token_ids]
    for query, (question, chain) in enumerate(owner):
        seen = [key for key in range(query + 1) if owner[key][0] == question and owner[key][1] in (None, chain)]
        assert dense[query].nonzero().flatten().tolist() == seen
    assert dense.any(dim=1).all(), "a token that sees nothing makes NaN"


@settings(max_examples=10)
@given(batch=st.lists(questions, min_size=1, max_size=3))
def test_a_pack_gives_the_scores_of_rows(rotary, batch):
    """With the rule made dense, which any attention takes: FlexAttention itself runs on a GPU only."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(attention, "_block_mask", lambda *given: attention.to_be_added(create_mask(*given), torch.float32))
        packed = Scorer(rotary)(make_batch(batch, "pack"))
        torch.testing.assert_close(packed, Scorer(rotary)(make_batch(batch, shared(rotary))), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bloom", "gemma2", "mistral", "llama"])
def test_the_plain_layout_gives_the_models_own_scores_and_makes_no_logits_of_prompts(family):
    model, chains = made(family), tuple(Chain(tuple(range(5, length)), "positive") for length in (8, 11, 9))
    batch = [Example("short", (7, 8), chains), Example("long", tuple(range(20, 60)), chains)]
    made_of = []
    model.get_output_embeddings().register_forward_hook(lambda _, given, logits: made_of.append(logits.shape[:2]))
    with torch.no_grad():
        scores = Scorer(model)(make_batch(batch[1:], "plain"))
        assert made_of == [(3, 6)], "the longest chain's tokens, of 46"
        scores = torch.cat([Scorer(model)(make_batch(batch, "plain"))[:3], scores])
        for score, (example, chain) in zip(scores, ((example, chain) for example in batch for chain in chains), strict=True):
            tokens = torch.tensor([[*example.prompt_ids, *chain.token_ids]])
            all_T = model(tokens).logits[0, :-1].log_softmax(dim=1).gather(1, tokens[0, 1:, None])
            assert score.item() == pytest.approx(all_T[-len(chain.token_ids) :].mean().item(), rel=1e-5)


class Engine(torch.nn.Module):
    """What choose_layout needs of DeepSpeed's."""

    device = torch.device("cpu")

    def __init__(self, model):
        super().__init__()
        self.module = Scorer(model)

    def forward(self, batch):
        return self.module(batch)


EXAMPLE = Example("q", tuple(range(3, 13)), tuple(Chain(tuple(range(5 + i, 15 + i)), "positive") for i in range(3)))


@pytest.fixture(autouse=True)
def one_rank(monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)


@pytest.mark.parametrize(
    ("family", "layout", "because"),
    [
        ("llama", "flat", None),
        ("qwen", "flat", None),
        ("gpt_neox", "flat", None),
        ("bloom", "plain", "takes no positions"),
        ("gemma2", "rows", None),
        ("gpt_oss", "rows", None),
        ("cohere", "flat", None),
        ("granite", "flat", None),
        ("mistral", "plain", "window of 24 tokens"),
        ("lfm2", "plain", "carry a state"),
        ("qwen3_next", "plain", "carry a state"),
    ],
)
def test_prompts_are_shared_where_that_gives_the_models_own_scores(family, layout, because, caplog):
    model = made(family)
    if layout == "flat":
        assert choose_layout(Engine(model), EXAMPLE, 100) == "rows", "with a dense mask"
    attention.set_own_attention(model)
    assert choose_layout(Engine(model), EXAMPLE, 100) == layout
    assert (because or "") in caplog.text
    assert bool(caplog.text) == (because is not None)


def test_a_model_whose_forward_hands_nothing_on_to_attention_gets_a_dense_mask(monkeypatch, caplog):
    model = made("llama")
    model.set_attn_implementation(attention.SHARED_PROMPT)
    forward = model.model.forward

    def narrow(position_ids=None, **more):
        if "segments" in more:
            raise TypeError("unexpected keyword argument")
        return forward(position_ids=position_ids, **more)

    monkeypatch.setattr(model.model, "forward", narrow)
    assert choose_layout(Engine(model), EXAMPLE, 100) == "rows"
    assert model.config._attn_implementation == "sdpa"
    assert not caplog.text


def test_a_window_that_no_chain_outgrows_is_none():
    model = made("mistral")
    assert choose_layout(Engine(model), EXAMPLE, 24) == "rows"
    assert shortest_window(FAMILIES["gemma2"]) == 4096
    assert shortest_window(FAMILIES["qwen"]) is None
    assert shortest_window(FAMILIES["llama"]) is None


def test_an_idle_pass_reaches_every_parameter_and_adds_nothing(rotary):
    rotary.zero_grad()
    Scorer(rotary)(make_batch([], shared(rotary))).sum().backward()
    used = [
        parameter for name, parameter in rotary.named_parameters() if "embed" not in name or rotary.config.tie_word_embeddings
    ]
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in used)
