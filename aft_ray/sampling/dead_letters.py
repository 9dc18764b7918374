"""Questions that were given up, for people to look at: a file beside the records of a stage."""

import json
from collections.abc import Iterable, Iterator
from typing import TypeVar

from aft_ray.places import Place, atomic_file
from schemas import CandidateGroup, Evaluation

R = TypeVar("R", CandidateGroup, Evaluation)
DEAD_LETTERS = "dead_letters.jsonl"


def keep_dead_letters(stage: Place, records: Iterable[R]) -> Iterator[R]:
    """The records as they come. At their end the file is written: {"question_id", "task", "reason", "attempts"} a line."""
    found = []
    for record in records:
        if record.failure is not None:
            question = record.question if isinstance(record, CandidateGroup) else record
            found.append({"question_id": question.question_id, "task": question.task} | record.failure.model_dump())
        yield record
    if found:
        with atomic_file(stage / DEAD_LETTERS) as file:
            file.writelines(json.dumps(letter) + "\n" for letter in found)
