r"""gsm8k: grade-school word problems (github.com/openai/grade-school-math, MIT; 7,473 + 1,319).

JSON lines with `question` and `answer`; the answer is a chain of thought with `<<a=b>>` annotations that ends in `#### gold`:

    {"question": "Tom has 3 bags with 6 apples each. How many apples has he?",
     "answer": "He has 3*6=<<3*6=18>>18 apples.\n#### 18"}
"""

from typing import Any

from aft_ray.config import TaskConfig
from aft_ray.tasks.answers import NUMBER
from aft_ray.tasks.base import Asked, Row, Task, Text
from aft_ray.tasks.numbers import plain_number


class GSM8KRow(Row):
    question: Text
    answer: Text


def parse(row: dict[str, Any], config: TaskConfig) -> Asked:
    found = GSM8KRow.model_validate(row)
    _, separator, gold = found.answer.rpartition("####")
    try:
        return Asked(found.question, gold=plain_number(gold if separator else ""), reference=found.answer)
    except ValueError:
        shown = repr(gold.strip())[:40] if separator else "no ####"
        raise ValueError(f"answer: expected a chain of thought that ends in '#### NUMBER', found {shown}") from None


TASK = Task("gsm8k", NUMBER, source="github.com/openai/grade-school-math", licence="MIT", parse=parse)
