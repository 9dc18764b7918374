"""mmlu: exam questions with four options (MMLU, github.com/hendrycks/test, MIT; the STEM subjects: 3,018).

JSON lines with `question`, `choices` and `answer`, the index of the right one from 0; no chains of thought:

    {"question": "What is the SI unit of force?", "type": "conceptual_physics",
     "choices": ["joule", "newton", "watt", "pascal"], "answer": 1}
"""

from typing import Annotated, Any

from pydantic import Field

from aft_ray.config import TaskConfig
from aft_ray.tasks.answers import CHOICE
from aft_ray.tasks.base import Asked, Row, Task, Text
from aft_ray.tasks.choices import LETTERS


class MmluRow(Row):
    question: Text
    choices: Annotated[list[Text], Field(min_length=2, max_length=26)]
    answer: Annotated[int, Field(ge=0)]


def parse(row: dict[str, Any], config: TaskConfig) -> Asked:
    found = MmluRow.model_validate(row)
    if found.answer >= len(found.choices):
        raise ValueError(f"answer: expected an index below {len(found.choices)}, found {found.answer}")
    return Asked(found.question, LETTERS[found.answer], tuple(found.choices))


TASK = Task("mmlu", CHOICE, source="github.com/hendrycks/test", licence="MIT", parse=parse)
