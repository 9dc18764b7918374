"""ecqa: common-sense questions with explanations (github.com/dair-iitd/ECQA-Dataset, CDLA-Sharing-1.0; 7,598 + 1,090 + 2,194).

CommonsenseQA's questions by ECQA's split, joined with the explanations, JSON lines:

    {"id": "d5d4...", "question": "What might a person see at the scene of a brutal killing?",
     "choices": [["A", "bloody mess"], ["B", "pleasure"], ["C", "being imprisoned"], ["D", "feeling of guilt"], ["E", "cake"]],
     "answer": "A", "explanation_flan": "Bloody mess is covered or stained with blood. ..."}

A row without explanation has no reference. The published split leaks: 32 questions stand in train and in test, 7 in train and
in validation; like every training question that is held out as well, they are left out of train and counted.
"""

from typing import Annotated, Any

from pydantic import Field

from aft_ray.config import TaskConfig
from aft_ray.tasks.answers import CHOICE
from aft_ray.tasks.base import Asked, Row, Task, Text
from aft_ray.tasks.choices import read_choices


class EcqaRow(Row):
    question: Text
    choices: Annotated[list[Annotated[list[Text], Field(min_length=2, max_length=2)]], Field(min_length=2, max_length=26)]
    answer: Annotated[str, Field(pattern=r"^[A-Z]$")]
    explanation_flan: Text | None = None


def parse(row: dict[str, Any], config: TaskConfig) -> Asked:
    found = EcqaRow.model_validate(row)
    choices = read_choices(found.choices)
    if found.answer not in [letter for letter, _ in found.choices]:
        raise ValueError(f"answer: expected the letter of an option, found {found.answer!r}")
    reference = None if found.explanation_flan is None else f"{found.explanation_flan} The answer is ({found.answer})."
    return Asked(found.question, found.answer, choices, reference)


TASK = Task("ecqa", CHOICE, source="github.com/dair-iitd/ECQA-Dataset", licence="CDLA-Sharing-1.0", parse=parse)
