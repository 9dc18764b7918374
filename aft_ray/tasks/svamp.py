"""svamp: word problems varied to mislead (github.com/arkilpatel/SVAMP, MIT; 1,000), out of distribution for GSM8K.

JSON lines with `Body`, `Question` and a numeric `Answer`; no chains of thought:

    {"Body": "There are 87 oranges and 290 bananas. The bananas are in 2 groups", "Question": "How big is each group?",
     "Answer": 145.0}
"""

from typing import Annotated, Any

from pydantic import Field

from aft_ray.config import TaskConfig
from aft_ray.tasks.answers import NUMBER
from aft_ray.tasks.base import Asked, Row, Task, Text


class SvampRow(Row):
    body: Text = Field(alias="Body")
    question: Text = Field(alias="Question")
    answer: Annotated[float, Field(allow_inf_nan=False)] = Field(alias="Answer")


def parse(row: dict[str, Any], config: TaskConfig) -> Asked:
    found = SvampRow.model_validate(row)
    stop = "" if found.body[-1] in ".!?" else "."
    gold = str(int(found.answer)) if found.answer.is_integer() else repr(found.answer)
    return Asked(f"{found.body}{stop} {found.question}", gold)


TASK = Task("svamp", NUMBER, source="github.com/arkilpatel/SVAMP", licence="MIT", parse=parse)
