"""Labels alone: rows with `gold` and `completion` come back with `verdict`, `extracted` and `reason`.

A row may carry its options as `choices` or `options`; a row whose `finish_reason` is `length` was cut off, and has not stated
its last answer, unless it was cut off in a question of the model's own. All other columns pass through.
"""

import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import rich.progress
from rich.console import Console

from aft_ray.isolated import Isolated
from aft_ray.places import atomic_file
from aft_ray.tasks.answers import Answer, Check, check_answer
from aft_ray.tasks.base import BadInputError
from aft_ray.tasks.choices import LETTERS, read_choices
from aft_ray.tasks.own_part import goes_on_to_another

LINES_AT_A_TIME = 10_000


class BrokenRowError(ValueError):
    """`field: what was expected, and what was found`."""


def label_file(source: Path, out: Path, answer: Answer, check_seconds: float, console: Console) -> dict[str, int]:
    """Label a file of JSON lines into another, in the same order; returns how many rows have which verdict.

    A broken row is left out and told as file:line:field. Raises OSError where a file cannot be read or written, and BadInputError
    where no row could be labelled, and leaves no file then.
    """
    counts: Counter[str] = Counter()
    with (
        rich.progress.open(
            source, "rb", description="label", console=console, transient=True, disable=not console.is_terminal
        ) as lines,
        atomic_file(out) as written,
    ):
        numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
        for number, result in _in_order(numbered, answer, check_seconds):
            if isinstance(result, BrokenRowError):
                counts["broken"] += 1
                console.print(f"{source}:{number}:{result}", style="red", markup=False, highlight=False, soft_wrap=True)
            else:
                counts[result["verdict"]] += 1
                written.write(json.dumps(result, allow_nan=False) + "\n")
        if counts.total() == counts["broken"]:
            told = f"none of {counts['broken']} rows can be labelled" if counts["broken"] else "no rows"
            raise BadInputError([f"{source}: {told}, expected JSON lines with gold and completion"])
    return dict(counts)


def label_line(line: bytes, answer: Answer, isolated: Isolated) -> dict[str, Any]:
    """The row with its label. Raises BrokenRowError."""
    try:
        row = json.loads(line, parse_constant=_refuse)
        json.dumps(row, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise BrokenRowError(f" not JSON ({str(error)[:100]})") from None
    if not isinstance(row, dict):
        raise BrokenRowError(f" expected a JSON object, found {type(row).__name__}")
    check = check_row(row, answer, isolated)
    return row | {"verdict": check.verdict, "extracted": check.extracted, "reason": check.reason}


def check_row(row: dict[str, Any], answer: Answer, isolated: Isolated) -> Check:
    completion = row.get("completion")
    if not isinstance(completion, str):
        raise BrokenRowError(f"completion: expected a text, found {_shown(row, 'completion')}")
    choices = read_row_choices(row)
    gold = read_row_gold(row, answer, choices)
    if row.get("finish_reason") == "length" and not goes_on_to_another(completion):
        return Check("unknown", None, "cut off")
    return check_answer(completion, gold, choices, answer, isolated)


def read_row_choices(row: dict[str, Any]) -> tuple[str, ...]:
    for name in ("choices", "options"):
        if row.get(name) is not None:
            try:
                return read_choices(row[name])
            except ValueError as error:
                raise BrokenRowError(f"{name}: {error}") from None
    return ()


def read_row_gold(row: dict[str, Any], answer: Answer, choices: tuple[str, ...]) -> str:
    gold = row.get("gold")
    if answer.name == "choice" and isinstance(gold, int) and not isinstance(gold, bool) and 0 <= gold < (len(choices) or 26):
        return LETTERS[gold]
    if answer.name == "function" and gold is not None:
        return gold if isinstance(gold, str) else json.dumps(gold)
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        raise BrokenRowError(f"gold: expected a {answer.name}, found {_shown(row, 'gold')}")
    try:
        return answer.read_gold(str(gold), choices)
    except ValueError as error:
        raise BrokenRowError(f"gold: {error}") from None


def _in_order(
    lines: Iterable[tuple[int, bytes]], answer: Answer, check_seconds: float
) -> Iterator[tuple[int, dict[str, Any] | BrokenRowError]]:
    """Checks that need a process of their own run several at a time; the others are too short for that."""
    local = threading.local()
    opened: list[Isolated] = []

    def label(numbered: tuple[int, bytes]) -> tuple[int, dict[str, Any] | BrokenRowError]:
        if not hasattr(local, "isolated"):
            local.isolated = Isolated(check_seconds)
            opened.append(local.isolated)
        try:
            return numbered[0], label_line(numbered[1], answer, local.isolated)
        except BrokenRowError as error:
            return numbered[0], error

    try:
        if answer.isolated is None:
            yield from map(label, lines)
            return
        source = iter(lines)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            while batch := list(islice(source, LINES_AT_A_TIME)):
                yield from pool.map(label, batch)
    finally:
        for isolated in opened:
            isolated.close()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _shown(row: dict[str, Any], field: str) -> str:
    return f"{row[field]!r:.60}" if field in row else "nothing"
