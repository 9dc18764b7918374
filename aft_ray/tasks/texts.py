"""Exact text as an answer: `Paris`. Case, white space, quotes and the final stop make no difference."""

import functools
import re

from aft_ray.tasks.latex import to_plain
from aft_ray.tasks.stated import Statement, statements
from schemas import Verdict

EDGES = " \t\r\n.,;:!?*_`\"'\u201c\u201d\u2018\u2019$"


def stated_text(text: str, choices: tuple[str, ...] = ()) -> str | None:
    """The words that the text states as its answer, None where it states none."""
    for statement in statements(text):
        words = statement.words if statement.kind == "line" else Statement(statement.words, statement.kind).sentence
        found = to_plain(words).strip(EDGES)
        if found and statement.kind != "conclusion":
            return found
        if statement.final:
            return None
    return None


def compare_texts(extracted: str, gold: str, choices: tuple[str, ...] = ()) -> Verdict:
    """Equal or not; where gold is a part of what was said, it cannot be told."""
    said, wanted = _folded(extracted), _folded(gold)
    if said == wanted:
        return "right"
    return "unknown" if re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", said) else "wrong"


@functools.lru_cache(maxsize=4096)
def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).strip(EDGES)
