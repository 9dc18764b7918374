"""Exact text as an answer: `Paris`. Case, white space, quotes and the final stop make no difference."""

import functools
import re
import unicodedata

from aft_ray.tasks.latex import to_plain
from aft_ray.tasks.sentences import UNREADABLE, Statement
from aft_ray.tasks.stated import last_stated
from schemas import Verdict

EDGES = " \t\r\n.,;:!?*_`\"'\u201c\u201d\u2018\u2019\u201e\u00ab\u00bb()[]$\u2022-"
# A line without a marker states an answer where it is hardly more than that.
MAX_WORDS = 6
REFUSED = re.compile(
    r"\b(?:do\s+not\s+know|don't\s+know|not\s+sure|cannot|can't|sorry|unclear|unable|let\s+me|it\s+depends|i\s+think\s+so)\b",
    re.IGNORECASE,
)
SAID_BEFORE = re.compile(r"^(?:a|ans|final)\s*:\s*", re.IGNORECASE)
REASON = re.compile(r",?\s+(?:because|since)\b.*$", re.IGNORECASE | re.DOTALL)
THOUGHT = re.compile(r"^.*</think>", re.DOTALL)


def stated_text(text: str, choices: tuple[str, ...] = ()) -> str | None:
    """The line that states the answer, None where there is none."""
    return last_stated(THOUGHT.sub("", text), _read)


def _read(statement: Statement) -> str | None:
    found = _trimmed(to_plain(statement.words.strip().partition("\n")[0]).replace("\u2019", "'"))
    if not found or REFUSED.search(Statement(found, "line").sentence):
        return UNREADABLE if statement.kind == "marker" else None
    if statement.kind in ("line", "first") and len(SAID_BEFORE.sub("", found).split()) > MAX_WORDS:
        return None
    if statement.kind in ("conclusion", "opening", "closing"):
        return None
    return REASON.sub("", SAID_BEFORE.sub("", found) if statement.kind in ("line", "first") else found)


def compare_texts(extracted: str, gold: str, choices: tuple[str, ...] = ()) -> Verdict:
    """Whether the line, or its first sentence, is gold; where gold is some other part of it, it cannot be told."""
    said, wanted = folded(extracted), folded(gold)
    if wanted in (said, folded(Statement(extracted, "line").sentence)):
        return "right"
    return "unknown" if re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", said) else "wrong"


def _trimmed(text: str) -> str:
    """Without what stands around it; the minus of a number stays."""
    found = text.strip(EDGES)
    start = text.find(found)
    return f"-{found}" if found[:1].isdigit() and text[max(0, start - 1) : start] == "-" else found


@functools.lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """Without case, articles, surplus white space, and the typography of quotes, accents and abbreviations."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("&", " and ").replace("\u2019", "'").replace("_", "")
    words = re.sub(r"\b([ap])\.\s?m\b\.?", r"\1m", text).split()
    if len(words) > 1 and words[0] in ("a", "an", "the"):
        words = words[1:]
    found = re.sub(r"(?<=\b\w)\.\s?(?=\w\b)", "", _trimmed(" ".join(words).replace("\u2212", "-")))
    return re.sub(r"(?<=\d) (?=[a-z]{1,2}\b)", "", found)
