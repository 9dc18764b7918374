"""From records to training examples: which chains a question trains on, as token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aft_ray.training.batches import Chain, Example
from schemas import CandidateGroup, Question


def vft_examples(questions: Sequence[Question]) -> list[Example]:
    """The training questions that have a reference, each with that one chain."""
    return [
        Example(question.question_id, question.prompt_ids, (Chain(question.reference_ids, "reference"),), question.task)
        for question in questions
        if question.reference is not None
    ]


def alignment_examples(groups: Sequence[CandidateGroup], vft_covers_positives: bool) -> list[Example]:
    """Every group with the chains that have a part in the loss; a group with none is left out.

    The alignment loss of a question with nothing to compare, neither right with wrong nor two ranks, is 0 with gradient 0, so
    those chains need no pass.
    """
    examples = []
    for group in groups:
        question = group.question
        chains = [Chain(question.reference_ids, "reference")] if question.reference is not None else []
        candidates = candidate_chains(group)
        if len({chain.role for chain in candidates}) > 1 or len({chain.rank for chain in candidates}) > 1:
            chains += candidates
        elif vft_covers_positives:
            chains += [chain for chain in candidates if chain.role == "positive"]
        if chains:
            examples.append(Example(question.question_id, question.prompt_ids, tuple(chains), question.task))
    return examples


def candidate_chains(group: CandidateGroup) -> list[Chain]:
    """The candidates of a labelled group that were not dropped, positives first."""
    return [
        Chain(c.token_ids, label, rank=c.rank or 0, reward=c.reward, index=c.index)
        for label in ("positive", "negative")
        for c in group.candidates
        if c.label == label
    ]


def sampler_scores(groups: Sequence[CandidateGroup]) -> dict[str, dict[str, list[float]]]:
    """s(c) of every sampled chain under the model that sampled it, by task and question; of chains from a file none is known."""
    found: dict[str, dict[str, list[float]]] = {group.question.task: {} for group in groups}
    for group in groups:
        scores = [candidate.score for candidate in group.candidates if candidate.score is not None]
        found[group.question.task][group.question.question_id] = scores
    return found


def with_references(examples: Sequence[Example], log_likelihoods: Mapping[str, Sequence[float | None]]) -> list[Example]:
    """The same examples, their candidates with reference log-likelihoods, given by question id and candidate index."""
    return [
        replace(
            example,
            chains=tuple(
                chain if chain.index < 0 else replace(chain, reference=log_likelihoods[example.question_id][chain.index])
                for chain in example.chains
            ),
        )
        for example in examples
    ]


def within(examples: Sequence[Example], max_tokens: int) -> list[Example]:
    """Without the chains that make more than `max_tokens` with their prompt, and without the examples left empty by that."""
    kept = []
    for example in examples:
        room = max_tokens - len(example.prompt_ids)
        chains = tuple(chain for chain in example.chains if len(chain.token_ids) <= room)
        if chains:
            kept.append(replace(example, chains=chains))
    return kept
