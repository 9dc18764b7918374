"""Of each round of a run: which questions are asked of which model, and which model alignment starts from.

Models are named by the stage that makes them: vft, align, align-2, ...; `base` is the one that the run begins with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from aft_ray.config import RunConfig
from aft_ray.losses import loss_function, needs_reference
from schemas import CandidateGroup, Question


@dataclass(frozen=True)
class Rounds:
    """`given`: the candidates from the user's file; they are of the first round."""

    config: RunConfig
    questions: Sequence[Question]
    given: Sequence[CandidateGroup]

    @cached_property
    def train(self) -> list[Question]:
        return [question for question in self.questions if question.split == "train"]

    @cached_property
    def held_out(self) -> list[Question]:
        return [question for question in self.questions if question.split != "train"]

    @cached_property
    def samples_for_training(self) -> bool:
        """Whether the first round samples training questions: it does not where all come with their candidates."""
        given = {group.question.question_id for group in self.given}
        return not self.config.sampling.only_given and any(question.question_id not in given for question in self.train)

    def trained_tasks(self, vft: bool) -> set[str]:
        """The tasks of which questions are trained on, by alignment or by a VFT that is part of the run."""
        aligned = self.asked_in(in_round("sample", self.config.rounds))
        of_vft = [question for question in self.train if question.reference] if vft else []
        return {question.task for question in [*aligned, *of_vft] if question.split == "train"}

    @property
    def held_out_in(self) -> str:
        """The stage that samples the held-out questions, in one go with the others where there are others to be sampled."""
        return "sample" if self.samples_for_training else "held-out"

    def asked_in(self, stage: str) -> list[Question]:
        """The questions that have candidates in the records of that stage."""
        if stage == "held-out":
            return self.held_out
        given = {group.question.question_id for group in self.given}
        if stage != "sample":
            return [q for q in self.train if q.question_id in given] if self.config.sampling.only_given else self.train
        return list(self.questions) if self.samples_for_training else [group.question for group in self.given]

    def given_in(self, stage: str) -> Sequence[CandidateGroup]:
        """In an order that is not the file's, which means nothing."""
        return sorted(self.given, key=lambda group: group.question.question_id) if stage == "sample" else ()

    def sampler(self, number: int) -> str:
        """The model that is sampled. Of held-out questions alone: the one that alignment starts from."""
        if number > 1:
            return in_round("align", number - 1)
        if self.samples_for_training:
            return self.config.sampling.sample_from
        return self.config.alignment.start_from if self.train else "base"

    def start(self, number: int) -> str:
        """The model that alignment starts from."""
        if self.config.alignment.start_from == "base":
            return "base"
        return "vft" if number == 1 else self.sampler(number)

    def need_reference_pass(self, number: int) -> bool:
        """Whether the loss needs log-likelihoods that the sampler has not given already.

        In fp32 the sampler's equal those of training to rounding. In bf16 they do not: of a chain of 90 tokens by 0.7 nats
        (standard deviation, SmolLM2-135M on a CPU), which a reference must not add to what training changes.
        """
        return reference_pass(self.config, self.start(number) == self.sampler(number), bool(self.given) and number == 1)


def reference_pass(config: RunConfig, starts_from_sampler: bool, given: bool) -> bool:
    """`given`: some of the candidates are, which nothing has scored."""
    known = starts_from_sampler and config.model.precision == "fp32" and not given
    return needs_reference(loss_function(config.alignment.loss)) and not known


def in_round(stage: str, number: int) -> str:
    return stage if number == 1 else f"{stage}-{number}"
