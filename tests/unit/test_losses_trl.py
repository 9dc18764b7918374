"""Losses against those of TRL, run through its trainers' own code: value, and gradient with respect to every token.

A trainer computes its loss inside a step, so its step is called with a model that hands out given log-likelihoods.
"""

from collections import defaultdict
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

from aft_ray.losses import bound_loss
from aft_ray.losses.groups import ScoredGroups

BETA = 0.1


@st.composite
def groups(draw, most=3):
    """(log-likelihoods of the tokens, reference log-likelihood of the chain) of positives, then of negatives."""
    token = st.floats(-4.0, -0.01)
    chains = [draw(st.lists(token, min_size=1, max_size=6)) for _ in range(draw(st.integers(1, most)))]
    split = len(chains)
    chains += [draw(st.lists(token, min_size=1, max_size=6)) for _ in range(draw(st.integers(1, most)))]
    return (
        [torch.tensor(c, dtype=torch.float64, requires_grad=True) for c in chains],
        split,
        draw(st.lists(st.floats(-20, -0.1), min_size=len(chains), max_size=len(chains))),
    )


pairs = groups(most=1)


def ours(name, group, **options):
    chains, split, references = group
    number = len(chains)
    positive = torch.arange(number)[None] < split
    return bound_loss(name, None, options)(
        ScoredGroups(
            scores_QK=torch.stack([chain.mean() for chain in chains])[None],
            positive_QK=positive,
            negative_QK=~positive,
            rank_QK=torch.where(positive, 1, 2),
            length_QK=torch.tensor([[len(chain) for chain in chains]]),
            reference_QK=torch.tensor([references], dtype=torch.float64),
        )
    ).sum()


def assert_same(loss, of_trl, group, tolerance=1e-6):
    assert loss.item() == pytest.approx(of_trl.item(), rel=tolerance, abs=1e-9)
    gradients = [torch.autograd.grad(value, group[0], retain_graph=True) for value in (loss, of_trl)]
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=1e-9)


class Given(torch.nn.Module):
    """As TRL's models with a fused head: log-likelihoods of the tokens behind the first, zero where there is no label."""

    def __init__(self, chains):
        super().__init__()
        width = max(len(chain) for chain in chains)
        padded = [torch.cat((chain, chain.new_zeros(width - len(chain)))) for chain in chains]
        self.log_probs = torch.stack(padded)
        self.mask = torch.tensor([[0] + [1] * len(chain) + [0] * (width - len(chain)) for chain in chains])

    def forward(self, **_):
        zeros = torch.zeros_like(self.log_probs)
        return SimpleNamespace(log_probs=self.log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def trainer(**settings):
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    model = torch.nn.Module()
    common = {"aux_loss_enabled": False, "precompute_ref_logps": True, "_metrics": defaultdict(lambda: defaultdict(list))}
    counts = {"_total_train_tokens": 0, "_tp_size": 1}
    return SimpleNamespace(accelerator=accelerator, model=model, **common, **counts, **settings)


def dpo_of_trl(group, *kinds, beta=BETA):
    """Every pair of a positive and a negative is a row of its batch."""
    chains, split, references = group
    rows = list(product(range(split), range(split, len(chains))))
    chosen, rejected = [better for better, _ in rows], [worse for _, worse in rows]
    model = Given([chains[i] for i in chosen + rejected])
    inputs = {
        "input_ids": torch.zeros_like(model.mask),
        "attention_mask": torch.ones_like(model.mask),
        "completion_mask": model.mask,
        "ref_chosen_logps": torch.tensor([references[i] for i in chosen], dtype=torch.float64),
        "ref_rejected_logps": torch.tensor([references[i] for i in rejected], dtype=torch.float64),
    }
    one = trainer(
        ld_alpha=None, f_divergence_type="reverse_kl", loss_types=kinds, loss_weights=[1.0] * len(kinds),
        beta=beta, label_smoothing=0.0, use_weighting=False,
    )  # fmt: skip
    return DPOTrainer._compute_loss(one, model, inputs, return_outputs=False)


@given(group=groups())
def test_dpo(group):
    assert_same(ours("dpo", group, beta=BETA), dpo_of_trl(group, "sigmoid"), group)


@given(group=groups())
def test_ipo(group):
    assert_same(ours("ipo", group, beta=0.5), dpo_of_trl(group, "ipo", beta=0.5), group)


@given(group=pairs)
def test_dpo_nll(group):
    assert_same(ours("dpo_nll", group, beta=BETA), dpo_of_trl(group, "sigmoid", "sft"), group)


@given(group=pairs)
def test_nca(group):
    assert_same(ours("nca", group, beta=BETA), dpo_of_trl(group, "nca_pair"), group)


@given(group=groups())
def test_kto(group):
    """The reference point that TRL takes from chains of other questions is here given as ours."""
    chains, split, references = group
    model = Given(chains)
    ratios = [chain.sum().item() - reference for chain, reference in zip(chains, references, strict=True)]
    inputs = {
        "input_ids": torch.zeros_like(model.mask),
        "attention_mask": torch.ones_like(model.mask),
        "completion_mask": model.mask,
        "label": torch.arange(len(chains)) < split,
        "ref_logps": torch.tensor(references, dtype=torch.float64),
        "ref_KL_logps": torch.zeros(len(chains), dtype=torch.float64),
    }
    one = trainer(
        calculate_KL=True, loss_type="kto", beta=BETA, desirable_weight=1.0, undesirable_weight=1.0,
        _compute_kl_logps=lambda *_: torch.tensor(ratios, dtype=torch.float64),
    )  # fmt: skip
    assert_same(ours("kto", group, beta=BETA), KTOTrainer._compute_loss(one, model, inputs, return_outputs=False), group)


def preferences(group, of_chain):
    """What CPO and ORPO take: the winners' and the losers' values, pair by pair."""
    chains, split, _ = group
    rows = list(product(range(split), range(split, len(chains))))
    return tuple(torch.stack([of_chain(chains[i]) for i in side]) for side in zip(*rows, strict=True))


@given(group=groups(), gamma=st.floats(0, 2))
def test_simpo(group, gamma):
    one = trainer(alpha=0.0, loss_type="simpo", beta=2.0, simpo_gamma=gamma, label_smoothing=0.0)
    losses, *_ = CPOTrainer.cpo_loss(one, *preferences(group, torch.mean))
    assert_same(ours("simpo", group, beta=2.0, gamma=gamma), losses.mean(), group)


@given(group=groups(), smoothing=st.floats(0, 0.49))
def test_cdpo(group, smoothing):
    """TRL smooths labels in CPO, which has no reference: without one, DPO's margin is CPO's."""
    chains, split, _ = group
    one = trainer(alpha=0.0, loss_type="sigmoid", beta=BETA, label_smoothing=smoothing)
    losses, *_ = CPOTrainer.cpo_loss(one, *preferences(group, torch.sum))
    without = (chains, split, [0.0] * len(chains))
    assert_same(ours("cdpo", without, beta=BETA, smoothing=smoothing), losses.mean(), group)


@settings(max_examples=60)
@given(group=pairs)
def test_orpo(group):
    """TRL's odds are fp32; `-losses` is the part of its loss beside the fine-tuning of the winner."""
    losses, *_ = ORPOTrainer.odds_ratio_loss(trainer(beta=0.1), *preferences(group, torch.mean))
    assert_same(ours("orpo", group, weight=0.1), -losses.mean() - group[0][0].mean(), group, tolerance=1e-3)
