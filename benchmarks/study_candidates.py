"""What the study does with candidate groups before a model trains on them, and with a model's answers after it."""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from transformers import AutoTokenizer

import aft_ray.losses.boundary as rules
from aft_ray.config import LabellingConfig, PromptConfig
from aft_ray.evaluation.measures import measure
from aft_ray.labelling import label_group
from aft_ray.losses.boundary import boundaries
from aft_ray.sampling.given import GivenCandidate, make_group
from aft_ray.tasks import TASKS
from aft_ray.tasks.tokens import tokenize_questions
from schemas import Candidate, CandidateGroup, Evaluation, Question

RESULT = re.compile(r"=(\d+)")


def first(group: CandidateGroup, k: int) -> CandidateGroup:
    """The group as if only k chains had been sampled, labelled by the checks of today."""
    return label_group(group.model_copy(update={"candidates": group.candidates[:k]}), TASKS["arithmetic"], LabellingConfig())


def with_noise(group: CandidateGroup, share: float, seed: int) -> CandidateGroup:
    """Each label turned with that probability, as a checker that errs would."""
    draw = random.Random(f"{seed}/{group.question.question_id}")
    turned = {"positive": ("negative", 2), "negative": ("positive", 1)}
    candidates = []
    for candidate in group.candidates:
        if candidate.label in turned and draw.random() < share:
            label, rank = turned[candidate.label]
            candidate = candidate.model_copy(update={"label": label, "rank": rank})
        candidates.append(candidate)
    return group.model_copy(update={"candidates": tuple(candidates)})


def graded(question: Question, other: Question, tokenizer: Any, seed: int) -> CandidateGroup:
    """A group whose order is known: the reference, one result false, two, all, and last the reference of another question."""
    draw = random.Random(f"{seed}/{question.question_id}")
    chains = [question.reference]
    results = len(RESULT.findall(question.reference or ""))
    for number in sorted({1, 2, results}):
        if number <= results:
            chains.append(_with_false_results(question.reference or "", number, draw))
    chains.append(other.reference)
    given = [GivenCandidate(text=chain or "", rank=rank) for rank, chain in enumerate(chains, 1)]
    group = make_group(given, question, tokenizer, chat=False)
    return label_group(group, TASKS["arithmetic"], LabellingConfig())


def _with_false_results(chain: str, number: int, draw: random.Random) -> str:
    """The last `number` results, and the answer, off by a little."""
    found = list(RESULT.finditer(chain))[-number:]
    for match in reversed(found):
        wrong = max(1, int(match[1]) + draw.choice((-10, -2, -1, 1, 2, 10)))
        chain = f"{chain[: match.start(1)]}{wrong}{chain[match.end(1) :]}"
    answer = RESULT.findall(chain)[-1]
    return re.sub(r"The answer is \d+", f"The answer is {answer}", chain)


def ask(questions: Iterable[Question], model: Path) -> list[CandidateGroup]:
    """Groups without candidates: what is evaluated of them is the greedy answer alone."""
    tokenized = tokenize_questions(list(questions), TASKS, AutoTokenizer.from_pretrained(model), PromptConfig())
    return [
        CandidateGroup(question=question, candidates=(), model="", seed=0, temperature=1.0, top_p=1.0, max_new_tokens=80)
        for question in tokenized
    ]


# Rules for a boundary without a search. Each: scores of the samples of every question -> boundary of every question.


def by_question(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The quantile of each question, its mean shrunk to that of all as far as its few samples are worth (empirical Bayes)."""
    overall = boundaries(scores)
    known = {question: np.asarray(values) for question, values in scores.items() if len(values) > 1}
    within = fmean(values.var(ddof=1) for values in known.values())
    means = np.array([values.mean() for values in known.values()])
    between = max(1e-9, means.var(ddof=1) - within / fmean(len(values) for values in known.values()))
    below_mean = fmean(means) - next(iter(overall.values()))
    found = dict(overall)
    for question, values in known.items():
        weight = between / (between + within / len(values))
        found[question] = weight * values.mean() + (1 - weight) * fmean(means) - below_mean
    return found


def by_noise(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean of a question's samples less twice their deviation, which is what tells two of them apart."""
    known = [np.asarray(values) for values in scores.values() if len(values) > 1]
    deviation = fmean(values.var(ddof=1) for values in known) ** 0.5
    return {question: (fmean(values) if len(values) else 0.0) - 2 * deviation for question, values in scores.items()}


def use_rule(rule: str) -> None:
    """In this process."""
    rules.boundaries = {"quantile": boundaries, "question": by_question, "noise": by_noise}[rule]


def measures(greedy: Sequence[Evaluation], assessed: Sequence[Evaluation]) -> dict[str, Any]:
    """Of a model; by question where another model will be compared with it."""
    found = measure(greedy)
    result: dict[str, Any] = {
        "accuracy": fmean(found.right),
        "right": "".join("1" if right else "0" for right in found.right),
        "repeated": fmean(found.repeated),
        "endless": fmean(found.endless),
    }
    if assessed:
        scored = measure(assessed)
        result |= {
            "assessment": fmean(scored.assessment.values()),
            "assessed": {question[-16:]: round(value, 4) for question, value in scored.assessment.items()},
            "positive_score": fmean(scored.positive_scores),
            "negative_score": fmean(scored.negative_scores),
            "worst_chains": [c.text for c in _worst(greedy)],
        }
        if scored.k:
            result |= {
                "majority": fmean(scored.majority.values()),
                "pass_at_k": {str(k): fmean(scored.pass_at(k).values()) for k in (1, scored.k)},
            }
    return result


def _worst(greedy: Sequence[Evaluation]) -> list[Candidate]:
    """Chains that went furthest astray: cut off first, then those that state nothing, then the longest wrong ones."""
    chains = [e.greedy for e in greedy if e.greedy is not None and e.greedy.verdict != "right"]
    return sorted(chains, key=lambda c: (c.finish_reason != "length", c.verdict != "unknown", -len(c.token_ids)))[:3]
