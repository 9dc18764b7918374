"""Exact text as an answer: `Paris`. Case, white space, quotes and the final stop make no difference."""

import functools
import re

from aft_ray.tasks.latex import to_plain
from aft_ray.tasks.stated import UNREADABLE, Statement, last_stated
from schemas import Verdict

EDGES = " \t\r\n.,;:!?*_`\"'\u201c\u201d\u2018\u2019$"


def stated_text(text: str, choices: tuple[str, ...] = ()) -> str | None:
    """The line that states the answer, None where there is none."""
    return last_stated(text, _read)


def _read(statement: Statement) -> str | None:
    found = to_plain(statement.words.strip().partition("\n")[0]).strip(EDGES)
    if not found:
        return UNREADABLE if statement.kind == "marker" else None
    return found if statement.kind not in ("conclusion", "first") else None


def compare_texts(extracted: str, gold: str, choices: tuple[str, ...] = ()) -> Verdict:
    """Whether the line, or its first sentence, is gold; where gold is some other part of it, it cannot be told."""
    said, wanted = _folded(extracted), _folded(gold)
    if wanted in (said, _folded(Statement(extracted, "line").sentence)):
        return "right"
    return "unknown" if re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", said) else "wrong"


@functools.lru_cache(maxsize=4096)
def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).strip(EDGES)
