"""What is measured of a model on held-out questions: task accuracy and assessment accuracy (arXiv 2309.02144, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from aft_ray.evaluation.statistics import mean_interval, paired_means_p, paired_proportions_p, proportion_interval
from schemas import CandidateGroup, Evaluation


@dataclass(frozen=True)
class Measures:
    """Of one model, over the questions in the order of their ids, so that two models compare question by question."""

    right: list[bool]
    assessment: dict[str, float]
    pairs: int
    positive_scores: list[float]
    negative_scores: list[float]


def evaluation_of_sampler(group: CandidateGroup) -> Evaluation:
    """What the model that sampled a held-out group does on its question: all of it is known from the sampling."""
    scores = {
        label: tuple(c.score for c in group.candidates if c.label == label and c.score is not None)
        for label in ("positive", "negative")
    }
    paired = all(scores.values())
    return Evaluation(
        question_id=group.question.question_id,
        task=group.question.task,
        model=group.model,
        greedy=group.greedy,
        positive_scores=scores["positive"] if paired else (),
        negative_scores=scores["negative"] if paired else (),
    )


def measure(evaluations: Sequence[Evaluation]) -> Measures:
    ordered = sorted(evaluations, key=lambda evaluation: evaluation.question_id)
    with_pairs = [e for e in ordered if e.positive_scores and e.negative_scores]
    return Measures(
        right=[e.greedy is not None and e.greedy.verdict == "right" for e in ordered],
        assessment={e.question_id: assessment_accuracy(e.positive_scores, e.negative_scores) for e in with_pairs},
        pairs=sum(len(e.positive_scores) * len(e.negative_scores) for e in with_pairs),
        positive_scores=[score for e in with_pairs for score in e.positive_scores],
        negative_scores=[score for e in with_pairs for score in e.negative_scores],
    )


def assessment_accuracy(positive_scores: Sequence[float], negative_scores: Sequence[float]) -> float:
    """Of one question: the share of its (positive, negative) pairs in which the positive scores higher; a tie counts half."""
    wins = sum((p > n) + 0.5 * (p == n) for p in positive_scores for n in negative_scores)
    return wins / (len(positive_scores) * len(negative_scores))


def model_summary(name: str, task: str, measures: Measures, confidence: float) -> dict[str, Any]:
    """A model's row of the run's summary. What cannot be measured (no question with a pair) is null."""
    assessed = list(measures.assessment.values())
    return {
        "name": name,
        "task": task,
        "n": len(measures.right),
        "accuracy": fmean(measures.right),
        "accuracy_ci": proportion_interval(sum(measures.right), len(measures.right), confidence),
        "assessment_accuracy": fmean(assessed) if assessed else None,
        "assessment_accuracy_ci": mean_interval(assessed, confidence),
        "assessment_questions": len(assessed),
        "assessment_pairs": measures.pairs,
        "mean_positive_score": fmean(measures.positive_scores) if measures.positive_scores else None,
        "mean_negative_score": fmean(measures.negative_scores) if measures.negative_scores else None,
    }


def comparison(before: Measures, after: Measures) -> dict[str, float | None]:
    """Paired tests of two models on the same questions and the same candidates."""
    shared = sorted(before.assessment.keys() & after.assessment.keys())
    return {
        "accuracy_gain": fmean(after.right) - fmean(before.right),
        "accuracy_p": paired_proportions_p(before.right, after.right),
        "assessment_accuracy_gain": fmean(after.assessment[q] - before.assessment[q] for q in shared) if shared else None,
        "assessment_accuracy_p": (
            paired_means_p([before.assessment[q] for q in shared], [after.assessment[q] for q in shared]) if shared else None
        ),
    }
