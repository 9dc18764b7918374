"""From records to training examples: which chains a question trains on, as token ids."""

from collections.abc import Sequence
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

    The alignment loss of a question without positives, or without negatives, is 0 with gradient 0, so those chains need no pass.
    """
    examples = []
    for group in groups:
        question = group.question
        chains = [Chain(question.reference_ids, "reference")] if question.reference is not None else []
        positives = [Chain(c.token_ids, "positive") for c in group.candidates if c.label == "positive"]
        negatives = [Chain(c.token_ids, "negative") for c in group.candidates if c.label == "negative"]
        if negatives or vft_covers_positives:
            chains += positives
        if positives:
            chains += negatives
        if chains:
            examples.append(Example(question.question_id, question.prompt_ids, tuple(chains), question.task))
    return examples


def within(examples: Sequence[Example], max_tokens: int) -> list[Example]:
    """Without the chains that make more than `max_tokens` with their prompt, and without the examples left empty by that."""
    kept = []
    for example in examples:
        room = max_tokens - len(example.prompt_ids)
        chains = tuple(chain for chain in example.chains if len(chain.token_ids) <= room)
        if chains:
            kept.append(replace(example, chains=chains))
    return kept
