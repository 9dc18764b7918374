"""Proportions, means and paired comparisons, each with n and an interval or a p-value. All by scipy."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 2000
RESAMPLES_AT_ONCE = 100
"""All at once they would take memory by the square of the number of questions."""


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
    result = stats.bootstrap(
        (np.asarray(values),), np.mean, n_resamples=RESAMPLES, batch=RESAMPLES_AT_ONCE, confidence_level=confidence, rng=0
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


class OverSeeds(NamedTuple):
    mean: float
    deviation: float
    """Between seeds; 0 of a single one."""
    interval: tuple[float, float] | None
    """Of the mean, by Student's t; None of a single seed."""


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> OverSeeds:
    """Of a measure, or of a paired difference, with one value a seed."""
    if len(values) < 2:
        return OverSeeds(fmean(values), 0.0, None)
    deviation = stdev(values)
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * deviation / len(values) ** 0.5
    return OverSeeds(fmean(values), deviation, (fmean(values) - half, fmean(values) + half))


def paired_proportions_p(before: Sequence[bool], after: Sequence[bool]) -> float:
    """McNemar's exact test, two-sided: do the two models answer different shares of the same questions right?"""
    gained = sum(b < a for b, a in zip(before, after, strict=True))
    lost = sum(b > a for b, a in zip(before, after, strict=True))
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def paired_means_p(before: Sequence[float], after: Sequence[float]) -> float:
    """Sign-flip permutation test of the mean difference over questions, two-sided, its resampling seeded."""
    difference = np.asarray(after) - np.asarray(before)
    if len(difference) < 2 or not difference.any():  # of one question either sign is as far from none
        return 1.0
    result = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", n_resamples=RESAMPLES * 5, batch=RESAMPLES_AT_ONCE, rng=0
    )
    return float(result.pvalue)
