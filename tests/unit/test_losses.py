"""What method.md's mathematics says must hold of the alignment losses, in fp64, against a plain loop over pairs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aft_ray.losses import alignment_loss, boundary_constraint, detached_constraint, unconstrained

scores = st.floats(-50, 0, width=64)
labels = st.sampled_from(["positive", "negative", "padding"])
groups = st.lists(st.tuples(scores, labels), min_size=1, max_size=8)
mixed_groups = groups.filter(lambda group: {"positive", "negative"} <= {label for _, label in group})
betas = st.floats(0, 2)
LOSSES = {
    "unconstrained": unconstrained,
    "dc": detached_constraint,
    "bc": lambda *tensors: boundary_constraint(*tensors, beta=0.3),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def tensors(group, dtype=torch.float64):
    values = torch.tensor([[score for score, _ in group]], dtype=dtype, requires_grad=True)
    masks = [torch.tensor([[label == kind for _, label in group]]) for kind in ("positive", "negative")]
    return values, *masks


def gradient(loss, group):
    values, positive, negative = tensors(group)
    loss(values, positive, negative).sum().backward()
    return values.grad[0], positive[0], negative[0]


def by_hand(name, group, beta):
    """The formula as the paper writes it, a loop over pairs, for scores near 0."""
    positives = [score for score, label in group if label == "positive"]
    negatives = [score for score, label in group if label == "negative"]
    if not positives:
        return 0.0
    boundary = min(positives) - beta
    total = 1.0
    for p in positives:
        for n in negatives:
            total += math.exp(n - p)
            if name == "bc":
                total += math.exp(2 * boundary - p - n)
    return math.log(total)


@given(group=groups, beta=betas)
@pytest.mark.parametrize("name", LOSSES)
def test_value_is_the_formula(name, group, beta):
    loss = alignment_loss(name, beta)(*tensors(group)).item()
    assert loss == pytest.approx(by_hand(name, group, beta), rel=1e-9, abs=1e-12)


@given(group=st.lists(st.tuples(st.floats(-5, 0), labels), min_size=1, max_size=8))
def test_unconstrained_gradient_is_that_of_finite_differences(group):
    values, positive, negative = tensors(group)
    assert torch.autograd.gradcheck(lambda v: unconstrained(v, positive, negative), values)


@given(group=mixed_groups)
def test_unconstrained_pushes_every_negative_down(group):
    grad, _, negative = gradient(unconstrained, [(score / 10, label) for score, label in group])
    assert (grad[negative] > 0).all()


@given(group=mixed_groups)
def test_dc_leaves_negatives_alone_and_moves_positives_as_the_unconstrained_loss_does(group):
    detached, positive, negative = gradient(detached_constraint, group)
    free, _, _ = gradient(unconstrained, group)
    assert (detached[negative] == 0).all()
    torch.testing.assert_close(detached[positive], free[positive])


@given(group=mixed_groups, beta=betas)
def test_bc_pushes_negatives_towards_the_boundary(group, beta):
    group = [(score / 10, label) for score, label in group]
    grad, positive, negative = gradient(lambda *t: boundary_constraint(*t, beta=beta), group)
    values = torch.tensor([score for score, _ in group], dtype=torch.float64)
    distance = values[negative] - (values[positive].min() - beta)
    clear = distance.abs() > 1e-9
    assert (grad[negative][clear].sign() == distance[clear].sign()).all()


@given(group=mixed_groups, beta=betas)
def test_bc_never_pushes_a_positive_down(group, beta):
    grad, positive, _ = gradient(lambda *t: boundary_constraint(*t, beta=beta), group)
    assert (grad[positive] <= 0).all()


@given(group=groups, missing=st.sampled_from(["positive", "negative"]))
@each_loss
def test_without_positives_or_without_negatives_loss_and_gradient_are_exactly_zero(loss, group, missing):
    group = [(score, "padding" if label == missing else label) for score, label in group]
    assert loss(*tensors(group)).item() == 0.0
    assert (gradient(loss, group)[0] == 0).all()


@given(group=groups, data=st.data())
@each_loss
def test_order_does_not_matter(loss, group, data):
    shuffled = data.draw(st.permutations(group))
    assert loss(*tensors(group)).item() == pytest.approx(loss(*tensors(shuffled)).item(), rel=1e-9, abs=1e-12)


@given(group=groups)
@each_loss
def test_finite_in_fp32(loss, group):
    values, positive, negative = tensors(group, torch.float32)
    result = loss(values, positive, negative)
    result.sum().backward()
    assert result.isfinite().all()
    assert values.grad.isfinite().all()


@settings(max_examples=30)
@given(batch=st.lists(groups, min_size=1, max_size=4))
@each_loss
def test_a_batch_is_its_questions_and_padding_adds_nothing(loss, batch):
    width = max(len(group) for group in batch)
    padded = [group + [(0.0, "padding")] * (width - len(group)) for group in batch]
    rows = [tensors(group) for group in padded]
    together = loss(*(torch.cat(column) for column in zip(*rows, strict=True)))
    alone = torch.cat([loss(*tensors(group)) for group in batch])
    torch.testing.assert_close(together, alone)
