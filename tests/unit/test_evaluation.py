"""Measures and statistics, against scipy, brute force and cases with known answers."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aft_ray.evaluation.measures import assessment_accuracy, comparison, measure, model_summary
from aft_ray.evaluation.statistics import mean_interval, paired_means_p, paired_proportions_p, proportion_interval
from schemas import Candidate, Evaluation

score_lists = st.lists(st.floats(-5, 0), min_size=1, max_size=6)


def evaluation(number, verdict, positives=(), negatives=()):
    greedy = Candidate(
        index=0,
        text="",
        token_ids=(1,),
        finish_reason="stop",
        log_likelihood=-1.0,
        verdict=verdict,
    )
    return Evaluation(
        question_id=f"{number:04}",
        task="t",
        model="m",
        greedy=greedy,
        positive_scores=tuple(positives),
        negative_scores=tuple(negatives),
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
    assert paired_means_p([float(x) for x in before], [float(x) for x in better]) < 0.001
    assert paired_means_p([0.5] * 5, [0.5] * 5) == 1.0


def test_mean_interval_holds_the_mean():
    values = [random.Random(1).random() for _ in range(1)] + [0.1, 0.5, 0.9, 0.3, 0.7] * 10
    low, high = mean_interval(values, 0.95)
    assert low < sum(values) / len(values) < high
    assert mean_interval([0.5] * 9, 0.95) is None
