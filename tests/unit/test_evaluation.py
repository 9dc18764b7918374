"""Measures and statistics, against scipy, brute force and cases with known answers."""

import random
from itertools import combinations
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from aft_ray.evaluation.measures import assessment_accuracy, comparison, measure, model_summary
from aft_ray.evaluation.samples import ks_up_to, majority_is_right, pass_at_k, repeated_share
from aft_ray.evaluation.statistics import mean_interval, over_seeds, paired_means_p, paired_proportions_p, proportion_interval
from schemas import Candidate, Evaluation

score_lists = st.lists(st.floats(-5, 0), min_size=1, max_size=6)


def chain(verdict, extracted=None, token_ids=(1,), finish_reason="stop", index=0):
    return Candidate(
        index=index,
        text="",
        token_ids=token_ids,
        finish_reason=finish_reason,
        log_likelihood=-1.0,
        verdict=verdict,
        extracted=extracted,
    )


def evaluation(number, verdict, positives=(), negatives=(), samples=()):
    greedy = chain(verdict)
    return Evaluation(
        question_id=f"{number:04}",
        task="t",
        model="m",
        greedy=greedy,
        positive_scores=tuple(positives),
        negative_scores=tuple(negatives),
        samples=tuple(samples),
    )


@given(score_lists, score_lists)
def test_assessment_accuracy_is_half_of_what_is_left_when_sides_swap(positives, negatives):
    forwards, backwards = assessment_accuracy(positives, negatives), assessment_accuracy(negatives, positives)
    assert forwards + backwards == pytest.approx(1)


def test_assessment_accuracy_averages_over_questions_not_pairs():
    found = measure([evaluation(0, "right", [-1.0], [-2.0]), evaluation(1, "right", [-2.0], [-1.0] * 9), evaluation(2, "wrong")])
    summary = model_summary("vft", "arithmetic", found, 0.95)
    assert summary["assessment_accuracy"] == 0.5
    assert (summary["assessment_pairs"], summary["assessment_questions"]) == (10, 2)
    assert summary["accuracy"] == pytest.approx(2 / 3)
    assert summary["mean_positive_score"] == -1.5


def test_without_a_pair_assessment_is_null_not_a_number():
    found = measure([evaluation(0, "wrong"), evaluation(1, "unknown")])
    assert model_summary("vft", "gsm8k", found, 0.95)["assessment_accuracy"] is None
    assert comparison(found, found)["assessment_accuracy_p"] is None


def test_wilson_interval_as_published():
    low, high = proportion_interval(8, 10, 0.95)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert proportion_interval(0, 0, 0.95) == (0.0, 1.0)


def test_paired_tests_find_a_difference_and_do_not_find_noise():
    draw = random.Random(0)
    before = [draw.random() < 0.5 for _ in range(500)]
    better = [right or draw.random() < 0.2 for right in before]
    noise = [right if draw.random() < 0.8 else draw.random() < 0.5 for right in before]
    assert paired_proportions_p(before, better) < 1e-6
    assert paired_proportions_p(before, noise) > 0.05
    assert paired_proportions_p(before, before) == 1.0
    eight_gained_two_lost = [False] * 8 + [True] * 2
    published = 0.109375  # two-sided: 2 (C(10, 0) + C(10, 1) + C(10, 2)) / 2^10
    assert paired_proportions_p(eight_gained_two_lost, [not right for right in eight_gained_two_lost]) == pytest.approx(published)
    assert paired_means_p([float(x) for x in before], [float(x) for x in better]) < 0.001
    assert paired_means_p([0.5] * 5, [0.5] * 5) == 1.0
    assert paired_means_p([0.5], [1.0]) == 1.0
    assert paired_means_p([0.5, 0.5], [1.0, 1.0]) == pytest.approx(0.5), "two of four signs are as far from none"


@pytest.mark.parametrize(("confidence", "deviations"), [(0.95, 1.96), (0.8, 1.282)])
def test_mean_interval_is_that_of_the_normal_distribution_where_there_are_many_values(confidence, deviations):
    values = [random.Random(1).random() for _ in range(1)] + [0.1, 0.5, 0.9, 0.3, 0.7] * 40
    low, high = mean_interval(values, confidence)
    half = deviations * stdev(values) / len(values) ** 0.5
    assert (low, high) == (
        pytest.approx(fmean(values) - half, abs=0.15 * half),
        pytest.approx(fmean(values) + half, abs=0.15 * half),
    )
    assert mean_interval([0.5] * 9, 0.95) is None


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples(case):
    samples, right, k = case
    outcomes = [True] * right + [False] * (samples - right)
    assert pass_at_k(samples, right, k) == pytest.approx(fmean(any(chosen) for chosen in combinations(outcomes, k)))


def test_pass_at_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="pass@3 of 2"):
        pass_at_k(2, 1, 3)


@pytest.mark.parametrize(("samples", "ks"), [(0, []), (1, [1]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_ks(samples, ks):
    assert ks_up_to(samples) == ks


@pytest.mark.parametrize(
    ("stated", "right"),
    [
        ("18 18 17", 1.0),
        ("17 17 18", 0.0),
        ("17 18", 0.5),
        ("17 18 16", 1 / 3),
        ("18.0 18 17 17 16", 0.5),  # two forms of one right answer are one answer
        ("- - 18", 1.0),  # what states nothing does not vote
        ("- -", 0.0),
        ("17 17 17.0 18 18", 0.0),  # so are two of a wrong one
        ("1/2 0.5 \\frac12 18 18", 0.0),
        ("Paris paris 18", 0.0),
        ("17 -17 18 18", 1.0),
    ],
)
def test_majority(stated, right):
    verdicts = {"18": "right", "18.0": "right", "-": "unknown"}
    samples = [chain(verdicts.get(s, "wrong"), None if s == "-" else s) for s in stated.split()]
    assert majority_is_right(samples) == pytest.approx(right)


def test_answers_that_a_function_of_the_user_s_checks_have_no_majority():
    assert majority_is_right([chain("right"), chain("wrong")]) is None


def test_one_question_that_a_function_leaves_open_makes_no_majority_of_its_task():
    def evaluation(task, number, *samples):
        return Evaluation(
            question_id=f"{task}-{number}",
            task=task,
            model="m",
            greedy=None,
            positive_scores=(),
            negative_scores=(),
            samples=samples,
        )

    own = [evaluation("own", 1, chain("right"), chain("wrong")), evaluation("own", 2, chain("unknown"), chain("unknown"))]
    counted = [evaluation("gsm8k", 1, chain("right", "18"), chain("unknown")), evaluation("gsm8k", 2, chain("unknown"))]
    assert measure(own).majority == {}
    assert measure([*own, *counted]).majority == {"gsm8k-1": 1.0, "gsm8k-2": 0.0}


@pytest.mark.parametrize(("token_ids", "share"), [((), 0), ((1, 2, 3), 0), ((1, 2, 3, 4, 5), 0), ((7,) * 8, 0.8)])
def test_repeated_share(token_ids, share):
    assert repeated_share(token_ids) == pytest.approx(share)


def test_samples_are_summarised_and_compared_by_question():
    right, wrong = chain("right", "18"), chain("wrong", "17")
    before = measure([evaluation(n, "wrong", samples=[right, wrong, wrong, wrong]) for n in range(40)])
    after = measure([evaluation(n, "right", samples=[right, right, right, wrong]) for n in range(40)])
    summary = model_summary("aft", "arithmetic", after, 0.95)
    assert summary["k"] == 4
    assert summary["majority"]["mean"] == 1.0
    assert {k: found["mean"] for k, found in summary["pass_at_k"].items()} == {"1": 0.75, "2": 1.0, "4": 1.0}
    assert summary["endless"]["mean"] == summary["repeated_4_grams"]["mean"] == 0.0
    compared = comparison(before, after)
    assert (compared["majority_gain"], compared["pass_at_k_gain"]) == (1.0, 0.0)
    assert compared["majority_p"] < 0.001


def test_degeneration_is_seen_in_greedy_chains():
    looping = evaluation(0, "unknown").model_copy(update={"greedy": chain("unknown", None, (5,) * 40, "length")})
    summary = model_summary("aft", "arithmetic", measure([looping, evaluation(1, "right")]), 0.95)
    assert summary["endless"]["mean"] == 0.5
    assert summary["repeated_4_grams"]["mean"] == pytest.approx(36 / 37 / 2)


def test_over_seeds_is_student_s_interval():
    """Against scipy's own one-sample t-test."""
    values = [0.61, 0.58, 0.66, 0.6, 0.63]
    found = over_seeds(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert (found.mean, found.deviation) == (pytest.approx(0.616), pytest.approx(stdev(values)))
    assert over_seeds([0.5]) == (0.5, 0.0, None)
