"""custom: the user's own rows, their fields mapped by the configuration, their answers of any kind.

    {"question": "What is the capital of France?", "gold": "Paris"}                   answer: text
    {"question": "2 + 2 = ?", "gold": 4, "reference": "2 + 2 = 4. The answer is 4."}  answer: number
    {"question": "Which is a fruit?", "options": ["oak", "pear"], "gold": "B"}        answer: choice, fields.choices: options

Gold of a choice is a letter, an option's text, or its index from 0. A reference must state its answer, as in `The answer is
4.`, for the model learns from it how to.
"""

import json
from typing import Any

from pydantic import ValidationError

from aft_ray.config import FieldsConfig, TaskConfig
from aft_ray.tasks.answers import answer_of_kind
from aft_ray.tasks.base import Asked, Row, Task, Text, describe
from aft_ray.tasks.choices import LETTERS, read_choices


class CustomRow(Row):
    question: Text
    gold: Text | int | float
    reference: Text | None


def parse(row: dict[str, Any], config: TaskConfig) -> Asked:
    fields = config.fields
    for name in (fields.question, fields.gold, fields.choices):
        if name is not None and row.get(name) is None:
            there = ", ".join(str(field) for field in row)[:80]
            raise ValueError(f"{name}: expected a value, found nothing; the row has {there}")
    found = read_row(row, fields, config.answer)
    try:
        choices = read_choices(row[fields.choices]) if fields.choices is not None else ()
    except ValueError as error:
        raise ValueError(f"{fields.choices}: {error}") from None
    gold = str(found.gold)
    if choices and isinstance(found.gold, int) and 0 <= found.gold < len(choices):
        gold = LETTERS[found.gold]
    try:
        return Asked(found.question, answer_of_kind(config.answer).read_gold(gold, choices), choices, found.reference)
    except ValueError as error:
        raise ValueError(f"{fields.gold}: {error}") from None


def read_row(row: dict[str, Any], fields: FieldsConfig, answer: str) -> CustomRow:
    """The mapped fields of a row. A user's function may take any gold: what is no text comes to it as JSON."""
    gold, reference = row[fields.gold], row.get(fields.reference) if fields.reference is not None else None
    if ":" in answer and not isinstance(gold, str):
        gold = json.dumps(gold)
    if isinstance(reference, str) and not reference.strip():
        reference = None
    names = {"question": fields.question, "gold": fields.gold, "reference": fields.reference}
    try:
        return CustomRow.model_validate({"question": row[fields.question], "gold": gold, "reference": reference})
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(describe({**fault, "loc": (names[str(fault["loc"][0])],)})) from None


def make_task(config: TaskConfig) -> Task:
    return Task("custom", answer_of_kind(config.answer), source="your own", licence="yours", parse=parse)
