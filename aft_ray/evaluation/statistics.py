"""Proportions, means and paired comparisons, each with n and an interval or a p-value. All by scipy."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

RESAMPLES = 2000


def proportion_interval(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a proportion; (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """Bootstrap interval (BCa) of a mean, its resampling seeded; None where fewer than two values differ."""
    if len(set(values)) < 2:
        return None
    result = stats.bootstrap((np.asarray(values),), np.mean, n_resamples=RESAMPLES, confidence_level=confidence, rng=0)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired_proportions_p(before: Sequence[bool], after: Sequence[bool]) -> float:
    """McNemar's exact test, two-sided: do the two models answer different shares of the same questions right?"""
    gained = sum(b < a for b, a in zip(before, after, strict=True))
    lost = sum(b > a for b, a in zip(before, after, strict=True))
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def paired_means_p(before: Sequence[float], after: Sequence[float]) -> float:
    """Sign-flip permutation test of the mean difference over questions, two-sided, its resampling seeded."""
    difference = np.asarray(after) - np.asarray(before)
    if not difference.any():
        return 1.0
    result = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=RESAMPLES * 5, rng=0)
    return float(result.pvalue)
