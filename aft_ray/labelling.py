"""Labels: each candidate is checked against the gold answer and becomes a positive, a negative, or is dropped.

A dropped candidate stays in its record, with the reason, so that nothing vanishes and every drop can be counted.
"""

from collections import Counter
from collections.abc import Iterable

from aft_ray.config import SamplingConfig
from aft_ray.tasks import Task
from schemas import Candidate, CandidateGroup, Label


def label_group(group: CandidateGroup, task: Task, config: SamplingConfig) -> CandidateGroup:
    """The same group with every candidate labelled. Of candidates with the same text the first one counts."""
    seen: set[str] = set()
    labelled = []
    for candidate in group.candidates:
        checked = check_candidate(candidate, group.question.gold, task, config)
        if checked.text in seen and checked.label != "dropped":
            checked = checked.model_copy(update={"label": "dropped", "reason": "duplicate"})
        seen.add(checked.text)
        labelled.append(checked)
    return group.model_copy(update={"candidates": tuple(labelled)})


def check_candidate(candidate: Candidate, gold: str, task: Task, config: SamplingConfig) -> Candidate:
    """The candidate with extracted answer, verdict, label and reason. A chain that was cut off has not stated its last answer."""
    cut_off = candidate.finish_reason == "length"
    extracted = None if cut_off else task.extract(candidate.text)
    verdict = task.compare(extracted, gold)
    label: Label
    if verdict == "right":
        label, reason = "positive", "right answer"
    elif verdict == "wrong":
        label, reason = "negative", "wrong answer"
    elif cut_off:
        label, reason = config.unknown_cut_off, "cut off"
    else:
        label, reason = config.unknown_ended, "no answer stated"
    return candidate.model_copy(update={"extracted": extracted, "verdict": verdict, "label": label, "reason": reason})


def count_labels(groups: Iterable[CandidateGroup]) -> dict[str, int]:
    """What a manifest says of a set of labelled groups: candidates by label, drops by reason, groups by kind."""
    counts: Counter[str] = Counter()
    for group in groups:
        labels = {candidate.label for candidate in group.candidates}
        counts["groups"] += 1
        counts["groups with positives and negatives"] += {"positive", "negative"} <= labels
        counts["groups without positives"] += "positive" not in labels
        counts["groups without negatives"] += "negative" not in labels
        for candidate in group.candidates:
            counts["candidates"] += 1
            counts[f"{candidate.label}: {candidate.reason}"] += 1
    return dict(counts)
