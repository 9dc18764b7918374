"""What a task is: how to read questions, ask them, and check answers to them."""

from collections.abc import Callable
from dataclasses import dataclass

from aft_ray.config import TaskConfig
from aft_ray.tasks.answers import compare_numbers, stated_number
from schemas import Question, Verdict

MAX_FAULTS_SHOWN = 20


class BadInputError(Exception):
    """The user's files are not as the task expects them; the message names file, line and field of the first faults."""

    def __init__(self, faults: list[str]) -> None:
        shown = "\n".join(f"  {fault}" for fault in faults[:MAX_FAULTS_SHOWN])
        more = f"\n  ... the first {MAX_FAULTS_SHOWN} of {len(faults)}" if len(faults) > MAX_FAULTS_SHOWN else ""
        super().__init__(f"{len(faults)} fault{'s' if len(faults) != 1 else ''} in the questions:\n{shown}{more}")
        self.faults = faults


@dataclass(frozen=True)
class Task:
    """One kind of question. All of its members are pure, and cheap to send to an actor."""

    name: str
    read: Callable[[TaskConfig, int], list[Question]]
    """(config, seed) -> training and held-out questions. Raises BadInputError with every fault of the files."""
    extract: Callable[[str], str | None] = stated_number
    """The last answer that a chain of thought states, None where it states none."""
    compare: Callable[[str | None, str], Verdict] = compare_numbers
    """(extracted, gold) -> verdict."""

    def prompt(self, question: Question) -> str:
        """What the model reads before its chain of thought, the same in training, sampling and scoring."""
        return f"Question: {question.text}\nAnswer:"

    def chain(self, reference: str) -> str:
        """A reference as the model should write it behind the prompt."""
        return f" {reference}"
