"""Candidates from the user's file, with ranks or rewards, instead of sampled ones (docs/candidates.md).

{"question": "Tom has 3 bags with 6 apples each. How many apples has he?",
 "candidates": [{"text": "3 * 6 = 18. The answer is 18.", "rank": 1}, {"text": "3 + 6 = 9. The answer is 9.", "rank": 2}]}
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator
from transformers import PreTrainedTokenizerBase

from aft_ray.tasks.base import BadInputError, Row, Text, describe
from aft_ray.tasks.files import rows
from aft_ray.tasks.tokens import chain_ids, continued
from schemas import Candidate, CandidateGroup, Question


class GivenCandidate(Row):
    text: Text
    rank: Annotated[int, Field(ge=1)] | None = Field(None, description="1 is best, equals share a rank")
    reward: Annotated[float, Field(allow_inf_nan=False)] | None = Field(None, description="higher is better")


class GivenGroup(Row):
    question_id: str | None = Field(None, description="as the run names it; else question is looked for")
    question: Text | None = None
    candidates: Annotated[list[GivenCandidate], Field(min_length=1)]

    @model_validator(mode="after")
    def _all_or_none(self) -> "GivenGroup":
        if self.question_id is None and self.question is None:
            raise ValueError("expected question or question_id")
        kinds = {(candidate.rank is not None, candidate.reward is not None) for candidate in self.candidates}
        if len(kinds) > 1 or (True, True) in kinds:
            raise ValueError("expected a rank in every candidate, or a reward in every candidate, or neither in any")
        return self


def read_given(
    path: Path | None, questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, chat: bool
) -> list[CandidateGroup]:
    """The groups of a file, not yet labelled; none without a file.

    Raises BadInputError where rows have faults or name no training question.
    """
    if path is None:
        return []
    train = [question for question in questions if question.split == "train"]
    by_name = {question.text: question for question in train} | {question.question_id: question for question in train}
    faults: list[str] = []
    groups: dict[str, CandidateGroup] = {}
    origin = hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""
    for number, row in rows(path, faults):
        try:
            given = GivenGroup.model_validate(row)
        except ValidationError as error:
            faults += [f"{path}:{number}:{describe(fault)}" for fault in error.errors()]
            continue
        question = by_name.get(given.question_id or given.question or "")
        if question is None:
            faults.append(
                f"{path}:{number}:question: {given.question_id or given.question!r:.60} is no training question of this run"
            )
        elif question.question_id in groups:
            faults.append(f"{path}:{number}:question: {question.question_id} stands in the file twice")
        else:
            groups[question.question_id] = make_group(given, question, tokenizer, chat, origin)
    if faults:
        raise BadInputError(faults)
    return list(groups.values())


def make_group(
    given: GivenGroup, question: Question, tokenizer: PreTrainedTokenizerBase, chat: bool, origin: str
) -> CandidateGroup:
    texts = [candidate.text for candidate in given.candidates]
    before = [tokenizer.decode(question.prompt_ids)] * len(texts)
    behind = [continued(text, chat) for text in texts]
    ids = chain_ids(before, behind, [question.prompt_ids] * len(texts), tokenizer, add_special_tokens=False)
    candidates = tuple(
        Candidate(
            index=index,
            text=candidate.text,
            token_ids=token_ids,
            finish_reason="stop",
            log_likelihood=None,
            reward=candidate.reward if candidate.rank is None else -float(candidate.rank),
        )
        for index, (candidate, token_ids) in enumerate(zip(given.candidates, ids, strict=True))
    )
    longest = max(len(candidate.token_ids) for candidate in candidates)
    return CandidateGroup(
        question=question, candidates=candidates, model=origin, seed=0, temperature=0.0, top_p=1.0, max_new_tokens=longest
    )
