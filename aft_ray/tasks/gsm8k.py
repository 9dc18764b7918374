r"""gsm8k: grade-school word problems, as published by OpenAI (github.com/openai/grade-school-math, MIT).

JSON lines with `question` and `answer`; the answer is a chain of thought with `<<a=b>>` annotations that ends in `#### gold`:

    {"question": "Tom has 3 bags with 6 apples each. How many apples has he?",
     "answer": "He has 3*6=<<3*6=18>>18 apples.\n#### 18"}
"""

import json
from pathlib import Path

from aft_ray.config import TaskConfig
from aft_ray.tasks.answers import parse_number
from aft_ray.tasks.base import BadInputError
from schemas import Question, Split


def read(config: TaskConfig, seed: int) -> list[Question]:
    """Training and held-out questions, in the order of their files. Raises BadInputError."""
    assert config.train_file is not None
    assert config.test_file is not None
    faults: list[str] = []
    questions = read_file(config.train_file, "train", config.train_questions, faults)
    questions += read_file(config.test_file, "test", config.test_questions, faults)
    if faults:
        raise BadInputError(faults)
    return questions


def read_file(path: Path, split: Split, limit: int | None, faults: list[str]) -> list[Question]:
    """The first `limit` questions of a file; every fault of the whole file is appended to `faults`."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        faults.append(f"{path}: cannot be read ({error.strerror})")
        return []
    questions = []
    line_of_text: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        found = parse_line(line, where, split, number)
        if isinstance(found, str):
            faults.append(found)
        elif found.text in line_of_text:
            faults.append(f"{where}:question: the same as line {line_of_text[found.text]}, expected each question once")
        else:
            line_of_text[found.text] = number
            questions.append(found)
    if not line_of_text and not faults:
        faults.append(f"{path}: no questions, expected JSON lines")
    return questions[:limit]


def parse_line(line: bytes, where: str, split: Split, number: int) -> Question | str:
    """A question, or what is wrong with its line."""
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"{where}: not JSON ({error})"
    if not isinstance(row, dict):
        return f"{where}: expected a JSON object, found {type(row).__name__}"
    for field in ("question", "answer"):
        value = row.get(field)
        if not isinstance(value, str) or not value.strip():
            found = "nothing" if field not in row else repr(value)[:40]
            return f"{where}:{field}: expected a text, found {found}"
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            return f"{where}:{field}: expected valid Unicode, found a lone surrogate"
    _, separator, gold = row["answer"].rpartition("####")
    try:
        parse_number(gold if separator else "")
    except ValueError:
        found = repr(gold.strip())[:40] if separator else "no ####"
        return f"{where}:answer: expected a chain of thought that ends in '#### NUMBER', found {found}"
    return Question(
        question_id=f"gsm8k-{split}-{number}",
        task="gsm8k",
        split=split,
        text=row["question"].strip(),
        gold=gold.strip(),
        reference=row["answer"].strip(),
    )
