"""Packing and scoring against transformers' own forward, and the loss of a global batch against a plain loop."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from aft_ray.config import AlignmentConfig, ModelConfig, ResourcesConfig, TrainingConfig
from aft_ray.losses import bound_loss
from aft_ray.training import attention
from aft_ray.training.attention import SHARED_PROMPT
from aft_ray.training.batches import Chain, Example, make_batch
from aft_ray.training.division import cost, global_batches, share_out
from aft_ray.training.examples import alignment_examples, within
from aft_ray.training.job import TrainingJob
from aft_ray.training.passes import run_passes
from aft_ray.training.scores import GlobalLoss, Scorer, batch_measures, boundaries_of, by_question
from aft_ray.training.worker import global_loss, schedule
from schemas import Candidate, CandidateGroup, Question

tokens = st.integers(3, 60)
chains = st.builds(
    Chain, st.lists(tokens, min_size=1, max_size=12).map(tuple), st.sampled_from(["reference", "positive", "negative"])
)
examples = st.builds(
    Example,
    st.just("q"),
    st.lists(tokens, min_size=1, max_size=12).map(tuple),
    st.lists(chains, min_size=1, max_size=4).map(tuple),
)
batches = st.lists(examples, min_size=1, max_size=4)
BETA = 0.05


@pytest.fixture(scope="module", autouse=True)
def short_pieces():
    """So that chains as short as these come in several pieces too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "LENGTHS_OF_PIECE", 4)
        yield


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).double()
    model.set_attn_implementation(SHARED_PROMPT)
    return model


def score_alone(model, prompt, chain):
    """transformers' own forward over [prompt, chain], nothing packed."""
    ids = torch.tensor([[*prompt, *chain]])
    log_probabilities = model(ids).logits[0].log_softmax(-1)
    places = torch.arange(len(prompt), ids.shape[1])
    return log_probabilities[places - 1, ids[0, places]].mean()


@settings(max_examples=40)
@given(batch=batches, layout=st.sampled_from(["flat", "rows"]))
def test_packed_scores_are_those_of_each_chain_alone(model, batch, layout):
    with torch.no_grad():
        packed = Scorer(model)(make_batch(batch, layout))
        alone = torch.stack([score_alone(model, e.prompt_ids, c.token_ids) for e in batch for c in e.chains])
    torch.testing.assert_close(packed.double(), alone, atol=1e-5, rtol=1e-5)


def test_scores_of_the_shipped_model_are_those_of_transformers(tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32, attn_implementation=SHARED_PROMPT)
    batch = [Example("q", (5, 6, 7, 8), (Chain((9, 10, 11), "positive"), Chain((12, 13), "negative")))]
    with torch.no_grad():
        packed = Scorer(model)(make_batch(batch, "flat"))
        alone = torch.stack([score_alone(model, batch[0].prompt_ids, chain.token_ids) for chain in batch[0].chains])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_an_empty_batch_passes_and_leaves_gradients_zero(model):
    model.zero_grad()
    scores = Scorer(model)(make_batch([], "flat"))
    assert scores.shape == (0,)
    loss, sums = GlobalLoss(bound_loss("bc", 0.2, {}), 1.0, 1.0, False).part(scores, [], [])
    loss.backward()
    assert set(sums.values()) == {0.0}
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)


def measured_by_hand(scored):
    """Mean scores by role over the chains of a batch, assessment accuracy over its questions, negatives under their boundary."""
    found = {}
    for role in ("reference", "positive", "negative"):
        values = [s.item() for row in scored for c, s in row if c.role == role]
        found[f"{role}_score"] = sum(values) / len(values) if values else None
    leads = [[(p - n).item() for c, p in row for d, n in row if (c.role, d.role) == ("positive", "negative")] for row in scored]
    if any(min(abs(lead), abs(lead - BETA)) < 1e-5 for question in leads for lead in question):
        return found  # which of two equal scores is higher, rounding decides
    # Of a question: for every negative, by how much the worst positive leads.
    worst = [[min((p - n).item() for c, p in row if c.role == "positive") for d, n in row if d.role == "negative"]
             for row in scored if any(c.role == "positive" for c, _ in row)]  # fmt: skip
    under = [lead > BETA for question in worst for lead in question]
    found["under_boundary"] = sum(under) / len(under) if under else None
    shares = [sum(lead > 0 for lead in question) / len(question) for question in leads if question]
    return found | {"assessment_accuracy": sum(shares) / len(shares) if shares else None}


@settings(max_examples=30)
@given(
    batch=batches,
    world_size=st.integers(1, 3),
    budget=st.integers(1, 200),
    covers=st.booleans(),
    layout=st.sampled_from(["flat", "rows", "plain"]),
)
def test_however_divided_the_gradient_is_that_of_the_whole_batch(model, batch, world_size, budget, covers, layout):
    """Independent of the packing: one chain at a time, the formula of the loss in a loop. Small budgets split a question."""
    model.zero_grad()
    roles = ("reference", "positive") if covers else ("reference",)
    scored = [[(c, score_alone(model, e.prompt_ids, c.token_ids)) for c in e.chains] for e in batch]
    covered = [(s, len(c.token_ids)) for row in scored for c, s in row if c.role in roles]
    expected = -sum(s * size for s, size in covered) / max(1, sum(size for _, size in covered))
    for row in scored:
        pairs = [(s - p).exp() for c, p in row for d, s in row if c.role == "positive" and d.role == "negative"]
        if pairs:
            expected = expected + 0.7 * (1 + sum(pairs)).log() / len(batch)
    if isinstance(expected, torch.Tensor) and expected.requires_grad:
        expected.backward()
    wanted = {name: p.grad.clone() if p.grad is not None else torch.zeros_like(p) for name, p in model.named_parameters()}

    model.zero_grad()
    loss = GlobalLoss(bound_loss("unconstrained", 0.0, {}), 0.7, vft_weight=1.0, vft_covers_positives=covers, beta=BETA)
    sums = Counter()
    shares = share_out(batch, world_size, budget, layout)
    for share in shares:
        ends = []

        def backward(value, last, ends=ends):
            ends.append(last)
            value.backward()

        sums.update(run_passes(Scorer(model), backward, loss, share, batch, layout))
        assert ends == [False] * (len(share.with_gradient) - 1) + [True] * (len(share.with_gradient) > 0)
    total = sums["loss"]
    measured = batch_measures(sums)
    for name, value in measured_by_hand(scored).items():
        assert measured[name] == (None if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)), name
    assert total == pytest.approx(float(torch.as_tensor(expected).detach()), rel=1e-5, abs=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-4)


def ids_of(share) -> set[str]:
    return {example.question_id for part in share.with_gradient for example in part}


@given(
    batch=st.lists(examples, min_size=1, max_size=12),
    world_size=st.integers(1, 5),
    budget=st.integers(1, 120),
    layout=st.sampled_from(["flat", "rows", "pack", "plain"]),
)
def test_every_chain_goes_to_one_pass_of_one_rank_within_the_budget(batch, world_size, budget, layout):
    batch = [replace(example, question_id=str(number)) for number, example in enumerate(batch)]
    shares = share_out(batch, world_size, budget, layout)
    parts = [part for share in shares for part in share.with_gradient]
    found = sorted((e.question_id, c.token_ids) for part in parts for e in part for c in e.chains)
    assert found == sorted((e.question_id, c.token_ids) for e in batch for c in e.chains)
    passes = {(len(share.without_gradient), len(share.with_gradient)) for share in shares}
    assert passes == {
        (max(len(share.parts) for share in shares), max(len(share.parts) + len(share.micro_batches) for share in shares))
    }
    loads = [sum(cost(e, layout) for e in batch if e.question_id in ids_of(share)) for share in shares]
    assert max(loads) - min(loads) <= max(cost(e, layout) for e in batch), "a rank has more by a question than it should"
    for part in filter(None, parts):
        tokens = make_batch(part).input_ids_RL.numel() if layout == "rows" else sum(cost(e, layout) for e in part)
        assert tokens <= budget or len(part) == len(part[0].chains) == 1


@given(size=st.integers(1, 50), batch=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_an_epoch_sees_every_example_once_in_an_order_of_its_own(size, batch, seed):
    weights = [1.0] * size
    epochs = [[i for step in global_batches(weights, batch, seed, epoch) for i in step] for epoch in range(2)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert global_batches(weights, batch, seed, 0) == global_batches(weights, batch, seed, 0)
    if size > 10:
        assert epochs[0] != epochs[1]


@given(
    weights=st.lists(st.sampled_from([0.1, 0.25, 0.5, 1.0, 1.5, 3.0]), min_size=1, max_size=30), seed=st.integers(0, 2**32 - 1)
)
def test_over_the_epochs_every_example_comes_as_often_as_its_weight_says(weights, seed):
    epochs = 20
    seen = Counter(i for epoch in range(epochs) for step in global_batches(weights, 7, seed, epoch) for i in step)
    for example, weight in enumerate(weights):
        assert abs(seen[example] - weight * epochs) < 1


def group(labels, reference):
    question = Question(
        question_id="q", task="arithmetic", split="train", text="?", gold="1", reference=reference, reference_ids=(9, 1)
    )
    candidates = tuple(
        Candidate(
            index=i,
            text=str(i),
            token_ids=(i + 5, 1),
            finish_reason="stop",
            log_likelihood=-1.0,
            label=label,
            rank={"positive": 1, "negative": 2}.get(label),
        )
        for i, label in enumerate(labels)
    )
    return CandidateGroup(
        question=question, candidates=candidates, model="m", seed=0, temperature=1.0, top_p=1.0, max_new_tokens=9
    )


@pytest.mark.parametrize(
    ("labels", "reference", "covers", "roles"),
    [
        (["positive", "negative", "dropped"], "r", False, ["reference", "positive", "negative"]),
        (["positive", "positive"], "r", False, ["reference"]),
        (["positive", "positive"], "r", True, ["reference", "positive", "positive"]),
        (["negative"], "r", False, ["reference"]),
        (["negative"], None, False, None),
        ([], "r", False, ["reference"]),
    ],
)
def test_only_chains_with_a_part_in_the_loss_are_passed(labels, reference, covers, roles):
    found = alignment_examples([group(labels, reference)], covers)
    assert [[chain.role for chain in example.chains] for example in found] == ([] if roles is None else [roles])


def test_chains_that_are_too_long_are_left_out():
    example = Example("q", (1, 2), (Chain((1, 2, 3), "positive"), Chain((1,), "negative")))
    assert within([example], 4) == [Example("q", (1, 2), (Chain((1,), "negative"),))]
    assert within([example], 2) == []


def test_a_boundary_is_under_the_worst_positive_or_the_one_that_was_found():
    def question(roles, boundary=None):
        return Example("q", (3,), tuple(Chain((4,), role) for role in roles), boundary=boundary)

    scores_C = torch.tensor([-1.0, -2.0, -5.0, -3.0, -4.0])
    batch = [question(["positive", "positive", "negative"]), question(["negative", "negative"])]
    assert boundaries_of(by_question(scores_C, batch), 0.5).tolist() == [-2.5, torch.inf]
    assert not boundaries_of(by_question(scores_C, batch), None).isfinite().any()
    for found, expected in ((-3.0, -3.0), (-1.5, -2.0)):  # never above a positive
        with_boundary = [replace(example, boundary=found) for example in batch]
        assert boundaries_of(by_question(scores_C, with_boundary), None).tolist() == [expected, torch.inf]


def test_what_a_job_says_of_its_loss_reaches_it():
    """By hand: DPO's margin of one pair, and the mean over the tokens of the reference and the positive."""
    chains = (
        Chain((3, 4), "reference"),
        Chain((5, 6, 7, 8), "positive", rank=1, index=0, reference=-5.0),
        Chain((5, 6, 7, 8, 9), "negative", rank=2, index=1, reference=-4.0),
    )
    batch, scores = [Example("q", (1, 2), chains)], torch.tensor([-1.0, -2.0, -1.5])
    options = {"loss": "dpo", "options": {"beta": 0.7}, "weight": 0.25, "vft_weight": 3.0}
    margin = (4 * -2.0 + 5.0) - (5 * -1.5 + 4.0)
    dpo = math.log(1 + math.exp(-0.7 * margin))
    for covers, vft in (("reference", 2 * 1.0 / 2), ("reference+positives", (2 * 1.0 + 4 * 2.0) / 6)):
        loss, sums = global_loss(AlignmentConfig(**options, vft_covers=covers)).part(scores, batch, batch)
        assert (sums["vft_loss"], sums["alignment_loss"]) == (pytest.approx(vft), pytest.approx(dpo))
        assert loss.item() == pytest.approx(3.0 * vft + 0.25 * dpo)
    loss, _ = global_loss(TrainingConfig()).part(scores, batch, batch)
    assert loss.item() == pytest.approx(1.0)


def test_an_epoch_has_the_questions_of_each_task_as_often_as_the_job_says(tmp_path):
    batch = [Example(f"{task}-{number}", (1,), (Chain((2,), "reference"),), task) for task in "ab" for number in range(4)]
    training = TrainingConfig(epochs=4, questions_per_step=5)
    job = TrainingJob(ModelConfig(path=tmp_path), training, ResourcesConfig(), 0, {"a": 2.0, "b": 0.5}, tmp_path, tmp_path, None)
    seen = Counter(example.question_id for step in schedule(batch, job) for example in step)
    assert [seen[f"a-{number}"] for number in range(4)] == [8] * 4
    assert [seen[f"b-{number}"] for number in range(4)] == [2] * 4
