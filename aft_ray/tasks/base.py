"""What a task is: how to read questions, ask them, and check answers to them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

from aft_ray.config import TaskConfig
from aft_ray.tasks.answers import Answer
from aft_ray.tasks.choices import listed
from schemas import Question

MAX_FAULTS_SHOWN = 20

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class BadInputError(Exception):
    """The user's files are not as the task expects them; the message names file, line and field of the first faults."""

    def __init__(self, faults: list[str]) -> None:
        shown = "\n".join(f"  {fault}" for fault in faults[:MAX_FAULTS_SHOWN])
        more = f"\n  ... the first {MAX_FAULTS_SHOWN} of {len(faults)}" if len(faults) > MAX_FAULTS_SHOWN else ""
        super().__init__(f"{len(faults)} fault{'s' if len(faults) != 1 else ''} in the input:\n{shown}{more}")
        self.faults = faults


class Row(BaseModel):
    """A row of a task's files; fields that the task does not know are left alone."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


def describe(fault: Any) -> str:
    """A pydantic error as `field: what was expected, found ...`."""
    field = ".".join(str(part) for part in fault["loc"]) or "row"
    if fault["type"] == "missing":
        return f"{field}: expected a value, found nothing"
    if fault["type"] == "string_unicode":
        return f"{field}: expected valid Unicode, found a lone surrogate"
    if fault["type"] == "value_error":
        return f"{field}: {fault['ctx']['error']}"
    if fault["type"] in ("string_type", "string_too_short"):
        return f"{field}: expected a text, found {fault['input']!r:.60}"
    return f"{field}: {fault['msg']}, found {fault['input']!r:.60}"


@dataclass(frozen=True)
class Asked:
    """A row as a question: `gold` as `Answer.read_gold` returns it."""

    text: str
    gold: str
    choices: tuple[str, ...] = ()
    reference: str | None = None


@dataclass(frozen=True)
class Task:
    """One kind of question. All of its members are pure, and cheap to send to an actor."""

    name: str
    answer: Answer
    source: str
    licence: str
    parse: Callable[[dict[str, Any], TaskConfig], Asked] | None = None
    """(row of a file, config) -> question. Raises pydantic.ValidationError, or ValueError as `field: what is wrong`."""
    generate: Callable[[TaskConfig, int], list[Question]] | None = None
    """(config, seed) -> training and held-out questions, for a task that needs no file."""
    template: str = "Question: {question}\nAnswer:"
    """What the model reads before its chain of thought, the same in training, sampling and scoring."""


def body(question: Question) -> str:
    """A question as it is asked, its options included."""
    return f"{question.text}\nOptions:\n{listed(question.choices)}" if question.choices else question.text


def prompt(question: Question, task: Task) -> str:
    """The plain prompt."""
    return task.template.replace("{question}", body(question))


def chain(reference: str) -> str:
    """A reference as the model should write it behind the plain prompt."""
    return f" {reference}"
