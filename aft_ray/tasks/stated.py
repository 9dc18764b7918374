r"""Where a text states its answer.

Behind a marker: `#### 18`, `The answer is 18`, `Answer: 18`, `\boxed{18}`; the last one counts. A text without any states it
where it ends, or where it begins (unmarked.py). What is taken back, supposed or asked states nothing.
"""

import functools
import re
from collections.abc import Callable, Iterator
from itertools import islice

from aft_ray.tasks.own_part import STEP, own_part
from aft_ray.tasks.sentences import SENTENCES, WINDOW, Kind, Statement
from aft_ray.tasks.unmarked import unmarked

MAX_BOX = 2000
MAX_REST = 5000
MAX_MARKS = 30

# How most texts end, found much faster than by searching for every marker: a number or a letter, and nothing more.
PLAIN_ENDS: tuple[tuple[str, Kind], ...] = (("#### ", "label"), ("answer is ", "marker"), ("nswer is: ", "label"))
PLAIN_WORDS = re.compile(r"[ $]*(?:-?\d[\d,.]*|\(?[A-J]\)?\.?)\s*$")
PLAIN_LENGTH = 50
# What stands between the noun ("answer") and what it is: an aside ("to the question"), then a verb, a colon or the line's end.
LINK = re.compile(
    r"""s?\b [*_"'\]]{0,3}
        (?:\s*\([^()\n]{0,40}\))?
        (?:,?\s+(?:to|of|for|here|in|that|which|among|from|I|we)\b [^.:\n=]{0,100}?)?
        (?:,?\s+(?:then|therefore|thus|hence),?)? ,?\s*
        (?: (?P<verb> (?:(?:must|should|would|will|can\s+only|has\s+to|have\s+to)\s+be|is|are|was|equals|becomes
                        |(?:comes?|works?|turns?)\s(?:out\s)?(?:to\s+be|to|as)|turns\s+out\s+to\s+be)\b | =)\s*:?
          | [:\uff1a] | \s?[\u2013-]\s | \s?(?:[\u2192\u21d2]|[=-]>)
          | [ \t]*\n )
        [*_]{0,3}
        (?! \s* (?: (?:correct|right)\s*[.!]*\s*$ | as\s+follows\b
                   | (?:obtained|found|calculated|computed|derived|supported|based)\b ))""",
    re.VERBOSE | re.IGNORECASE,
)
# The plain case of the same, much faster: what follows is no word.
PLAIN_LINK = re.compile(r"(?:(?P<verb> is):?|:) (?=[^a-zA-Z*_\s]|[A-J]\b)")
BARE_LINK = re.compile(
    r"\s+(?=[(\d$A-J])(?=[($]?-?\d[\d,.]*\)?\s*(?:$|\n)|[(\[]?[A-J]\b[).\]]*\s*(?:$|\n|[(:]|is\s+(?:the\s+)?(?:correct|right)))"
)
ABBREVIATED_LINK = re.compile(r"\.?\s*(?:[:=-]|is\b)|\.(?=\s)")
TAG = re.compile(r">(?=[^<>]{1,200}(?:<|$))")
# `Option C ...` mentions an option; it is the answer where it is said to be.
MENTION = re.compile(
    r"\s+(?=[(\[*\"]{0,3}[A-J]\b[^.\n]{0,80}?\s(?:is|seems|would\s+be|must\s+be|has\s+to\s+be)\s+"
    r"(?:(?:the|indeed|clearly|therefore|thus|our|my)\s+)*(?:only\s+)?(?:correct|right|best|answer|most))"
)
CHOSEN = re.compile(
    r"\b(?:correct|right|best|answer|appropriate|suitable|likely|final|accurate|closest|only|selected|chosen|my|our|(?:^|[.!\n]\s*|\bso,?\s+|\btherefore,?\s+)the)[*_\s]*$",
    re.I,
)
# `18 is the answer.`
SUBJECT = re.compile(
    r"(?<!which)(?<!that)(?<!this)(?<!what)(?<!\bit)\s(?:is|was|must\s+be|would\s+be|has\s+to\s+be)\s+(?:(?:therefore|thus|clearly)\s+)?(?:the|my|our)\s+(?:\w+\s+)?$"
)
SUBJECT_END = re.compile(r"[*_]*(?:[.!,;)]|\s*$|\s*\n|\s+(?:because|since|as|here|to)\b)")
# Said of an answer that is not the text's own, or of one that is only supposed, asked for or reported: by the word before the
# noun or the one before that; by the one before `the`.
NOT_OURS = frozenset(
    ("other", "wrong", "incorrect", "remaining", "false", "common", "each", "every",
     "another", "previous", "these", "this", "if", "whether")
)  # fmt: skip
REPORTED = frozenset(
    ("if", "whether", "think", "thought", "say", "says", "said", "assume", "suppose", "guess", "that",
     "check", "verify", "confirm")
)  # fmt: skip
OURS = frozenset(["our", "the", "this", "my", "your"])
ASKED = re.compile(
    r"(?:^|[.!?\n]\s*)is\s+(?:the|this)\s+(?:\w+\s+)?$|\bsome\s+(?:\w+\s+)?(?:may|might|would)\s[^.\n]*$", re.IGNORECASE
)
SUPPOSED = re.compile(r"\bif\b|\bhad\s+(?:the|we|she|he|it|they)\b", re.IGNORECASE)
# Taken back: by these words wherever they stand behind the answer, or by those right behind it.
TAKEN_BACK = re.compile(
    r"(?:(?:^|[.!?\u2026\n(]\s{0,9}|,\s{0,9}(?:no,?\s)?|\bno,?\s+)(?:wait|hold\s+on|oops|hmm+|scratch\s+that|correction|sorry)\s*[,.!:\u2026\u2014-]+)"
    r"|\b(?:I|I've)\s+(?:have\s+)?made\s+(?:a|an)\s+(?:\w+\s+)?(?:mistake|error)\b|\bon\s+second\s+thought\b|\bI\s+mean[t,]?\s",
    re.IGNORECASE,
)
TAKEN_BACK_AT_ONCE = re.compile(
    r"[^.!?\n]{0,60}?[.!?\u2026,)\u2014-]+\s+(?:oh,?\s+)?(?:(?:no\b(?=\s*[,.!:;\u2026\u2014-]|\s+(?:wait|it|that|this|I|the\s+answer)\b|\s+[\d$(\\])|actually\b),?\s*|(?:but\s+)?(?:that|this)(?:'s|\s+is|\s+was)\s+(?:wrong|incorrect|not\s+(?:right|correct))\b)"
    r"(?:[^.\n]{0,30}\b(?:wrong|incorrect|not\s+(?:right|correct))\b)?",
    re.IGNORECASE,
)
BACK_WORDS = (
    "ait",
    "old on",
    "ops",
    "mm",
    "cratch",
    "orrection",
    "orry",
    "istake",
    "error",
    "second thought",
    " mean",
    "No",
    "no",
    "ctually",
    "wrong",
    "incorrect",
    "not ",
)
NO = re.compile(r"^\W*no\b\W*", re.IGNORECASE)
UPHELD = re.compile(r"\b(?:yes|indeed|is\s+correct|is\s+right|confirmed|checks\s+out|still\s+holds)\b", re.IGNORECASE)
# `$x = \\boxed{3}$ or $x = \\boxed{5}$` is one answer.
JOINED_BOX = re.compile(
    r"\\boxed\s*\{([^{}]*)\}\s*\$?\s*(?:,|,?\s*(?:\\text\s*\{\s*)?\b(?:and|or)\b\s*\}?)\s*(?:and\s+|or\s+)?\$?\s*(?:\\[a-z]+\s*)?(?:[a-z]\s*=\s*)?$"
)
OPENING, BRACE = re.compile(r"\s*\{"), re.compile(r"(?<!\\)[{}]")
HEADING = re.compile(STEP, re.IGNORECASE)
# `The answer is not 8` takes nothing back but an 8.
DENIAL = re.compile(r"[\s*_]*not\s+(?![^.\n]*\bbut\b)", re.IGNORECASE)
Reader = Callable[[Statement], str | None]


def last_stated(text: str, read: Reader, nouns: tuple[str, ...] = ("answer",)) -> str | None:
    """What the text states last. `read(statement)`: what the words state, None where nothing, UNREADABLE where it is unclear."""
    text = own_part(text)
    plain = plain_end(text)
    if plain is not None and (found := read(plain)):
        return found
    denied = []
    for statement in statements(text, nouns):
        if statement.asked and statement.kind != "closing":
            continue
        if statement.kind == "marker" and (no := DENIAL.match(statement.words)) is not None:
            denied.append(read(Statement(statement.words[no.end() :], "marker")))
            continue
        found = read(statement)
        if found is not None:
            return None if found in denied else found or None
    return None


def plain_end(text: str) -> Statement | None:
    """How most texts end: a marker, a number or a letter, and nothing more."""
    for mark, kind in PLAIN_ENDS:
        at = text.rfind(mark, max(0, len(text) - PLAIN_LENGTH))
        if at >= 0 and PLAIN_WORDS.match(text, at + len(mark)):
            ours = kind == "label" or not _not_ours(text[max(0, at - 60) : at])
            return Statement(text[at + len(mark) :], kind) if ours else None
    return None


def statements(text: str, nouns: tuple[str, ...] = ("answer",)) -> Iterator[Statement]:
    """What may state the answer of our part of a text, the last first. `nouns`: what an answer is called."""
    last = True
    supposed = []
    for at, statement in islice(marked(text, nouns), MAX_MARKS):
        if last and (back := _taken_back(text, at)) is not None:
            yield from corrections(text[back:])
            return
        last = False
        if not _supposed(text, at):
            yield statement
        elif SUPPOSED.search(statement.sentence) is None:
            supposed.append(statement)
    yield from unmarked(text)
    yield from supposed


def marked(text: str, nouns: tuple[str, ...]) -> Iterator[tuple[int, Statement]]:
    """(place behind the marker, what it marks), the last first."""
    # `in` searches several times faster than rfind.
    marks = [(mark, initial) for mark, initial in _marks(nouns) if mark in text]
    end = len(text)
    while marks:
        at, mark, initial = max([(text.rfind(mark, 0, end), mark, initial) for mark, initial in marks])
        if at < 0:
            break
        after = at + len(mark)
        end = at
        if mark == "####":
            if not HEADING.match(text, after):
                yield after, Statement(text[after : after + WINDOW].lstrip().partition("\n")[0], "label")
        elif mark == "oxed":
            if text[at - 2 : at] in ("\\b", "\\fb") or text[at - 1 : at] == "\b":  # an unescaped \b is a backspace
                yield after, Statement(boxed(text, after), "box")
        elif mark in ("Ans", "ANS"):
            link = ABBREVIATED_LINK.match(text, after)
            if link is not None:
                yield after, Statement(text[link.end() : link.end() + WINDOW], "label")
        elif text[at - 1 : at].lower() == initial and not text[at - 2 : at - 1].isalpha():
            found = _behind_noun(text, at, after, mentioned=initial not in "a")
            if found is not None:
                yield after, found


def _behind_noun(text: str, at: int, after: int, mentioned: bool) -> Statement | None:
    """What stands behind the noun that ends at `after`. `mentioned`: the noun is said of all options, not of the answer alone."""
    before = text[max(0, at - 60) : at - 1]
    in_box = before.rpartition("oxed{")[2] if "oxed{" in before else "}"
    if _not_ours(before) or "}" not in in_box:
        return None
    if mentioned:
        link = MENTION.match(text, after)
        if link is not None:
            return Statement(text[link.end() : link.end() + WINDOW], "marker")
        if not CHOSEN.search(before):
            return None
    link = PLAIN_LINK.match(text, after) or LINK.match(text, after)
    if link is not None:
        return Statement(text[link.end() : link.end() + WINDOW], "marker" if link["verb"] else "label")
    if text[at - 2 : at - 1] == "<" and (link := TAG.match(text, after)) is not None:
        return Statement(text[link.end() : link.end() + WINDOW].partition("<")[0], "box")
    subject = SUBJECT.search(before)
    if subject is not None and "oxed" not in before and SUBJECT_END.match(text, after):
        return Statement(SENTENCES.split(before[: subject.start()])[-1], "marker")
    if (link := BARE_LINK.match(text, after)) is not None:
        return Statement(text[link.end() : link.end() + WINDOW], "label")
    return None


def _not_ours(before: str) -> bool:
    # `The answer is`, as nearly all texts have it, needs no closer look.
    words = before[-30:].lower().split()
    if before.endswith("The ") or not words:
        return False
    if words[-1] in NOT_OURS or (len(words) > 1 and words[-2] in NOT_OURS):
        return True
    if len(words) > 1 and words[-1] in OURS and words[-2] in REPORTED:
        return words[-2] != "that" or (len(words) > 2 and words[-3] in REPORTED)
    return (words[-1] in OURS or words[-2:-1] == ["is"] or "some" in before or "Some" in before) and ASKED.search(
        before
    ) is not None


def _supposed(text: str, at: int) -> bool:
    """Whether the statement behind `at` says what the answer would be if."""
    if "would" not in text[at : at + 12]:
        return False
    before, behind = SENTENCES.split(text[max(0, at - 150) : at])[-1], Statement(text[at : at + WINDOW], "marker").sentence
    return SUPPOSED.search(before) is not None or SUPPOSED.search(behind) is not None


def _taken_back(text: str, at: int) -> int | None:
    """Where the correction of what stands at `at` begins; None where it stands."""
    rest = text[at : at + MAX_REST]
    if not any([word in rest for word in BACK_WORDS]):
        return None
    ends = [found.end() for found in TAKEN_BACK.finditer(rest)]
    if not ends and (found := TAKEN_BACK_AT_ONCE.match(rest)) is not None:
        ends.append(found.end())
    return at + ends[-1] if ends and not UPHELD.search(rest, ends[-1]) else None


def corrections(text: str) -> Iterator[Statement]:
    """What a text may state behind the words by which it takes back its answer."""
    text = NO.sub("", text)
    yield from unmarked(text, last_only=True)
    yield Statement(text.strip(" ,;:.-\u2014"), "marker")


@functools.cache
def _marks(nouns: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """What to search for backwards, and the letter before it, which may be a capital: searching for a few letters is fast."""
    marks = [("####", ""), ("oxed", ""), ("Ans", ""), ("ANS", "")]
    for noun in nouns:
        marks += [(noun[1:], noun[0]), (noun[1:].upper(), noun[0])]
    return tuple(marks)


def boxed(text: str, start: int) -> str:
    """What stands in the braces that open behind `start`; where they do not close, the rest of the line.

    A box that goes on a list (`\\boxed{3} and \\boxed{5}`) holds the whole list.
    """
    opening = OPENING.match(text, start)
    if opening is None:
        return text[start : start + WINDOW].partition("\n")[0]
    joined = JOINED_BOX.search(text, max(0, start - 120), start - len("\\boxed"))
    before = "" if joined is None else f"{joined[1]}, "
    depth, begin = 1, opening.end()
    for brace in BRACE.finditer(text, begin, begin + MAX_BOX):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return before + text[begin : brace.start()]
    return before + text[begin : begin + MAX_BOX].partition("\n")[0]
