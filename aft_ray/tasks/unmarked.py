"""How a text states its answer that marks none: in the paragraph that closes it, in its last line, or in its first.

What follows the last word on the matter is set aside before: checks, comparisons, notes, offers, farewells. A text that breaks
off, gives up, asks or still plans states nothing at its end.
"""

import re
from collections.abc import Iterator

from aft_ray.tasks.sentences import COMPLETE, CONCLUSION, PARAGRAPHS, PIECES, SENTENCES, WINDOW, Statement

# As much of a text's end is looked at.
TAIL = 1500
LETTERED = re.compile(r"^[\s*_\u2022-]*(?:Option\s+)?\(?([A-J])[.):]", re.MULTILINE)
LETTERED_TWICE = re.compile(rf"{LETTERED.pattern}[^\n]*\n+{LETTERED.pattern[1:]}")
# All of a text, this repeats what the question says as likely as it answers it: `Janet has 16 eggs.`
RESTATED = re.compile(r"\W*(?:[\w']+\s+){1,2}(?:has|had|have)\s(?:to\s+\w+\s+)?\$?[\d.,]+(?:\s+\w+)?[.!]?\s*")
# A last line that ends in the result of an equation.
EQUATION_LINE = re.compile(r"=[^=\n]{1,60}$")
# A last line that ends in a letter which is pointed at, or set off: `Therefore: A`, `-> key exchange, C`.
LETTER_LINE = re.compile(r"(?:[:\u2192\u21d2]|[=-]>)\s+(?:[^.,:\n]{1,60},\s+)?\(?[A-J]\)?$")
BOLD_LINE = re.compile(r"\s*(?:[-*\u2022]\s+)?\*\*(?P<said>[^*\n]+)\*\*\s*$")
# A check of the answer begins like this, and goes on to the end of its paragraph; as a heading, to the end of the next.
CHECK = re.compile(
    r"\W*(?:(?:as\s+a\s+)?(?:(?:quick|double|sanity|cross)[\s-]+)*check(?:s|ing)?\b|verif(?:y|ication|ying)\b|proof\b"
    r"|(?:(?:to|let\s+me|let's|let\s+us|(?:we|you|one)(?:\s+(?:can|could|may))?)\s+(?:also\s+|quickly\s+|easily\s+)?)"
    r"(?:(?:double|cross)?[\s-]*check|verify|confirm|test\s+this)\b)",
    re.IGNORECASE,
)
CHECK_HEADING = re.compile(rf"{CHECK.pattern}[^.\n=]{{0,40}}", re.IGNORECASE)
# Sentences that add something to what was said, by how they begin.
ADDED = re.compile(
    r"\W*(?:(?:for|by|in)\s+comparison\b|compared\s+(?:with|to)\b|in\s+(?!total|all|sum|short|conclusion|summary|other)\w+(?:\s+terms)?,\s+(?:that|this|it)\b|equivalently\b"
    r"|(?:numerically|in\s+decimals?|as\s+a\s+decimal)\b[^=]*(?:\d\.\d|\babout\b|approx|\u2248)"
    r"|(?:(?:please|safety|side)\s+)?note\b|remember\b|keep\s+in\s+mind\b|by\s+the\s+way\b|incidentally\b|fun\s+fact\b|p\.?s\b|tip:"
    r"|that's\s+(?:it|all)\b|that\s+is\s+(?:it|all)\b|done\b|great\s+job\b|q\.?e\.?d\b|enjoy\b|thanks?\b|cheers\b|you're\s+welcome\b"
    r"|(?:if|should)\s+(?:you|she|he|they|it|we)\b.*\b(?:also|want|need|would|like|wish|prefer|'d|unclear|stuck)"
    r"|(?:this|that)(?:'s|\s+is|\s+was)\s+(?:the|how|what)\b[^:=*]*$"
    r"|(?:this|that|it|both|all|everything|the\s+(?:two\s+)?(?:results?|numbers?|answers?|methods?|values?))\s+(?:\w+\s+){0,2}?"
    r"(?:match(?:es)?|agrees?|confirms?|checks?\s+out|makes\s+sense|consistent|reasonable|adds?\s+up|works\s+out)\b)",
    re.IGNORECASE,
)
FAREWELL = re.compile(
    r"\b(?:hope\s+(?:this|that|it)|let\s+me\s+know|feel\s+free|if\s+you\s+have|happy\s+to|good\s+luck|glad\s+to|just\s+ask|would\s+you\s+like|anything\s+else|I\s+(?:can|could)\s+also|do\s+you\s+want|shall\s+I|want\s+me\s+to)\b",
    re.IGNORECASE,
)
IN_PARENTHESES = re.compile(r"\s*[*_]*\([^()]*\w\w[^()]*\)[*_.]*\s*$")
# A sentence which says that the text has not come to an answer, or to more than one.
GIVES_UP = re.compile(
    r"\b(?:(?:can(?:no|')?t|can\s+not|could(?:n't|\s+not)|unable\s+to|impossible\s+to|hard\s+to|difficult\s+to)\s+(?:be\s+)?"
    r"(?:\w+\s+)?(?:say|tell|decide|determine|answer|know|help|solve|find|give|choose|offer|work)\w*"
    r"|not\s+enough|isn't\s+enough|insufficient|don't\s+know|no\s+idea|not\s+(?:completely\s+|entirely\s+)?sure|unsure|torn\s+between"
    r"|depend(?:s|ing)\s+on|inconsisten\w+|error\s+in\s+the|(?:to\s+have|has|is|be)\s+an\s+error|(?:n't|not)\s+(?:\w+\s+){0,3}among"
    r"|not\s+commit|obvious\s+to\s+me|please\s+(?:choose|clarify|provide|confirm|specify|tell)|once\s+I\s+know|could\s+you"
    r"|(?:two|several|more\s+than\s+one)\s+(?:possible\s+|valid\s+)?(?:answers|readings|interpretations)|somewhere\s+between)",
    re.IGNORECASE,
)
# A sentence which says what is to be done next.
TASKS = (
    r"(?:find|solve|compute|calculate|determine|work\s+out|figure|check|compare|add|subtract|multiply|divide|convert|count|select)"
    r"d?\b"
)
PLANS = re.compile(
    rf"\b(?:remains?|left|is|are)\s+to\s+(?:be\s+)?{TASKS}|\b(?:we|you|I|one)(?:'d)?\s+(?:\w+\s+)?(?:need|have|want|has)\s+to\s+{TASKS}"
    rf"|\buse\b.{{0,40}}\sto\s+(?:get|{TASKS})"
    rf"|^\W*(?:then|now|next|finally|first|so)?,?\s*(?:(?:we|you|let\s+us|let's|to)\s+)?(?:can\s+|must\s+|could\s+)?(?:now\s+|then\s+)?"
    rf"(?:use\b|(?<=to\s)get\b|{TASKS})\s+(?![^.\n]*=)",
    re.IGNORECASE,
)
# What is said over and over concludes at most if it begins like this.
SO = re.compile(r"\W*(?:so|therefore|thus|hence|in\s+total|altogether|finally)\b", re.IGNORECASE)
# A sentence breaks off behind a word, or a sign, that calls for another.
BROKEN_OFF = re.compile(
    r"\b(?:is|are|was|be|the|an|of|to|by|per|and|or|at|in|on|for|from|with|that|which|what|we|i|it|he|she|they|but|because|so|if|as"
    r"|than|will|would|have|has|gives?|get|gets|equals?|need|let\s+me)[\s*_$]*$"
    r"|(?:[=+\u00d7\u00f7/,:(<\u2212-]|(?<=\s)[*$]|####|\\(?:times|cdot|div|frac|dotsb))\s*$",
    re.IGNORECASE,
)


def unmarked(text: str, last_only: bool = False) -> Iterator[Statement]:
    """What may state the answer where nothing marks it: at the end of the text, then at its beginning."""
    ending = _ending(text[-TAIL:].rstrip())
    settled = bool(ending) and not _unsettled(ending)
    start = text.lstrip()[:WINDOW]
    begins = not last_only and not LETTERED_TWICE.match(start) and re.search(r"[\n.,;]\s*\S|\sbecause\b", start) is not None
    if settled:
        yield from _conclusion(ending)
    if begins:
        yield Statement(start, "opening")
    if settled:
        yield from _closing(ending)
    if begins:
        yield Statement(start, "first")


def _ending(text: str) -> str:
    """The text up to the last word on the matter."""
    paragraphs = [paragraph for paragraph in PARAGRAPHS.split(text) if re.search(r"\w", paragraph)]
    while paragraphs:
        closing = paragraphs.pop()
        if paragraphs and CHECK_HEADING.fullmatch(paragraphs[-1]):
            continue
        if told := _without_afterword(closing):
            return "\n\n".join([*paragraphs, told])
    return ""


def _without_afterword(paragraph: str) -> str:
    """The paragraph up to where the answer is checked, and without the sentences that only add to it."""
    starts = [0, *(gap.end() for gap in PIECES.finditer(paragraph))]
    checked = [at for at in starts if CHECK.match(paragraph, at) and not _concludes(paragraph, at, starts)]
    if checked:
        paragraph = paragraph[: checked[0]].rstrip()
    for at in reversed([at for at in starts if at < len(paragraph)]):
        if not _adds(paragraph[at:]):
            break
        paragraph = paragraph[:at].rstrip()
    return paragraph


def _concludes(paragraph: str, check: int, starts: list[int]) -> bool:
    """Whether a conclusion follows the check."""
    return any([at > check and CONCLUSION.match(paragraph, at) is not None and not _adds(paragraph[at:]) for at in starts])


def _adds(sentence: str) -> bool:
    """Whether the sentence is about the answer, or about nothing, and does not state it."""
    return (
        not re.search(r"\w", sentence)
        or FAREWELL.search(sentence) is not None
        or ADDED.match(sentence) is not None
        or IN_PARENTHESES.match(sentence) is not None
    )


def _unsettled(ending: str) -> bool:
    """Whether the text breaks off, gives up, asks, still plans or repeats itself at its end."""
    *before, last = [piece for piece in PIECES.split(ending[-WINDOW:]) if re.search(r"\w", piece)] or [""]
    if before[-2:] == [last, last] and not SO.match(last):
        return True
    given_up = GIVES_UP.search(last) or (before and not CONCLUSION.search(last) and GIVES_UP.search(before[-1]))
    return bool(given_up or BROKEN_OFF.search(ending) or PLANS.search(last) or last.rstrip(" *_\"'").endswith("?"))


def _conclusion(ending: str) -> Iterator[Statement]:
    """What the last sentence concludes where it draws a conclusion, and what a last line in bold says."""
    pieces = [piece for piece in SENTENCES.split(ending[-WINDOW:]) if re.search(r"\w", piece)]
    cues = list(CONCLUSION.finditer(pieces[-1])) if pieces else []
    if cues:
        yield Statement(pieces[-1][cues[-1].end() :], "conclusion")
    bold = BOLD_LINE.match(ending.rpartition("\n")[2])
    if bold is not None and " " in bold["said"].strip():
        yield Statement(bold["said"], "conclusion")


def _closing(ending: str) -> Iterator[Statement]:
    """The end of the text where it is complete, the last line, and the last sentence in it."""
    tail = ending[-WINDOW:]
    line = tail.rpartition("\n")[2]
    # Options that are told over state nothing by the last of them.
    if RESTATED.fullmatch(ending) or (LETTERED.match(line) and len(set(LETTERED.findall(tail))) > 1):
        return
    if COMPLETE.search(tail) or EQUATION_LINE.search(tail) or LETTER_LINE.search(tail):
        yield Statement(ending, "closing")
    yield Statement(line, "line")
    sentence = [piece for piece in SENTENCES.split(line) if re.search(r"\w", piece)][-1:]
    if sentence and sentence[0] != line:
        yield Statement(sentence[0], "line")
