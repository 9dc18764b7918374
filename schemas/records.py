"""The records that pass between stages: Question -> Candidate -> CandidateGroup -> Evaluation.

Strict (no coercion), frozen (a committed record never changes) and closed (an unknown field is an error).
`VERSION` is written into every Parquet file and checked when one is read.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Split = Literal["train", "validation", "test"]
Verdict = Literal["right", "wrong", "unknown"]
Label = Literal["positive", "negative", "dropped"]
FinishReason = Literal["stop", "length"]

Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Record(BaseModel):
    """What all records share. A change of any field's meaning or type raises `VERSION`."""

    VERSION: ClassVar[int] = 3
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Question(Record):
    """A question whose answer can be checked."""

    question_id: str = Field(min_length=1, description="unique over the run, the same in every run over the same files")
    task: str = Field(min_length=1, description="name of the task that reads, asks and checks it")
    split: Split
    text: str = Field(min_length=1, description="the question as the user wrote it, without the prompt around it")
    choices: tuple[str, ...] = Field((), description="the options of a multiple-choice question, A, B, ... in order; else none")
    gold: str = Field(min_length=1, description="the gold answer: a letter where there are choices, else as the file states it")
    reference: str | None = Field(
        description="a reference chain of thought that states the answer, as the model should write it; None where there is none"
    )
    prompt_ids: tuple[Count, ...] = Field(
        (),
        description="what the model reads before its chain of thought, in training, sampling, scoring; empty before tokenizing",
    )
    reference_ids: tuple[Count, ...] = Field(
        (), description="the reference behind the prompt, end-of-sequence included; empty without reference"
    )


class Candidate(Record):
    """One sampled chain of thought with all that is known of it."""

    index: Count = Field(description="sample index within its question, 0 to k - 1")
    text: str
    token_ids: tuple[Count, ...] = Field(description="as sampled, end-of-sequence included when the chain ended by itself")
    finish_reason: FinishReason = Field(description="stop: ended by itself; length: cut off at max_new_tokens")
    log_likelihood: Annotated[float, Field(le=0)] | None = Field(
        description="sum over token_ids in nats, before temperature and top-p; None where the chain came from a file"
    )
    extracted: str | None = Field(
        None, description="the last answer that the text states; None before labelling and where it states none"
    )
    verdict: Verdict | None = Field(None, description="extracted against gold; None before labelling")
    label: Label | None = Field(None, description="what training does with it; None before labelling")
    reason: str | None = Field(None, description="why it has this label; None before labelling")
    false_equation: str | None = Field(None, description="the first <<a=b>> of the text that does not hold; None where all hold")
    reward: float | None = Field(
        None, description="from the user's file (minus the rank, where it has ranks) or function, higher is better"
    )
    rank: Count | None = Field(
        None,
        description="1 is best, equals share a rank: by reward, else 1 for positives and 2 for negatives; None for dropped "
        "candidates and before labelling",
    )

    @property
    def score(self) -> float | None:
        """Per-token mean log-likelihood in nats under the model that sampled, what the method calls s(c)."""
        return None if self.log_likelihood is None else self.log_likelihood / len(self.token_ids)


class Failure(Record):
    """Why a question was given up."""

    reason: str = Field(min_length=1)
    attempts: Count = Field(description="0 where it was not asked at all")


class CandidateGroup(Record):
    """A question with all its candidates: one row, from the sampler to the commit."""

    question: Question
    candidates: tuple[Candidate, ...]
    model: str = Field(description="fingerprint of the model that sampled, or of the file that the candidates came from")
    seed: Count = Field(description="seed of the request; vLLM samples candidate i with seed + i")
    temperature: float = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    max_new_tokens: Count
    greedy: Candidate | None = Field(
        None, description="of a held-out question: the sampling model's own greedy chain; None where it was given up"
    )
    failure: Failure | None = Field(None, description="of a question that was given up: there are no candidates then")

    @model_validator(mode="after")
    def _each_index_once(self) -> "CandidateGroup":
        if [candidate.index for candidate in self.candidates] != list(range(len(self.candidates))):
            raise ValueError("candidate indices must be 0, 1, ..., k - 1 in order")
        return self


class ReferenceScores(Record):
    """Of a training question: its candidates under the model that alignment starts from."""

    question_id: str = Field(min_length=1)
    log_likelihoods: tuple[float | None, ...] = Field(
        description="of each candidate by its index, summed over its tokens, in nats; None for those that are not trained on"
    )


class Evaluation(Record):
    """What a model does on one held-out question: its greedy chain, its scores of the given candidates, its own samples."""

    question_id: str = Field(min_length=1)
    task: str = Field(min_length=1)
    model: str = Field(description="fingerprint of the model that is evaluated")
    greedy: Candidate | None = Field(description="None where the question was given up")
    positive_scores: tuple[float, ...] = Field(description="s(c) of each positive candidate of the question's group")
    negative_scores: tuple[float, ...] = Field(description="s(c) of each negative candidate of the question's group")
    samples: tuple[Candidate, ...] = Field((), description="the model's own sampled chains, checked; empty where not asked for")
    failure: Failure | None = Field(None, description="of a question that was given up")
