r"""Mathematical expressions as answers: `\frac{\sqrt{3}}{2}`, `(1, 2)`, `x^2 + 1`, `[0, \infty)`, `\text{Friday}`.

What can be told from the texts, or from two plain numbers, is told at once. The rest is for math-verify (equivalence.py), in a
process that can be killed.
"""

import functools
import re
from fractions import Fraction

from aft_ray.tasks.latex import to_plain
from aft_ray.tasks.numbers import plain_number, value
from aft_ray.tasks.stated import UNREADABLE, Statement, last_stated
from schemas import Verdict

MAX_LENGTH = 1000
MATHS = re.compile(r"\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$]+)\$|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\]", re.DOTALL)
ANOTHER = re.compile(r"\s*(?:,|or\b|and\b)\s*(?:(?:or|and)\b\s*)?(?:\$|\\\(|\\\[)")
SECOND_THOUGHTS = re.compile(r"\b(?:not|never|cannot|unclear|unknown)\b|n['\u2019]t\b", re.IGNORECASE)
SIZING = re.compile(r"\\(?:left|right|bigl?|bigr|Bigl?|Bigr|displaystyle|limits|!|,|;|:|quad|qquad)(?![a-zA-Z])|\\ |~")
TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{\s*([^{}]*?)\s*\}")
WORD = re.compile(r"\(?[A-Za-z][A-Za-z .'-]*\)?")


def stated_expression(text: str, choices: tuple[str, ...] = ()) -> str | None:
    r"""The expression that the text states as its answer, without dollar signs and box; None where it states none."""
    return last_stated(text, _read)


def compare_expressions(extracted: str, gold: str, choices: tuple[str, ...] = ()) -> Verdict | None:
    """What the texts alone tell; None where it takes `equivalence.same_expression`."""
    gold = gold_expression(gold)
    if extracted == gold:
        return "right"
    said, wanted = canonical(extracted), canonical(gold)
    if said == wanted:
        return "right"
    numbers = _number(extracted), _number(gold)
    if numbers[0] is not None and numbers[1] is not None:
        return "right" if numbers[0] == numbers[1] else "wrong"
    if len(wanted) > 1 and WORD.fullmatch(wanted) and WORD.fullmatch(said) and TEXT.search(gold):
        return "right" if said.strip("()").casefold() == wanted.strip("()").casefold() else "wrong"
    return None


@functools.lru_cache(maxsize=1024)
def gold_expression(gold: str) -> str:
    r"""The expression of a gold answer given as such, in dollar signs, or as a whole solution that ends in \boxed{...}."""
    if "oxed" in gold:
        return stated_expression(gold) or gold.strip()
    return gold.strip().strip("$").strip()


@functools.lru_cache(maxsize=4096)
def canonical(expression: str) -> str:
    """The same expression without what only sets type."""
    text = SIZING.sub("", expression[:MAX_LENGTH].strip()).strip("$").strip().removesuffix(".").strip()
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    return re.sub(r"\s+", " ", TEXT.sub(r"\1", text)) if TEXT.fullmatch(text) else re.sub(r"\s+", "", text)


def _number(text: str) -> Fraction | int | None:
    """The value of a plain number without unit or percent sign."""
    try:
        number, unit = value(plain_number(text))
    except ValueError:
        return None
    return number if unit == 1 else None


def _read(statement: Statement) -> str | None:
    words = statement.words.strip()
    if statement.kind != "box":
        words = words.lstrip(":*_ ")
        formula = MATHS.match(words) if statement.kind != "conclusion" else None
        if formula is not None:
            if ANOTHER.match(words, formula.end()):
                return UNREADABLE
            words = next(group for group in formula.groups() if group is not None)
        elif statement.kind in ("marker", "conclusion"):
            sentence = Statement(words, statement.kind).sentence
            formulas = list(MATHS.finditer(sentence))
            if SECOND_THOUGHTS.search(sentence) or len(formulas) > 1:
                return UNREADABLE if statement.kind == "marker" else None
            words = next(group for group in formulas[0].groups() if group is not None) if formulas else sentence
            if not formulas and statement.kind == "conclusion":
                return None
        elif statement.kind in ("line", "first"):
            return None
        else:
            words = words.partition("\n")[0]
    words = words.strip().strip("$*").removesuffix(".").strip()
    readable = 0 < len(words) <= MAX_LENGTH and any(character.isalnum() or character in "\\∅∞" for character in to_plain(words))
    return words if readable else None
