"""Sentences, and what of a text may state its answer."""

import re
from typing import Literal, NamedTuple

Kind = Literal["marker", "box", "label", "conclusion", "opening", "closing", "line", "first"]

# An answer is short, and a text can be anything: what follows a marker is read no farther than this.
WINDOW = 400
# What a reader returns for words that state something which is not one answer: nothing stated before them counts either.
UNREADABLE = ""
BEFORE_STOP = r"(?<!\bRs\.)(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bMrs\.)(?<!approx\.)(?<!\bvs\.)(?<!i\.e\.)(?<!e\.g\.)"
ABBREVIATED = r"(?<!\bRs)(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bMrs)(?<!\bapprox)(?<!\bvs)(?<!i\.e)(?<!e\.g)"
SENTENCES = re.compile(rf"(?<=[!?])\s+(?![=+*/])|(?<=\.){BEFORE_STOP}\s+|\n+")
SENTENCE_END = re.compile(rf"(?:{ABBREVIATED}\.|[!?])(?=\s|$|[*\"'\u201d)<])|\n")
PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
# As SENTENCES, and behind the quote, the bracket or the emphasis that a sentence ends with.
PIECES = re.compile(rf"{SENTENCES.pattern}|(?<=[.!?][*)\"'\u201d])\s+|(?<=[.!?]\*\*)\s+")
# How a sentence ends that does not break off.
COMPLETE = re.compile(r"(?:[.!\u2026][\s\])}*_\"'\u201d\u2019`$]*|[*_]{2}|[$)]|\\[\])]|```|\u2713|\u2714)\W*$")
# What a sentence concludes stands behind one of these.
CONCLUSION = re.compile(
    r"(?:^|[,;]\s+)\W*(?:and\s+)?(?:so|therefore|thus|hence|in\s+total|altogether|in\s+conclusion|finally|overall|consequently|"
    r"(?:this|which|that)\s+means|\u2234)\b,?|^\W*the\s+(?:[\w'-]+\s+){1,12}?(?:is|are|was)\b(?=\s+(?:equal\s+to\s+)?\W{0,3}(?:\d|[A-Z])[^,]*$)",
    re.IGNORECASE,
)


class Statement(NamedTuple):
    """The words that may state the answer, up to the text's end or the window's.

    marker: somewhere in the first sentence. box: it is all that the box holds. label: right at the beginning, or in a sentence
    that is all that there is. conclusion: as a marker. opening: only if the first sentence is the answer, and nothing else.
    closing: in the last paragraph. line: the last line. first: the first line, of a text that goes on.
    """

    words: str
    kind: Kind

    @property
    def sentence(self) -> str:
        """The words up to the first sentence's end."""
        words = self.words.lstrip()
        end = SENTENCE_END.search(words)
        return words if end is None else words[: end.start()]

    @property
    def asked(self) -> bool:
        """Whether the first sentence is a question."""
        if "?" not in self.words:
            return False
        words = self.words.lstrip()
        end = SENTENCE_END.search(words)
        return end is not None and end.group() == "?"
