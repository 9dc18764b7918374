"""Labels: each candidate is checked against the gold answer and becomes a positive, a negative, or is dropped.

A dropped candidate stays in its record, with the reason, so that nothing vanishes and every drop can be counted.
"""

from collections import Counter
from collections.abc import Iterable
from math import isfinite

from aft_ray.config import LabellingConfig
from aft_ray.isolated import shared
from aft_ray.tasks import Task
from aft_ray.tasks.answers import Check, check_answer
from aft_ray.tasks.equations import equations, false_equation
from aft_ray.tasks.own_part import goes_on_to_another
from schemas import Candidate, CandidateGroup, Label, Question

REWARDED = "candidates with a rank or reward of the user's"


def label_group(group: CandidateGroup, task: Task, config: LabellingConfig) -> CandidateGroup:
    """The same group with every candidate checked, labelled and ranked. Of candidates that are the same the first counts."""
    seen: set[object] = set()
    labelled = []
    for candidate in group.candidates:
        checked = check_candidate(candidate, group.question, task, config)
        same = _what_makes_it_the_same(checked, config)
        if same in seen and checked.label != "dropped":
            checked = checked.model_copy(update={"label": "dropped", "reason": "duplicate"})
        seen.add(same)
        labelled.append(reward_candidate(checked, group.question, config))
    greedy = None if group.greedy is None else check_candidate(group.greedy, group.question, task, config)
    return group.model_copy(update={"candidates": rank_candidates(labelled), "greedy": greedy})


def check_candidate(candidate: Candidate, question: Question, task: Task, config: LabellingConfig) -> Candidate:
    """The candidate with extracted answer, verdict, label and reason.

    A chain that was cut off has not stated its last answer, unless it was cut off in a question of its own. One that goes on
    to such a question is no positive, whatever its verdict: a model would learn to go on.
    """
    false, goes_on = false_equation(candidate.text), goes_on_to_another(candidate.text)
    if candidate.finish_reason == "length" and not goes_on:
        check = Check("unknown", None, "cut off")
    else:
        check = check_answer(candidate.text, question.gold, question.choices, task.answer, shared(config.check_seconds))
    label, reason = _label(check, config), check.reason
    if label == "positive" and goes_on:
        label, reason = "dropped", "right answer, then another question"
    elif label == "positive" and false is not None and config.false_equations == "drop":
        label, reason = "dropped", "right answer, false equation"
    return candidate.model_copy(
        update={
            "extracted": check.extracted,
            "verdict": check.verdict,
            "label": label,
            "reason": reason,
            "false_equation": false,
        }
    )


def _label(check: Check, config: LabellingConfig) -> Label:
    if check.verdict == "right":
        return "positive"
    if check.verdict == "wrong":
        return "negative"
    if check.reason == "cut off":
        return config.unknown_cut_off
    return config.unknown_check if check.reason.startswith("check failed") else config.unknown_ended


def reward_candidate(candidate: Candidate, question: Question, config: LabellingConfig) -> Candidate:
    """The candidate with the reward of the user's function. One whose reward cannot be had is dropped."""
    if config.reward is None:
        # What a sampled chain carries is an earlier function's; what one from a file carries is its own.
        return candidate if candidate.log_likelihood is None else candidate.model_copy(update={"reward": None})
    if candidate.label == "dropped":
        return candidate
    outcome = shared(config.check_seconds).call(config.reward, question.text, candidate.text, question.gold)
    if outcome.failure is None and isinstance(outcome.value, int | float) and isfinite(outcome.value):
        return candidate.model_copy(update={"reward": float(outcome.value)})
    why = outcome.failure or f"no finite number: {outcome.value!r:.40}"
    return candidate.model_copy(update={"label": "dropped", "reason": f"reward failed: {why}"})


def rank_candidates(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Ranks without gaps from 1, the best: by reward where all have one, else positives 1 and negatives 2."""
    kept = [candidate for candidate in candidates if candidate.label != "dropped"]
    if all(candidate.reward is not None for candidate in kept):
        places = {merit: place for place, merit in enumerate(sorted({c.reward or 0.0 for c in kept}, reverse=True), start=1)}
        ranks = {candidate.index: places[candidate.reward or 0.0] for candidate in kept}
    else:
        ranks = {candidate.index: 1 if candidate.label == "positive" else 2 for candidate in kept}
    return tuple(candidate.model_copy(update={"rank": ranks.get(candidate.index)}) for candidate in candidates)


def _what_makes_it_the_same(candidate: Candidate, config: LabellingConfig) -> object:
    if config.duplicates == "equations":
        listed = equations(candidate.text)
        if listed:
            return candidate.extracted, listed
    return candidate.text


def count_labels(groups: Iterable[CandidateGroup]) -> dict[str, int]:
    """What a manifest says of a set of labelled groups: candidates by label, drops by reason, groups by kind."""
    counts: Counter[str] = Counter()
    for group in groups:
        labels = {candidate.label for candidate in group.candidates}
        counts["groups"] += 1
        if group.failure is not None:
            counts["dead letters"] += 1
        counts["groups with positives and negatives"] += {"positive", "negative"} <= labels
        counts["groups without positives"] += "positive" not in labels
        counts["groups without negatives"] += "negative" not in labels
        for candidate in group.candidates:
            counts["candidates"] += 1
            counts["candidates with a false equation"] += candidate.false_equation is not None
            if candidate.reward is not None:
                counts[REWARDED] += 1
            counts[f"{candidate.label}: {(candidate.reason or '').partition(': ')[0]}"] += 1
    return dict(counts)
