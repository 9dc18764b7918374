"""Rows of the user's files: JSON lines, Parquet, tab-separated, a saved Hugging Face dataset, or hf:NAME:SPLIT.

Faults are collected, not raised one by one: the user sees all of them, each as file:row:field.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from aft_ray.config import TaskConfig
from aft_ray.tasks.base import Asked, Task, describe
from schemas import Question, Split


def read_file(path: Path, split: Split, task: Task, config: TaskConfig, faults: list[str]) -> list[Question]:
    """All questions of a file; every fault of the file is appended to `faults`."""
    before = len(faults)
    questions = []
    for number, row in rows(path, faults):
        asked = parse_row(row, f"{path}:{number}", task, config, faults)
        if asked is not None:
            questions.append(
                Question(
                    question_id=f"{config.label}-{split}-{number}",
                    task=config.label,
                    split=split,
                    text=asked.text,
                    choices=asked.choices,
                    gold=asked.gold,
                    reference=asked.reference,
                )
            )
    if not questions and len(faults) == before:
        faults.append(f"{path}: no questions, expected rows as in the docstring of task {task.name}")
    return questions


def where(question: Question, config: TaskConfig) -> str:
    """The file and row that `read_file` has it from; of a generated question its name."""
    file = config.train_file if question.split == "train" else config.test_file
    return question.question_id if file is None else f"{file}:{question.question_id.rpartition('-')[2]}"


def parse_row(row: dict[str, Any], where: str, task: Task, config: TaskConfig, faults: list[str]) -> Asked | None:
    """A row as a question; None, and its faults, where it is none."""
    assert task.parse is not None
    try:
        asked = task.parse(row, config)
        for text in (asked.text, asked.gold, *asked.choices, asked.reference or ""):
            text.encode()
        return asked
    except ValidationError as error:
        faults += [f"{where}:{describe(fault)}" for fault in error.errors()]
    except UnicodeEncodeError:
        faults.append(f"{where}: expected valid Unicode, found a lone surrogate")
    except ValueError as error:
        faults.append(f"{where}:{error}")
    return None


def rows(path: Path, faults: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of a file: the line where it has lines, else the row, from 1."""
    name = str(path)
    try:
        if name.startswith("hf:"):
            yield from enumerate(_hub_rows(name), start=1)
        elif path.is_dir():
            yield from enumerate(_saved_rows(path), start=1)
        elif path.suffix == ".parquet":
            yield from enumerate(_parquet_rows(path), start=1)
        elif path.suffix == ".tsv":
            for number, line in _lines(path, faults):
                yield number, columns(line)
        else:
            yield from _json_rows(path, faults)
    except OSError as error:
        faults.append(f"{path}: cannot be read ({error.strerror or error})")
    except (pa.ArrowException, ValueError, KeyError) as error:
        faults.append(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})")


def columns(line: str) -> dict[str, Any]:
    """Columns of a line without header, named column1, column2, ..."""
    return {f"column{number}": column for number, column in enumerate(line.rstrip("\r\n").split("\t"), start=1)}


def _lines(path: Path, faults: list[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            faults.append(f"{path}:{number}: not UTF-8 ({error.reason})")


def _json_rows(path: Path, faults: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path, faults):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.append(f"{path}:{number}: not JSON ({error})")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            faults.append(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def _saved_rows(path: Path) -> Iterator[dict[str, Any]]:
    from datasets import DatasetDict, load_from_disk

    found = load_from_disk(str(path))
    if isinstance(found, DatasetDict):
        raise ValueError(f"it holds the splits {', '.join(found)}: name one of their folders")
    yield from found


def _hub_rows(name: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    source = hub_source(name)
    yield from load_dataset(source.repository, source.config, split=source.split)


class HubSource(NamedTuple):
    repository: str
    """On the hub, or a folder of this disk."""
    config: str | None
    split: str


def hub_source(name: str) -> HubSource:
    """What hf:NAME:SPLIT names. Raises ValueError where it is not of that form."""
    found = re.fullmatch(r"([^\[\]]+):([^:\[\]]+(?:\[[^\[\]]*\][^:\[\]]*)*)", name.removeprefix("hf:"))
    if not found:
        raise ValueError("expected hf:NAME:SPLIT, as in hf:openai/gsm8k/main:train or hf:openai/gsm8k/main:train[:80%]")
    source, split = found.groups()
    if not Path(source).exists() and source.count("/") > 1:
        repository, _, config = source.rpartition("/")
        return HubSource(repository, config, split)
    return HubSource(source, None, split)
