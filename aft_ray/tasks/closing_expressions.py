r"""The expression that a closing paragraph states, where nothing marks it.

What is in bold, or the formula that its last sentence ends with, or the list of those (`$x = 1$ and $x = 2$`); of a chain of
equations the last side. Without a formula, the number that the sentence says something is.
"""

import re

from aft_ray.tasks.closing import HEDGED, PARENTHESES, emphasised
from aft_ray.tasks.closing_numbers import number_of_sentence
from aft_ray.tasks.expression_forms import right_side
from aft_ray.tasks.latex import to_plain
from aft_ray.tasks.number_forms import to_ascii
from aft_ray.tasks.sentences import CONCLUSION, PARAGRAPHS, PIECES, UNREADABLE

INLINE = r"\$(?P<inline>(?:\\.|[^$\\])+)\$"
MATHS = re.compile(rf"\$\$(?P<display>(?:\\.|[^$\\])+)\$\$|{INLINE}|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\]", re.DOTALL)
# Between formulas that are one list.
JOINED = re.compile(r"\s*,?\s*(?:and|or|,)?\s*(?:also\s+)?")
# What may follow the formula that a sentence ends with: what is counted, a unit, an aside.
TRAILING = re.compile(
    r"[\s.*_!]*(?:(?:[A-Za-z-]+\s*){1,5}[.!*_\s]*$|$|,?\s+(?:as\b|which\b|because\b|since\b|where\b|i\.e\.|or\s+about\b|for\s+(?:all|every|any|some)\b)|[\u2713\u2714])"
)
DENIED = re.compile(r"\b(?:not|never|impossible|wrong|incorrect|excluded|extraneous)\b|n't\b", re.IGNORECASE)
# Before a formula that only says where, or when.
CIRCUMSTANCE = re.compile(
    r"\b(?:at|when|where|for|if|with|since|because|by|using|from|as|namely|i\.e\.,?\s+about)\s+$", re.IGNORECASE
)
BARE_NAME = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?")
# A sentence without a formula states what something is.
SAYS = re.compile(
    r"\b(?:(?:that|there|it)['\u2019]s|is|are|was|equals?|gives|get|have|there\s+are|obtain|be)\b|^\W*then\b.*=", re.IGNORECASE
)
LIST = re.compile(r"-?[\w./\\{}^]+(?:(?:,\s*(?:and\s+)?|\s+and\s+)-?[\w./\\{}^]+)+")
# What a sentence without formulas says something is, where that is more than a number.
PLAIN_MATHS = re.compile(
    r"(?:=|\bis|\bare|\bequals|:)\s*(?P<maths>(?:(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])|[\d\s+*/^()\[\],.{}\u00b2\u00b3\u00b7\u00b9\u2070-\u2079\u221a\u03c0\u2212<>\u2264\u2265|-]|sqrt|\band\b){1,80})$"
)
# What is added to an exact result.
APPROXIMATION = re.compile(r"(?:\u2248|\\approx(?![a-z]))[^=\u2248\\]*$")
REMAINDER = re.compile(
    r",?\s+(?:and|with)\s+(?:(?:the|a)\s+)?remainder\s+(?:(?:is|of|being)\s+)?(?:\$[^$]*\$|[-\u2212\d/x+]+)(?=[\s.]*$)"
)
AND = re.compile(r",?\s*\band\b\s*")
ASSIGNED = re.compile(r"(?P<maths>(?:\b[a-z]\s*=\s*-?[\d./]+\s*(?:,\s*(?:and\s+)?|\s+and\s+)?){2,})$")
# A calculation by itself may be any step; the last of several is the result.
CALCULATION = re.compile(r"\d\s*[+*/\u00d7\u2212-]\s*\d[^=]*=")
# `exactly one solution, x = 0` answers how many as likely as which.
COUNTED = re.compile(r"\bexactly\s+(?:one|two|three|four|\d)\s+[a-z ]{3,30}[,:]\s*(?:namely\s+)?\$?\s*[a-z]\s*=")
WORD = re.compile(r"[A-Z]?[a-z]{2,}")


def closing_expression(ending: str) -> str | None:
    """The expression that the last paragraph states; None where it states none, UNREADABLE where it is not clear which."""
    sentences = [piece for piece in _sentences(PARAGRAPHS.split(ending.strip())[-1]) if re.search(r"\w", piece)]
    if not sentences or HEDGED.search(MATHS.sub("", PARENTHESES.sub("", sentences[-1]))):
        return None
    sentence = REMAINDER.sub("", sentences[-1])
    if COUNTED.search(sentence):
        return UNREADABLE
    found = _in_bold(sentence) or _in_formulas(sentence)
    return found or (None if _is_step(sentence, ending) else _in_words(sentence))


def _is_step(sentence: str, ending: str) -> bool:
    """Whether it is a calculation which concludes nothing, and the only one."""
    calculates = CALCULATION.search(to_plain(sentence)) is not None and CONCLUSION.search(sentence) is None
    return calculates and ending.count("=") == sentence.count("=")


def _sentences(paragraph: str) -> list[str]:
    """The sentences, with the formulas that are displayed in them on the same line."""
    held: list[str] = []

    def hold(formula: re.Match[str]) -> str:
        held.append(formula.group())
        return f"\x00{len(held) - 1}\x00"

    words = re.sub(r"\s*\n\s*(?=\x00)|(?<=\x00)\s*\n\s*", " ", MATHS.sub(hold, paragraph.replace("\x00", " ")))
    return [re.sub(r"\x00(\d+)\x00", lambda place: held[int(place[1])], piece) for piece in PIECES.split(words)]


def _in_bold(sentence: str) -> str | None:
    bold = [words.strip(" .") for words in emphasised(sentence)]
    stated = [words for words in bold if re.search(r"\d|\$", words)]
    if len(stated) != 1:
        return bold[0] if len(bold) == 1 and WORD.fullmatch(bold[0]) and sentence.rstrip(" .").endswith("**") else None
    if (formula := MATHS.fullmatch(stated[0])) is not None:
        return inside(formula)
    if LIST.fullmatch(stated[0]):
        return AND.sub(", ", stated[0])
    return number_of_sentence(to_ascii(to_plain(stated[0])))


def _in_formulas(sentence: str) -> str | None:
    """The formula that the sentence ends with, or the list of those that are joined there."""
    formulas = [formula for formula in MATHS.finditer(sentence) if not BARE_NAME.fullmatch(inside(formula).strip())]
    if len(formulas) > 1 and CIRCUMSTANCE.search(sentence[: formulas[-1].start()]):
        sentence = sentence[: formulas.pop().start()].rpartition(",")[0]
    if not formulas or not TRAILING.match(sentence, formulas[-1].end()) or DENIED.search(sentence, formulas[-1].end()):
        return None
    last = [formulas[-1]]
    for formula in reversed(formulas[:-1]):
        if not JOINED.fullmatch(sentence[formula.end() : last[0].start()]):
            break
        last.insert(0, formula)
    return _joined([inside(formula) for formula in last])


def _joined(formulas: list[str]) -> str:
    """One formula by its last side; several values of one name as a list; of several names the assignments."""
    if len(formulas) == 1:
        return _last_side(formulas[0])
    names = {formula.partition("=")[0].strip() for formula in formulas if "=" in formula}
    if len(names) > 1:
        return ", ".join(formulas) if all(len(name) == 1 for name in names) else _last_side(formulas[-1])
    return ", ".join(right_side(formula) or formula for formula in formulas)


def _last_side(formula: str) -> str:
    r"""What a chain of equations comes to: of `a = b = c` it is c, of `x^2 = 4` the equation."""
    formula = formula.strip().rstrip(".,;")
    sides = re.split(r"(?<![<>!\\])=|\\implies|\\Rightarrow", without_approximation(formula))
    return sides[-1].strip() if len(sides) > 2 and not re.search(r"\\Rightarrow|\\implies", formula) else formula


def without_approximation(words: str) -> str:
    r"""What is equal, without what it is about: `\frac{1}{9}` of `\frac{1}{9} \approx 0.111`."""
    exact = APPROXIMATION.sub("", words).rstrip()
    return exact if re.search(r"=[^=.]*$", exact) else words


def _in_words(sentence: str) -> str | None:
    """The number, or the numbers of several names, that a sentence without formulas states."""
    if MATHS.search(re.sub(r"\$\s?\\?[A-Za-z]\s?\$", "", sentence)):
        return None
    words = to_ascii(to_plain(re.sub(r"\$\s?(\\?[A-Za-z])\s?\$", r"\1", sentence))).strip().rstrip(".")
    words = without_approximation(words)
    if not re.search(r"\d", words) or re.search(r"\bor\b", words):
        return None
    maths = ASSIGNED.search(words) or PLAIN_MATHS.search(words)
    if maths is not None and _is_result(maths["maths"]):
        return AND.sub(", ", maths["maths"].strip())
    if not SAYS.search(words) and CONCLUSION.search(words) is None:
        return None
    return number_of_sentence(words) or UNREADABLE


def _is_result(maths: str) -> bool:
    return re.search(r"\d", maths) is not None and not re.search(r"\b[aI]\b", maths)


def inside(formula: re.Match[str]) -> str:
    """What stands between the signs that begin and end a formula."""
    return next(group for group in formula.groups() if group is not None)
