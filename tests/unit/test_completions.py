"""Completions as language models write them, each with the verdict of a person who read it (completions.jsonl, Apache-2.0).

Written for this project in the manner of base models, chat models and reasoners: answers in every notation, restated, taken
back, supposed, offered among others, followed by explanations or by the next question. Where the code is known to disagree with
the reader, a row says as `known` what the code gives.
"""

import json
from pathlib import Path

import pytest

from aft_ray.isolated import Isolated
from aft_ray.label_file import check_row
from aft_ray.tasks import TASKS
from aft_ray.tasks.answers import TEXT

KNOWN_DISAGREEMENTS = 15
ROWS = [json.loads(line) for line in (Path(__file__).parent / "completions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("task", ["gsm8k", "aqua", "ecqa", "mmlu", "math", "text"])
def test_verdicts_are_those_of_a_reader(task):
    isolated = Isolated(5.0)
    rows = [row for row in ROWS if row["task"] == task]
    assert {row["verdict"] for row in rows} == {"right", "wrong", "unknown"}
    answer = TEXT if task == "text" else TASKS[task].answer
    disagreed = [
        (row["completion"], row["gold"], row["verdict"], check.verdict, check.extracted)
        for row in rows
        if (check := check_row(row, answer, isolated)).verdict != row.get("known", row["verdict"])
    ]
    isolated.close()
    assert disagreed == []


def test_disagreements_are_few_and_known():
    known = [row for row in ROWS if "known" in row]
    assert len(known) == KNOWN_DISAGREEMENTS
    assert all(row["known"] != row["verdict"] for row in known)
