"""What a stream has answered, and the questions that were given up, for people to look at: a file beside the records."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from aft_ray.places import Place, atomic_file
from aft_ray.sampling.attempts import NothingIsAnsweredError
from aft_ray.sampling.commits import committed, each_once, forget_given_up
from schemas import CandidateGroup, Evaluation, iter_parquet

R = TypeVar("R", CandidateGroup, Evaluation)
DEAD_LETTERS = "dead_letters.jsonl"


def answered(folder: Place, record: type[R], expected: Iterable[str], id_of: Callable[[R], str]) -> Iterator[R]:
    """The records of a stream that has ended, one of each question; dead letters are written beside `folder`.

    Raises RuntimeError where questions are missing, NothingIsAnsweredError where all were given up, whom the same command asks
    again.
    """
    committed(folder)  # again: of a stream that outlived its driver something may have come meanwhile
    try:
        yield from keep_dead_letters(folder.parent, each_once(expected, iter_parquet(folder, record), id_of))
    except NothingIsAnsweredError:
        forget_given_up(folder)
        raise


def keep_dead_letters(stage: Place, records: Iterable[R]) -> Iterator[R]:
    """The records as they come. At their end the file is written: {"question_id", "task", "reason", "attempts"} a line.

    Raises NothingIsAnsweredError where all are dead letters.
    """
    (stage / DEAD_LETTERS).unlink(missing_ok=True)
    found, number = [], 0
    for number, record in enumerate(records, start=1):  # noqa: B007
        if record.failure is not None:
            question = record.question if isinstance(record, CandidateGroup) else record
            found.append({"question_id": question.question_id, "task": question.task} | record.failure.model_dump())
        yield record
    if found:
        with atomic_file(stage / DEAD_LETTERS) as file:
            file.writelines(json.dumps(letter) + "\n" for letter in found)
        if len(found) == number:
            raise NothingIsAnsweredError(f"all {number} questions were given up. The last: {found[-1]['reason']}")
