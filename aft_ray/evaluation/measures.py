"""What is measured of a model on held-out questions: task and assessment accuracy (arXiv 2309.02144, section 3), samples."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from aft_ray.evaluation.samples import ks_up_to, majority_is_right, pass_at_k, repeated_share
from aft_ray.evaluation.statistics import mean_interval, paired_means_p, paired_proportions_p, proportion_interval
from schemas import CandidateGroup, Evaluation


@dataclass(frozen=True)
class Measures:
    """Of one model, by question in the order of their ids, so that two models compare question by question."""

    right: list[bool]
    assessment: dict[str, float]
    pairs: int
    positive_scores: list[float]
    negative_scores: list[float]
    k: int
    """Samples of each question; 0 where there are none."""
    majority: dict[str, float]
    passed: dict[str, tuple[int, int]]
    """(samples, right ones) of each question."""
    repeated: list[float]
    """Of each greedy chain, the share of repeated 4-grams."""
    endless: list[bool]
    """Whether a greedy chain was cut off."""

    def pass_at(self, k: int) -> dict[str, float]:
        return {question: pass_at_k(samples, right, k) for question, (samples, right) in self.passed.items()}


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
        samples=group.candidates,
        failure=group.failure,
    )


def count_verdicts(evaluations: Iterable[Evaluation]) -> dict[str, int]:
    """What a manifest says of an evaluation: questions, and greedy chains by verdict."""
    verdicts = Counter(evaluation.greedy.verdict if evaluation.greedy else "unknown" for evaluation in evaluations)
    return {"questions": verdicts.total()} | {str(verdict): count for verdict, count in sorted(verdicts.items(), key=str)}


def measure(evaluations: Sequence[Evaluation]) -> Measures:
    ordered = sorted(evaluations, key=lambda evaluation: evaluation.question_id)
    with_pairs = [e for e in ordered if e.positive_scores and e.negative_scores]
    sampled = [e for e in ordered if e.samples]
    majority = {e.question_id: majority_is_right(e.samples) for e in sampled}
    uncounted = {e.task for e in sampled if majority[e.question_id] is None}  # by a function, to which some may be unknown
    greedy = [e.greedy for e in ordered if e.greedy is not None]
    return Measures(
        right=[e.greedy is not None and e.greedy.verdict == "right" for e in ordered],
        assessment={e.question_id: assessment_accuracy(e.positive_scores, e.negative_scores) for e in with_pairs},
        pairs=sum(len(e.positive_scores) * len(e.negative_scores) for e in with_pairs),
        positive_scores=[score for e in with_pairs for score in e.positive_scores],
        negative_scores=[score for e in with_pairs for score in e.negative_scores],
        k=min((len(e.samples) for e in sampled), default=0),
        majority={e.question_id: majority[e.question_id] or 0.0 for e in sampled if e.task not in uncounted},
        passed={e.question_id: (len(e.samples), sum(c.verdict == "right" for c in e.samples)) for e in sampled},
        repeated=[repeated_share(chain.token_ids) for chain in greedy],
        endless=[chain.finish_reason == "length" for chain in greedy],
    )


def assessment_accuracy(positive_scores: Sequence[float], negative_scores: Sequence[float]) -> float:
    """Of one question: the share of its (positive, negative) pairs in which the positive scores higher; a tie counts half."""
    wins = sum((p > n) + 0.5 * (p == n) for p in positive_scores for n in negative_scores)
    return wins / (len(positive_scores) * len(negative_scores))


def model_summary(name: str, task: str, measures: Measures, confidence: float) -> dict[str, Any]:
    """A model's row of the run's summary. What cannot be measured (no question with a pair, no samples) is null."""

    def mean(values: Sequence[float]) -> dict[str, Any]:
        return {"mean": fmean(values), "ci": mean_interval(values, confidence)} if values else {"mean": None, "ci": None}

    assessed = mean(list(measures.assessment.values()))
    return {
        "name": name,
        "task": task,
        "n": len(measures.right),
        "accuracy": fmean(measures.right),
        "accuracy_ci": proportion_interval(sum(measures.right), len(measures.right), confidence),
        "assessment_accuracy": assessed["mean"],
        "assessment_accuracy_ci": assessed["ci"],
        "assessment_questions": len(measures.assessment),
        "assessment_pairs": measures.pairs,
        "mean_positive_score": fmean(measures.positive_scores) if measures.positive_scores else None,
        "mean_negative_score": fmean(measures.negative_scores) if measures.negative_scores else None,
        "k": measures.k,
        "majority": mean(list(measures.majority.values())),
        "pass_at_k": {str(k): mean(list(measures.pass_at(k).values())) for k in ks_up_to(measures.k)},
        "repeated_4_grams": mean(measures.repeated),
        "endless": {
            "mean": fmean(measures.endless) if measures.endless else None,
            "ci": proportion_interval(sum(measures.endless), len(measures.endless), confidence),
        },
    }


def comparison(before: Measures, after: Measures) -> dict[str, float | None]:
    """Paired tests of two models on the same questions and the same candidates."""
    compared: dict[str, float | None] = {
        "accuracy_gain": fmean(after.right) - fmean(before.right),
        "accuracy_p": paired_proportions_p(before.right, after.right),
    }
    k = min(before.k, after.k)
    by_question = {
        "assessment_accuracy": (before.assessment, after.assessment),
        "majority": (before.majority, after.majority),
        "pass_at_k": (before.pass_at(k), after.pass_at(k)),
    }
    for name, (one, other) in by_question.items():
        both = sorted(one.keys() & other.keys())
        compared[f"{name}_gain"] = fmean(other[q] - one[q] for q in both) if both else None
        compared[f"{name}_p"] = paired_means_p([one[q] for q in both], [other[q] for q in both]) if both else None
    return compared
