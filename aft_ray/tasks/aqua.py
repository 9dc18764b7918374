r"""aqua: algebra word problems with five options (AQuA-RAT, github.com/google-deepmind/AQuA, Apache-2.0; 254 + 254 held out).

JSON lines with `question`, `options`, `rationale`, `correct`:

    {"question": "A train takes 2 h for 120 km. How fast is it?", "options": ["A)50 km/h", "B)60 km/h", "C)70 km/h",
     "D)80 km/h", "E)90 km/h"], "rationale": "120 / 2 = 60", "correct": "B"}

or the tab-separated rows of the FLAN collection (github.com/google-research/FLAN, Apache-2.0; 2,728 for training), with a
literal `\n`: question + `\nOptions:\n(A) 50 km/h\n(B) ...`, `(B)`, rationale. The reference is the rationale, with the answer
stated behind it.
"""

import re
from typing import Annotated, Any

from pydantic import Field

from aft_ray.config import TaskConfig
from aft_ray.tasks.answers import CHOICE
from aft_ray.tasks.base import Asked, Row, Task, Text
from aft_ray.tasks.choices import read_choices

FLAN_OPTION = re.compile(r"\\n\([A-E]\) ?")


class AquaRow(Row):
    question: Text
    options: Annotated[list[Text], Field(min_length=5, max_length=5)]
    rationale: Text
    correct: Annotated[str, Field(pattern=r"^[A-E]$")]


class FlanRow(Row):
    column1: Text
    column2: Annotated[str, Field(pattern=r"^\([A-E]\)$")]
    column3: Text


def parse(row: dict[str, Any], config: TaskConfig) -> Asked:
    if "column1" in row:
        return parse_flan(row)
    found = AquaRow.model_validate(row)
    return asked(found.question, read_choices(found.options), found.correct, found.rationale)


def parse_flan(row: dict[str, Any]) -> Asked:
    found = FlanRow.model_validate(row)
    question, separator, options = found.column1.rpartition(r"\nOptions:")
    choices = tuple(option.strip() for option in FLAN_OPTION.split(options)[1:])
    if not separator or len(choices) != 5 or not all(choices):
        raise ValueError(f"column1: expected a question, \\nOptions: and five options, found {len(choices)}")
    return asked(question.replace(r"\n", "\n"), choices, found.column2[1], found.column3.replace(r"\n", "\n"))


def asked(question: str, choices: tuple[str, ...], gold: str, rationale: str) -> Asked:
    return Asked(question, gold, choices, reference=f"{rationale}\nThe answer is ({gold}).")


TASK = Task("aqua", CHOICE, source="github.com/google-deepmind/AQuA", licence="Apache-2.0", parse=parse)
