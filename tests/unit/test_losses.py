"""Every loss against its formula written as a loop over candidates (fp64, autograd), and what must hold of it."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from aft_ray.losses import LOSSES, bound_loss, has_boundary, loss_function, needs_reference, options_of
from aft_ray.losses.groups import ScoredGroups

each_loss = pytest.mark.parametrize("name", LOSSES)
BETA = 0.3
CONSTRAINED = ("dc", "dc_ranking", "rrhf_dc", "pro_dc")


@st.composite
def groups(draw, lowest=-50.0, rewards=False):
    """A question: (score, label, rank, tokens, reference log-likelihood, reward) of each candidate, padding among them."""
    candidates = []
    for _ in range(draw(st.integers(1, 6))):
        label = draw(st.sampled_from(["positive", "negative", "padding"]))
        tokens = draw(st.integers(1, 40))
        candidates.append(
            {
                "score": draw(st.floats(lowest, 0.0)),
                "label": label,
                "rank": 0 if label == "padding" else 1 if label == "positive" else 2,
                "tokens": tokens,
                "reference": draw(st.floats(lowest, 0.0)) * tokens,
                "reward": draw(st.floats(-3, 3)) if rewards else math.nan,
            }
        )
    return candidates


@st.composite
def ranked_groups(draw, rewards=False):
    """Also with more ranks than two; with rewards, ranks follow from them."""
    group = draw(groups(lowest=-8.0, rewards=rewards))
    merits = sorted({c["reward"] for c in group}, reverse=True)
    for candidate in group:
        if candidate["rank"]:
            candidate["rank"] = merits.index(candidate["reward"]) + 1 if rewards else draw(st.integers(1, 4))
    return group


def scored(group, dtype=torch.float64, **more) -> ScoredGroups:
    def column(key, dtype=dtype):
        return torch.tensor([[candidate[key] for candidate in group]], dtype=dtype)

    return ScoredGroups(
        scores_QK=column("score").requires_grad_(),
        positive_QK=torch.tensor([[c["label"] == "positive" for c in group]]),
        negative_QK=torch.tensor([[c["label"] == "negative" for c in group]]),
        rank_QK=column("rank", torch.long),
        length_QK=column("tokens", torch.long),
        reference_QK=column("reference"),
        reward_QK=None if all(math.isnan(c["reward"]) for c in group) else column("reward"),
        **more,
    )


def bound(name, **options):
    return bound_loss(name, BETA, options)


def gradient(name, group, **more):
    tensors = scored(group, **more)
    bound(name)(tensors).sum().backward()
    return tensors.scores_QK.grad[0]


# The formulas, candidate by candidate. s: scores as tensors; better(i): whom i is better than.


class Hand:
    def __init__(self, group, boundary=None):
        self.group = [c for c in group if c["label"] != "padding"]
        self.s = [torch.tensor(c["score"], dtype=torch.float64, requires_grad=True) for c in self.group]
        self.r = [s * c["tokens"] - c["reference"] for s, c in zip(self.s, self.group, strict=True)]
        self.n = len(self.group)
        self.boundary = boundary

    def pairs(self, by="rank"):
        worth = [c["rank"] if by == "rank" else 1 if c["label"] == "positive" else 2 for c in self.group]
        return [(i, j) for i in range(self.n) for j in range(self.n) if worth[i] < worth[j]]

    def target(self, i, j, pairs):
        worst = min(self.s[a].item() for a, b in pairs if b == j)
        boundary = worst - BETA if self.boundary is None else min(worst, self.boundary)
        return 2 * boundary - self.s[i].item()

    def best(self):
        first = min(c["rank"] for c in self.group)
        return [i for i in range(self.n) if self.group[i]["rank"] == first]

    def nll(self):
        return -sum(self.s[i] for i in self.best()) / len(self.best())

    def mean(self, value, by="rank"):
        pairs = self.pairs(by)
        return sum(value(i, j) for i, j in pairs) / len(pairs)

    def log_one_plus(self, by, kind):
        total, pairs = 1.0, self.pairs(by)
        for i, j in pairs:
            worse = self.s[j].detach() if kind == "dc" else self.s[j]
            total = total + (worse - self.s[i]).exp()
            if kind == "bc":
                total = total + (self.target(i, j, pairs) - self.s[j]).exp()
        return torch.log(torch.as_tensor(total))

    def rrhf(self, kind):
        total, pairs = self.nll(), self.pairs()
        for i, j in pairs:
            worse = self.s[j].detach() if kind == "dc" else self.s[j]
            total = total + torch.clamp(worse - self.s[i], min=0)
            if kind == "bc":
                total = total + torch.clamp(self.target(i, j, pairs) - self.s[j], min=0)
        return total

    def pro(self, kind):
        total, pairs = self.nll(), self.pairs()
        with_rewards = not any(math.isnan(c["reward"]) for c in self.group)
        for i in range(self.n):
            worse = [b for a, b in pairs if a == i]
            if not worse:
                continue
            gap = {j: self.group[i]["reward"] - self.group[j]["reward"] if with_rewards else 1.0 for j in worse}
            own = self.s[i] * max(gap.values())
            behind = own.exp()
            for j in worse:
                behind = behind + ((self.s[j].detach() if kind == "dc" else self.s[j]) * gap[j]).exp()
                if kind == "bc":
                    twice_boundary = self.target(i, j, pairs) + self.s[i].item()
                    behind = behind + ((twice_boundary - self.s[j]) * gap[j]).exp() * (own - own.detach()).exp()
            total = total + behind.log() - own
        return total

    def kto(self, beta):
        z = max(0.0, sum(r.item() for r in self.r) / self.n)
        signs = [1 if c["label"] == "positive" else -1 for c in self.group]
        return sum(1 - torch.sigmoid(beta * sign * (r - z)) for r, sign in zip(self.r, signs, strict=True)) / self.n

    def nca(self, beta):
        rewards = torch.tensor([c["reward"] for c in self.group], dtype=torch.float64)
        weight = [1 / len(self.best()) if i in self.best() else 0.0 for i in range(self.n)]
        if not rewards.isnan().any():
            weight = rewards.softmax(0).tolist()
        return -sum(
            w * torch.log(torch.sigmoid(beta * r)) + torch.log(torch.sigmoid(-beta * r)) / self.n
            for w, r in zip(weight, self.r, strict=True)
        )


def odds(s):
    return s.exp() / (1 - s.exp())


def by_hand(name, group, boundary=None):
    """(loss, gradient with respect to the scores of what is not padding), of a group with something to compare."""
    h = Hand(group, boundary)
    s, r, tokens = h.s, h.r, [c["tokens"] for c in h.group]
    by_label = name in ("unconstrained", "dc", "bc", "kto")
    if not h.pairs("label" if by_label else "rank"):
        return 0.0, [0.0] * h.n
    formulas = {
        "unconstrained": lambda: h.log_one_plus("label", "plain"),
        "dc": lambda: h.log_one_plus("label", "dc"),
        "bc": lambda: h.log_one_plus("label", "bc"),
        "unconstrained_ranking": lambda: h.log_one_plus("rank", "plain"),
        "dc_ranking": lambda: h.log_one_plus("rank", "dc"),
        "bc_ranking": lambda: h.log_one_plus("rank", "bc"),
        "rft": lambda: 0.0 * sum(s),
        "rrhf": lambda: h.rrhf("plain"),
        "rrhf_dc": lambda: h.rrhf("dc"),
        "rrhf_bc": lambda: h.rrhf("bc"),
        "pro": lambda: h.pro("plain"),
        "pro_dc": lambda: h.pro("dc"),
        "pro_bc": lambda: h.pro("bc"),
        "dpo": lambda: h.mean(lambda i, j: -logsigmoid(0.1 * (r[i] - r[j]))),
        "dpo_nll": lambda: h.mean(lambda i, j: -logsigmoid(0.1 * (r[i] - r[j]))) + h.nll(),
        "ipo": lambda: h.mean(lambda i, j: (r[i] / tokens[i] - r[j] / tokens[j] - 5.0) ** 2),
        "cdpo": lambda: h.mean(lambda i, j: -0.9 * logsigmoid(0.1 * (r[i] - r[j])) - 0.1 * logsigmoid(-0.1 * (r[i] - r[j]))),
        "dpop": lambda: h.mean(lambda i, j: -logsigmoid(0.3 * (r[i] - r[j] - 50 * torch.clamp(-r[i], min=0)))),
        "cal_dpo": lambda: h.mean(lambda i, j: -logsigmoid(r[i] - r[j]) + (r[i] - 5) ** 2 + (r[j] + 5) ** 2),
        "kto": lambda: h.kto(0.1),
        "nca": lambda: h.nca(0.1),
        "simpo": lambda: h.mean(lambda i, j: -logsigmoid(2.0 * (s[i] - s[j]) - 1.0)),
        "orpo": lambda: h.nll() + 0.1 * h.mean(lambda i, j: -logsigmoid(torch.log(odds(s[i]) / odds(s[j])))),
    }
    loss = formulas[name]()
    loss.backward()
    return loss.item(), [0.0 if score.grad is None else score.grad.item() for score in s]


def near_nothing(group, name):
    """Where the loop itself overflows, or a kink makes two gradients right."""
    ratios = [c["score"] * c["tokens"] - c["reference"] for c in group]
    scores = sorted(c["score"] for c in group)
    return (
        any(abs(r) < 1e-3 or (name == "nca" and abs(r) > 200) for r in ratios)
        or any(b - a < 1e-4 for a, b in pairwise(scores))
        or any(score > -1e-4 for score in scores)
    )


def assert_is_by_hand(name, group, **more):
    expected, expected_gradient = by_hand(name, group, more["boundary_Q"].item() if more else None)
    tensors = scored(group, **more)
    loss = bound(name)(tensors)
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    loss.sum().backward()
    kept = [g for g, c in zip(tensors.scores_QK.grad[0].tolist(), group, strict=True) if c["label"] != "padding"]
    assert kept == pytest.approx(expected_gradient, rel=1e-6, abs=1e-9)


@each_loss
@settings(max_examples=60)
@given(group=ranked_groups())
def test_value_and_gradient_are_those_of_the_formula(name, group):
    if not near_nothing(group, name):
        assert_is_by_hand(name, group)


@pytest.mark.parametrize("name", ["pro", "pro_dc", "pro_bc", "nca", "bc_ranking"])
@settings(max_examples=60)
@given(group=ranked_groups(rewards=True))
def test_with_rewards_too(name, group):
    if not near_nothing(group, name):
        assert_is_by_hand(name, group)


@pytest.mark.parametrize("name", [name for name in LOSSES if has_boundary(loss_function(name))])
@settings(max_examples=60)
@given(group=ranked_groups(), boundary=st.floats(-6, 0))
def test_a_boundary_of_the_question_takes_the_place_of_beta(name, group, boundary):
    if not near_nothing(group, name):
        assert_is_by_hand(name, group, boundary_Q=torch.tensor([boundary], dtype=torch.float64))


def mixed(group):
    return {"positive", "negative"} <= {c["label"] for c in group}


@given(group=groups(lowest=-5.0).filter(mixed))
def test_unconstrained_pushes_every_negative_down(group):
    grad = gradient("unconstrained", group)
    assert all(g > 0 for g, c in zip(grad, group, strict=True) if c["label"] == "negative")


@pytest.mark.parametrize(("name", "free"), [("dc", "unconstrained"), ("rrhf_dc", "rrhf"), ("pro_dc", "pro")])
@given(group=groups().filter(mixed))
def test_detached_leaves_negatives_alone_and_moves_positives_as_the_free_loss_does(name, free, group):
    detached, wanted = gradient(name, group), gradient(free, group)
    for one, other, candidate in zip(detached, wanted, group, strict=True):
        assert one == (0 if candidate["label"] == "negative" else pytest.approx(other.item()))


@given(group=groups(lowest=-5.0).filter(mixed))
def test_bc_pushes_negatives_towards_the_boundary_and_no_positive_down(group):
    grad = gradient("bc", group)
    boundary = min(c["score"] for c in group if c["label"] == "positive") - BETA
    for g, candidate in zip(grad, group, strict=True):
        distance = candidate["score"] - boundary
        if candidate["label"] == "negative" and abs(distance) > 1e-9:
            assert (g > 0) == (distance > 0)
        if candidate["label"] == "positive":
            assert g <= 0


@pytest.mark.parametrize("name", [name for name in LOSSES if has_boundary(loss_function(name))])
@given(group=groups(lowest=-5.0).filter(mixed), depth=st.floats(0.01, 3))
def test_a_negative_far_below_the_boundary_is_never_pushed_further_down(name, group, depth):
    lowest = min(c["score"] for c in group if c["label"] == "positive") - BETA
    # Below this even the boundary's own counter-push, for the highest positive, is at work in the hinge form.
    highest = max(c["score"] for c in group if c["label"] == "positive")
    group = [{**c, "score": 2 * lowest - highest - depth} if c["label"] == "negative" else c for c in group]
    grad = gradient(name, group)
    assert all(g < 0 for g, c in zip(grad, group, strict=True) if c["label"] == "negative")


@given(right=st.floats(-3, 0), below=st.floats(-3, 3), gap=st.floats(0.05, 4))
def test_in_pro_a_worse_candidate_rests_at_the_boundary_whatever_the_gap_of_rewards(right, below, gap):
    wrong = right - BETA - below
    shared = {"tokens": 1, "reference": 0.0}
    group = [
        {"score": right, "label": "positive", "rank": 1, "reward": gap, **shared},
        {"score": wrong, "label": "negative", "rank": 2, "reward": 0.0, **shared},
    ]
    pushed = gradient("pro_bc", group)[1].item()
    if abs(below) > 1e-6:
        assert (pushed > 0) == (below < 0)


@pytest.mark.parametrize("kind", ["unconstrained", "dc", "bc"])
@given(group=groups())
def test_two_ranks_are_right_and_wrong_exactly(kind, group):
    assert torch.equal(bound(kind)(scored(group)), bound(f"{kind}_ranking")(scored(group)))
    assert torch.equal(gradient(kind, group), gradient(f"{kind}_ranking", group))


@each_loss
@given(group=groups(), missing=st.sampled_from(["positive", "negative"]))
def test_without_positives_or_without_negatives_loss_and_gradient_are_exactly_zero(name, group, missing):
    group = [{**c, "label": "padding", "rank": 0} if c["label"] == missing else c for c in group]
    assert bound(name)(scored(group)).item() == 0.0
    assert (gradient(name, group) == 0).all()


@each_loss
@given(group=ranked_groups(), data=st.data())
def test_order_does_not_matter(name, group, data):
    shuffled = data.draw(st.permutations(group))
    assert bound(name)(scored(group)).item() == pytest.approx(bound(name)(scored(shuffled)).item(), rel=1e-9, abs=1e-9)


@each_loss
@given(group=groups())
def test_finite_in_fp32(name, group):
    tensors = scored(group, torch.float32)
    loss = bound(name)(tensors)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert tensors.scores_QK.grad.isfinite().all()


@each_loss
@settings(max_examples=25)
@given(batch=st.lists(ranked_groups(), min_size=1, max_size=4))
def test_a_batch_is_its_questions_and_padding_adds_nothing(name, batch):
    width = max(1, *(len(group) for group in batch), 1)
    nothing = {"score": 0.0, "label": "padding", "rank": 0, "tokens": 1, "reference": 0.0, "reward": math.nan}
    rows = [scored(group + [nothing] * (width - len(group))) for group in batch]
    columns = {field: [getattr(row, field) for row in rows] for field in vars(rows[0])}
    together = ScoredGroups(**{f: None if values[0] is None else torch.cat(values) for f, values in columns.items()})
    torch.testing.assert_close(bound(name)(together), torch.cat([bound(name)(scored(group)) for group in batch]))


@given(group=groups(lowest=-5.0).filter(mixed))
def test_a_model_that_has_not_moved_from_its_reference(group):
    """Every ratio is 1 there, so what a preference loss starts from is known."""
    still = scored([{**c, "reference": c["score"] * c["tokens"]} for c in group])
    assert bound("dpo")(still).item() == pytest.approx(math.log(2))
    assert bound("kto")(still).item() == pytest.approx(0.5)
    assert bound("ipo")(still).item() == pytest.approx(25.0)
    assert bound("dpop")(still).item() == pytest.approx(math.log(2))


def test_a_loss_that_compares_with_a_reference_says_so():
    group = [{"score": -1.0, "label": "positive", "rank": 1, "tokens": 3, "reference": -3.0, "reward": math.nan}]
    without = replace(scored(group), reference_QK=None)
    for name in LOSSES:
        if needs_reference(loss_function(name)):
            with pytest.raises(ValueError, match="with_reference"):
                bound(name)(without)
        else:
            bound(name)(without)


def test_options_reach_the_loss_and_beta_only_those_with_a_boundary():
    group = [
        {"score": s, "label": label, "rank": rank, "tokens": 5, "reference": -4.0, "reward": math.nan}
        for s, label, rank in [(-1.0, "positive", 1), (-1.5, "negative", 2)]
    ]
    gentle, steep = (bound_loss("simpo", 9.0, {"gamma": gamma})(scored(group)) for gamma in (0.0, 1.0))
    assert gentle.item() == pytest.approx(math.log1p(math.exp(-1.0)))
    assert steep.item() == pytest.approx(math.log1p(math.exp(0.0)))
    assert options_of(loss_function("dpop")) == {"beta": 0.3, "penalty": 50.0}


@pytest.mark.parametrize(("name", "options"), [("dpo", {"gamma": 1.0}), ("no_such", {}), ("os:no_such", {})])
def test_what_is_no_loss_or_no_option_is_refused_by_name(name, options):
    with pytest.raises(ValueError, match=next(iter(options), name)):
        bound_loss(name, BETA, options)


def test_the_docs_name_every_loss_and_option():
    docs = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
    for name in LOSSES:
        (line,) = [line for line in docs.splitlines() if line.startswith("|") and f"`{name}`" in line.split(" | ")[0]]
        for option in options_of(loss_function(name)).keys() - ({"beta"} if has_boundary(loss_function(name)) else set()):
            assert f"`{option}`" in line, (name, option)
