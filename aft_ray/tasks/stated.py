r"""Where a text states its answer.

Behind a marker: `#### 18`, `The answer is 18`, `Answer: 18`, `\boxed{18}`; the last one counts. A text without any states it
in its last sentence, if that draws a conclusion (`So she has 18 left.`), or as all that stands in its last line (`18`).
Anything else states nothing, however many numbers it holds.
"""

import functools
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Kind = Literal["marker", "box", "label", "conclusion", "line"]

# An answer is short, and a text can be anything: what follows a marker is read no farther than this.
WINDOW = 400
MAX_BOX = 2000

# The model goes on to a question of its own, or to another turn: no part of the answer to ours.
NEXT_QUESTION = re.compile(r"\n[ \t]*(?:question|problem|q|human|user|instruction):", re.IGNORECASE)
NEXT_WORDS = ("uestion:", "UESTION:", "roblem:", "ROBLEM:", "Q:", "ser:", "SER:", "uman:", "struction:")
NEXT_TURN = re.compile(r"<\|(?:im_end|im_start|eot_id|end_of_text|endoftext)\|>|</s>")
# How most texts end, found much faster than by searching for every marker: a number or a letter, and nothing more.
PLAIN_ENDS: tuple[tuple[str, Kind], ...] = (("#### ", "label"), ("nswer is ", "marker"), ("nswer is: ", "label"))
PLAIN_WORDS = re.compile(r"[ $]*(?:-?\d[\d,.]*|\(?[A-J]\)?\.?)\s*$")
PLAIN_LENGTH = 50
# What stands between the noun ("answer") and what it is: an aside ("to the question"), then a verb, a colon or the line's end.
LINK = re.compile(
    r"""s?\b [*_]{0,3} (?:\s+(?:to|of|for|here)\b [^.:\n=]{0,100}?)? \s*
        (?: (?P<verb> (?:(?:must|should|would|will|can\s+only)\s+be|is|are|was|equals|becomes|comes?\s(?:out\s)?to)\b | =)\s*:?
          | : | \s?[\u2013-]\s | \s?[\u2192\u21d2]
          | [ \t]*\n )
        [*_]{0,3}
        (?! \s* (?: (?:correct|right)\s*[.!]*\s*$ | as\s+follows\b ))""",
    re.VERBOSE | re.IGNORECASE,
)
# The plain case of the same, much faster: what follows is no word.
PLAIN_LINK = re.compile(r"(?:(?P<verb> is):?|:) (?=[^a-zA-Z*_\s]|[A-J]\b)")
BARE_LINK = re.compile(r"\s+(?=[(\d$A-J])")
OPENING, BRACE = re.compile(r"\s*\{"), re.compile(r"(?<!\\)[{}]")
HEADING = re.compile(r"\s*(?:\*\*)?\s*(?:step\b|\d+\.\s+[A-Za-z])", re.IGNORECASE)
CONCLUSION = re.compile(
    r"(?:^|[,;]\s+)\W*(?:and\s+)?(?:so|therefore|thus|hence|in\s+total|altogether|in\s+conclusion|finally|overall|consequently|"
    r"(?:this|which|that)\s+means|\u2234)\b,?",
    re.IGNORECASE,
)
SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
SENTENCE_END = re.compile(r"[.!?](?=\s|$|[*\"'\u201d)])|\n")


class Statement(NamedTuple):
    """The words that may state the answer.

    marker: somewhere in the sentence; if it is not there, the text has changed its mind in a way that cannot be read, and
    nothing earlier counts. box: likewise, and it is all that the box holds. label: right at the beginning, or this is no
    statement. conclusion: as a marker. line: all that there is.
    """

    words: str
    kind: Kind

    @property
    def final(self) -> bool:
        return self.kind in ("marker", "box")

    @property
    def sentence(self) -> str:
        """The words up to the first sentence's end."""
        words = self.words.lstrip()
        end = SENTENCE_END.search(words)
        return words if end is None else words[: end.start()]


def statements(text: str, nouns: tuple[str, ...] = ("answer",)) -> Iterator[Statement]:
    """What may state the text's answer, the last first. `nouns`: what an answer is called."""
    text = own_part(text)
    for mark, kind in PLAIN_ENDS:
        at = text.rfind(mark, max(0, len(text) - PLAIN_LENGTH))
        if at >= 0 and PLAIN_WORDS.match(text, at + len(mark)):
            yield Statement(text[at + len(mark) :], kind)
            break
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
                yield Statement(text[after : after + WINDOW], "label")
        elif mark == "oxed":
            if text[at - 2 : at] == "\\b" or text[at - 1 : at] == "\b":  # an unescaped \b in JSON or Python is a backspace
                yield Statement(boxed(text, after), "box")
        elif text[at - 1 : at].lower() == initial and not text[at - 2 : at - 1].isalpha():
            link = PLAIN_LINK.match(text, after) or LINK.match(text, after)
            if link is not None:
                words = text[link.end() : link.end() + WINDOW]
                yield Statement(words, "marker" if link["verb"] else "label")
            elif text[at - 1] != initial and (link := BARE_LINK.match(text, after)) is not None:
                yield Statement(text[link.end() : link.end() + WINDOW], "label")
    yield from unmarked(text)


@functools.cache
def _marks(nouns: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """What to search for backwards, and the letter before it, which may be a capital: searching for a few letters is fast."""
    marks = [("####", ""), ("oxed", "")]
    for noun in nouns:
        marks += [(noun[1:], noun[0]), (noun[1:].upper(), noun[0])]
    return tuple(marks)


def unmarked(text: str) -> Iterator[Statement]:
    """The last sentence where it draws a conclusion, and the last line."""
    tail = text[-WINDOW:].rstrip()
    sentence = next((piece for piece in reversed(SENTENCES.split(tail)) if re.search(r"\w", piece)), "")
    cues = list(CONCLUSION.finditer(sentence))
    if cues:
        yield Statement(sentence[cues[-1].end() :], "conclusion")
    yield Statement(tail.rpartition("\n")[2], "line")


def own_part(text: str) -> str:
    """The text up to where the model goes on to another question or turn."""
    if "<|" in text or "</s>" in text:
        text = NEXT_TURN.split(text, maxsplit=1)[0]
    # Nearly all texts have none of these words, and `in` is much faster than a regular expression.
    if not any([word in text for word in NEXT_WORDS]):
        return text
    ends = [match.start() for match in NEXT_QUESTION.finditer(text) if text[: match.start()].strip()]
    return text[: ends[0]] if ends else text


def boxed(text: str, start: int) -> str:
    """What stands in the braces that open behind `start`; where they do not close, the rest of the line."""
    opening = OPENING.match(text, start)
    if opening is None:
        return text[start : start + WINDOW].partition("\n")[0]
    depth, begin = 1, opening.end()
    for brace in BRACE.finditer(text, begin, begin + MAX_BOX):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return text[begin : brace.start()]
    return text[begin : begin + MAX_BOX].partition("\n")[0]
