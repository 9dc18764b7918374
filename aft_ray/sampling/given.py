"""Candidates from the user's file instead of sampled ones (docs/candidates.md). Its rows may be, and may be mixed:

{"question": "Tom has 3 bags with 6 apples each. How many apples has he?",
 "candidates": [{"text": "3 * 6 = 18. The answer is 18.", "rank": 1}, {"text": "3 + 6 = 9. The answer is 9.", "rank": 2}]}
{"question": "Tom has 3 bags with 6 apples each. How many apples has he?", "completion": "3 * 6 = 18. The answer is 18."}
{"custom_id": "mine-train-7", "response": ...}                                    vLLM's and OpenAI's batch output
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from aft_ray.sampling.batch_files import BatchLine, failure_of
from aft_ray.tasks.base import BadInputError, Row, Text, describe
from aft_ray.tasks.files import rows
from aft_ray.tasks.tokens import chain_ids, continued
from schemas import Candidate, CandidateGroup, FinishReason, Question

SHOWN = 3
"""Of what was left out."""


def whole(given: Any) -> Any:
    """A column in which some ranks are missing holds numbers with a point."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


class Merit(Row):
    rank: Annotated[int, BeforeValidator(whole), Field(ge=1)] | None = Field(None, description="1 is best, equals share a rank")
    reward: Annotated[float, Field(allow_inf_nan=False)] | None = Field(None, description="higher is better")
    finish_reason: FinishReason | None = Field(None, description="length: it was cut off, and has not stated its answer")


class GivenCandidate(Merit):
    text: Text


class Named(Row):
    question_id: str | None = Field(None, description="as the run names it; else question is looked for")
    question: Text | None = None

    @model_validator(mode="after")
    def _is_named(self) -> "Named":
        if self.question_id is None and self.question is None:
            raise ValueError("expected question or question_id")
        return self


def text_alone(given: Any) -> Any:
    return {"text": given} if isinstance(given, str) else given


class GivenGroup(Named):
    """All candidates of a question."""

    candidates: Annotated[list[Annotated[GivenCandidate, BeforeValidator(text_alone)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _all_or_none(self) -> "GivenGroup":
        if fault := fault_of_merits(self.candidates):
            raise ValueError(fault)
        return self


class GivenChain(Named, Merit):
    """One of them."""

    completion: Text


def read_given(
    path: Path,
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    chat: bool,
    console: Console,
    max_tokens: int | None = None,
    set_aside: Sequence[Question] = (),
) -> list[CandidateGroup]:
    """The groups of a file, not yet labelled. Rows of a question add up, but one with `candidates` holds them all.

    Left out, and told, is what failed when it was sampled, and what is of held-out questions or of those `set_aside`; told too,
    how many are longer with their prompt than `max_tokens`, which training leaves out. Raises BadInputError where rows have
    faults or name no question of the run, and where no candidates are left.
    """
    named = ByName(questions, set_aside)
    faults: list[str] = []
    left_out: list[str] = []
    found: dict[str, list[GivenCandidate]] = {}
    whole: set[str] = set()
    for number, row in rows(path, faults):
        where = f"{path}:{number}"
        try:
            name, candidates = read_row({field: value for field, value in row.items() if value is not None}, where, left_out)
            question = named.find(name)
        except ValidationError as error:
            faults += [f"{where}:{describe(fault)}" for fault in error.errors()]
            continue
        except ValueError as error:
            faults.append(f"{where}:{error}")
            continue
        if question is None:
            left_out.append(f"{where}: of a question that this run does not use")
        elif question.split != "train":
            left_out.append(f"{where}: {question.question_id} is held out")
        elif question.question_id in (found if row.get("candidates") is not None else whole):
            faults.append(f"{where}:question: {question.question_id} stands in the file twice")
        elif candidates:
            found.setdefault(question.question_id, []).extend(candidates)
            if row.get("candidates") is not None:
                whole.add(question.question_id)
    faults += [f"{path}:{question_id}: {fault}" for question_id, of in found.items() if (fault := fault_of_merits(of))]
    if faults or not found:
        raise BadInputError(faults or [f"{path}: no candidates of training questions", *left_out])
    groups = [make_group(of, named.by_id[question_id], tokenizer, chat) for question_id, of in found.items()]
    lengths = [len(group.question.prompt_ids) + len(chain.token_ids) for group in groups for chain in group.candidates]
    told = [f"{path}: {len(lengths):,} chains of {len(groups):,} training questions"]
    if max_tokens is not None and (longer := sum(length > max_tokens for length in lengths)):
        too_long = f"{longer:,} chains over alignment.max_tokens = {max_tokens:,} with their prompt"
        if longer == len(lengths):
            raise BadInputError([f"{path}: {too_long}, which is all: none would be trained on"])
        told.append(f"not trained on: {too_long}")
    if left_out:
        told += [f"left out: {len(left_out):,} rows or choices", *left_out[:SHOWN]]
    console.print("\n  ".join(told), highlight=False, markup=False, soft_wrap=True)
    return groups


class ByName:
    """The questions of a run, by their ids and by their texts."""

    def __init__(self, questions: Sequence[Question], set_aside: Sequence[Question]) -> None:
        self.by_id = {question.question_id: question for question in questions}
        self.by_text: dict[str, list[Question]] = {}
        for question in sorted(questions, key=lambda question: question.split != "train"):
            self.by_text.setdefault(as_read(question.text), []).append(question)
        self.set_aside = {name for question in set_aside for name in (question.question_id, as_read(question.text))}

    def find(self, name: Named) -> Question | None:
        """None of one that is set aside. Raises ValueError where there is none, several, or another than is said."""
        of_text = self.by_text.get(as_read(name.question or ""), [])
        if name.question_id is not None:
            found = self.by_id.get(name.question_id)
            if found is not None and name.question is not None and as_read(found.text) != as_read(name.question):
                raise ValueError(f"question: not that of question_id {name.question_id}, which is {found.text!r:.60}")
        else:
            found = of_text[0] if of_text else None
            # Of equal texts a training question counts before one that is held out.
            several = [question.question_id for question in of_text if question.split == "train"]
            if len(several) > 1:
                raise ValueError(f"question: {' and '.join(several[:3])} have this text: say which by question_id")
        if found is None and (name.question_id or as_read(name.question or "")) not in self.set_aside:
            raise ValueError(f"question: {name.question_id or name.question!r:.60} is no training question of this run")
        return found


def as_read(text: str) -> str:
    """Whatever its white space."""
    return " ".join(text.split())


def read_row(row: dict[str, Any], where: str, left_out: list[str]) -> tuple[Named, list[GivenCandidate]]:
    """Whose candidates it holds, and these. Raises ValueError, also as pydantic's ValidationError, where it has a fault."""
    if "custom_id" in row:
        return read_batch_line(row, where, left_out)
    if "completion" in row and "candidates" in row:
        raise ValueError("row: expected candidates or a completion, found both")
    if "completion" in row:
        chain = GivenChain.model_validate(row)
        merit = chain.model_dump(include=set(Merit.model_fields))
        return chain, [GivenCandidate(text=chain.completion, **merit)]
    group = GivenGroup.model_validate(row)
    return group, group.candidates


def read_batch_line(row: dict[str, Any], where: str, left_out: list[str]) -> tuple[Named, list[GivenCandidate]]:
    if failure := failure_of(row):
        left_out.append(f"{where}: {failure}")
        return Named(question_id=str(row["custom_id"])), []
    line = BatchLine.model_validate(row)
    choices = line.response.body.choices
    said = [choice for choice in choices if choice.text.strip()]
    left_out += [f"{where}: a choice without a text"] * (len(choices) - len(said))
    return Named(question_id=line.custom_id), [GivenCandidate(text=choice.text, finish_reason=choice.ended) for choice in said]


def fault_of_merits(candidates: Iterable[GivenCandidate]) -> str | None:
    kinds = {(candidate.rank is not None, candidate.reward is not None) for candidate in candidates}
    if len(kinds) > 1 or (True, True) in kinds:
        return "expected a rank in every candidate, or a reward in every candidate, or neither in any"
    return None


def make_group(
    given: Sequence[GivenCandidate], question: Question, tokenizer: PreTrainedTokenizerBase, chat: bool
) -> CandidateGroup:
    origin = hashlib.sha256("".join(candidate.model_dump_json() for candidate in given).encode()).hexdigest()[:16]
    texts = [candidate.text for candidate in given]
    before = [tokenizer.decode(question.prompt_ids)] * len(texts)
    behind = [continued(text, chat) for text in texts]
    ids = chain_ids(before, behind, [question.prompt_ids] * len(texts), tokenizer, add_special_tokens=False)
    candidates = tuple(
        Candidate(
            index=index,
            text=candidate.text,
            token_ids=token_ids[:-1] if candidate.finish_reason == "length" else token_ids,  # it never came to end-of-sequence
            finish_reason=candidate.finish_reason or "stop",
            log_likelihood=None,
            reward=candidate.reward if candidate.rank is None else -float(candidate.rank),
        )
        for index, (candidate, token_ids) in enumerate(zip(given, ids, strict=True))
    )
    longest = max(len(candidate.token_ids) for candidate in candidates)
    return CandidateGroup(
        question=question, candidates=candidates, model=origin, seed=0, temperature=0.0, top_p=1.0, max_new_tokens=longest
    )
