r"""Mathematical expressions as answers: `\frac{\sqrt{3}}{2}`, `(1, 2)`, `x^2 + 1`, `[0, \infty)`, `\text{Friday}`.

What can be told from the texts, or from two plain numbers, is told at once. The rest is for math-verify (equivalence.py), in a
process that can be killed.
"""

import functools
import re
from fractions import Fraction

from aft_ray.tasks.closing_expressions import MATHS, closing_expression, inside
from aft_ray.tasks.expression_forms import (
    MAX_LENGTH,
    MEMBER,
    TEXT,
    as_column,
    as_interval,
    as_text,
    brackets_differ,
    clean,
    compact,
    is_interval,
    right_side,
    same_base,
    same_letters,
    split_unit,
)
from aft_ray.tasks.latex import to_plain
from aft_ray.tasks.number_forms import plain_number, value
from aft_ray.tasks.numbers import read_number
from aft_ray.tasks.sentences import UNREADABLE, Statement
from aft_ray.tasks.stated import boxed, last_stated
from schemas import Verdict

ANOTHER = re.compile(r"\s*(?:,|or\b|and\b)\s*(?:(?:or|and)\b\s*)?(?:\$|\\\(|\\\[)")
SECOND_THOUGHTS = re.compile(r"\b(?:not|never|cannot|unclear|unknown|wrong|incorrect)\b|n['\u2019]t\b", re.IGNORECASE)
NOT_THAT = re.compile(r",?\s*(?:not|rather\s+than|instead\s+of)\s+\S+$")
# What ends a statement in words: the explanation of it.
ASIDE = re.compile(r"[,;]?\s+(?:because|since|as|where|which|when|if|for)\b|,\s+(?:so|for)\b|\s+\((?=[a-z]+\))")
JOINED = re.compile(r",?\s*(?:\\(?:text|mathrm|mbox)\s*\{\s*(?:and|or)\s*\}|(?<![\\a-zA-Z])(?:and|or)(?![a-zA-Z]))\s*")
EMPHASIS = re.compile(r"\*\*([^*\n]+)\*\*|__([^_\n]+)__|`([^`\n]+)`|<b>([^<\n]+)</b>")
NUMBER_AND_WORDS = re.compile(r"^[$\s]*-?[\d.,/]+(?:\s+[a-zA-Z]{2,}|\s*$)")
# What is said about an answer, and is none.
ABOUT = re.compile(
    r"\s*(?:already\s+|also\s+|indeed\s+|now\s+|then\s+)?(?:in\b|an?\s+(?:integer|whole|fraction|positive|negative)|positive\b|negative\b|consistent|rounded"
    r"|exact|boxed|above|below|as\b|simplified|correct\b|see\b|therefore\b|reasonable|requested|required|written|expressed|given\b|supposed)",
    re.IGNORECASE,
)
IN_FORM = re.compile(r"\s*(?:already\s+)?(?:in|requested|required|expressed|written)\b[^$]*\bform\b", re.IGNORECASE)
ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-z]+\}")
OPTION_BEFORE = re.compile(r"^(?:\\text(?:bf)?\s*\{\s*)?\(?[A-J]\)\s*\}?\s*(?=\S)")
RATIO = re.compile(r"^(\d+)\s*:\s*(\d+)$")
PROSE = re.compile(r"(?<![\\a-zA-Z])(?!(?:sqrt|pi|sin|cos|tan|log|ln|infty)(?![a-zA-Z]))[a-zA-Z]{2,}")
WORDS = re.compile(r"\(?[A-Za-z][A-Za-z .,'-]*\)?")
MAX_WORDS = 5


def stated_expression(text: str, choices: tuple[str, ...] = ()) -> str | None:
    r"""The expression that the text states as its answer, without dollar signs and box; None where it states none."""
    in_box = "oxed{" in text
    return last_stated(text, lambda statement: _read(statement, in_box))


def compare_expressions(extracted: str, gold: str, choices: tuple[str, ...] = ()) -> Verdict | None:
    """What the texts alone tell; None where it takes `equivalence.same_expression`."""
    gold = gold_expression(gold)
    if extracted == gold:
        return "right"
    said, wanted = clean(extracted), clean(gold)
    if compact(said) == compact(wanted):
        return "right"
    for told in (same_base(said, wanted), same_letters(said, wanted), _same_words(said, wanted)):
        if told is not None:
            return told if isinstance(told, str) else "right" if told else "wrong"
    numbers = number_of(said), number_of(wanted)
    if numbers[0] is not None and numbers[1] is not None:
        return "right" if numbers[0] == numbers[1] or _same_per_cent(said, wanted) else "wrong"
    return _compare_values(said, wanted)


def _compare_values(said: str, wanted: str) -> Verdict | None:
    """Without units, and without the names of what is equal to them."""
    meant = normal(said, wanted)
    if meant is None:
        return "unknown"
    said, wanted, units_differ = meant
    if compact(said) == compact(wanted) or (r"\circ" not in wanted and compact(said.replace(r"^\circ", "")) == compact(wanted)):
        return "unknown" if units_differ else "right"
    if ":" not in wanted and (r"\frac" in wanted or "/" in wanted):
        said = RATIO.sub(r"\1/\2", said)
    numbers = number_of(said), number_of(wanted)
    if numbers[0] is not None and numbers[1] is not None:
        return "wrong" if numbers[0] != numbers[1] else "unknown" if units_differ else "right"
    if brackets_differ(said, wanted):
        return "wrong"
    if units_differ:
        return "unknown"
    if TEXT.search(said) or PROSE.search(ENVIRONMENT.sub("", said)):
        return _compare_with_words(said, wanted)
    return "unknown" if any([sign in said and sign not in wanted for sign in (":", "dots")]) else None


def _compare_with_words(said: str, wanted: str) -> Verdict:
    """Where words stand in what is said, math-verify would multiply their letters: `5\\text{ hours } 30\\text{ minutes}`."""
    found, asked = as_text(said), as_text(wanted)
    if found.split() == asked.split():
        return "right"
    numbers = [re.findall(r"\d+(?:\.\d+)?", text) for text in (found, asked)]
    if numbers[0] != numbers[1] and not re.search(r"[a-z\\]", TEXT.sub("", said).replace(r"\frac", "")):
        return "wrong"
    return "wrong" if not numbers[0] and not TEXT.search(wanted) and not re.search("[A-Za-z]", TEXT.sub("", said)) else "unknown"


def _same_per_cent(said: str, wanted: str) -> bool:
    r"""Whether `60\%` is said for `\frac{3}{5}`, or the other way round."""
    if said.endswith("%") == wanted.endswith("%"):
        return False
    found, asked = (number_of(text) for text in (said, wanted))
    return found is not None and asked is not None and (found == asked * 100 if said.endswith("%") else found * 100 == asked)


def normal(said: str, wanted: str) -> tuple[str, str, bool] | None:
    """Both in forms that can be compared, and whether they differ in their units; None where what is said is only a part."""
    if same_letters(said, wanted) is None:
        said = OPTION_BEFORE.sub("", said)
    said = re.sub(r"^\\text(?:bf)?\s*\{\s*([\d(][^{}]*)\}$", r"\1", said)
    if not is_interval(wanted):
        said, wanted = (JOINED.sub(", ", text) for text in (said, wanted))
    if ":" in wanted:
        said = re.sub(r"\s*(?:\\text\s*\{\s*to\s*\}|\bto\b)\s*", ":", said)
    if "=" not in wanted or "=" not in said:
        found, asked = right_side(said), right_side(wanted)
        if found is None or asked is None:
            return None
        said, wanted = found, asked
    said, wanted = (MEMBER.sub("", text) for text in (said, wanted))
    if wanted.startswith(r"\begin{pmatrix}") and "&" not in wanted:
        said = as_column(said)
    if is_interval(wanted) != is_interval(said):
        said, wanted = as_interval(said) or said, as_interval(wanted) or wanted
    said = re.sub(r"\s*(?:\\text\s*\{\s*or\s*\}|\bor\b)\s*", r"\\cup ", said) if is_interval(wanted) else said
    (said, unit), (wanted, other) = split_unit(said), split_unit(wanted)
    if wanted.endswith("%") != said.endswith("%") and not (unit or other):
        said, wanted = said.removesuffix("%").strip(), wanted.removesuffix("%").strip()
    differ = bool(unit and other) and not (unit.startswith(other) or other.startswith(unit))
    return said, wanted, differ


def _same_words(said: str, wanted: str) -> Verdict | None:
    """Of golds that are words, `\\text{Friday}` or `4:30 \\text{ p.m.}`; None where gold is an expression."""
    outside = TEXT.sub("", wanted)
    alone = TEXT.fullmatch(wanted) is not None or (WORDS.fullmatch(wanted) is not None and len(wanted) > 1)
    timed = (
        re.fullmatch(r"[\d: ]*", outside) is not None and re.search(r"[ap]\.?\s?m\.?|:", wanted) is not None and outside != wanted
    )
    if not (alone or timed) or not (timed or PROSE.search(TEXT.sub(r" \1 ", wanted))):
        return None
    found, asked = " ".join(as_text(said).split()), " ".join(as_text(wanted).split())
    if found == asked or found.replace(" ", "") == asked.replace(" ", ""):
        return "right"
    contained = re.search(rf"(?<!\w){re.escape(asked)}(?!\w)", found) is not None
    if contained and not SECOND_THOUGHTS.search(said):
        return "unknown"
    return "unknown" if contained or not (TEXT.search(said) or WORDS.fullmatch(said) or re.search(r"\d", said)) else "wrong"


@functools.lru_cache(maxsize=1024)
def gold_expression(gold: str) -> str:
    r"""The expression of a gold answer given as such, in dollar signs, or as a whole solution that ends in \boxed{...}."""
    for place in reversed([found.end() for found in re.finditer(r"oxed(?=\s*\{)", gold)]):
        if found := boxed(gold, place).strip():
            return found
    return gold.strip().strip("$").strip()


def number_of(text: str) -> Fraction | int | None:
    """The value of a plain number; of one with percent sign the bare number."""
    try:
        number, unit = value(plain_number(" ".join(TEXT.sub(r" \1 ", text).split())))
    except ValueError:
        return None
    return number if unit in (1, Fraction(1, 100)) else number * unit


def _read(statement: Statement, in_box: bool) -> str | None:
    """What is stated as an expression; None, UNREADABLE as in `last_stated`. `in_box`: the text has an answer in a box."""
    words = statement.words.strip()
    if statement.kind == "box":
        return _readable(words)
    if statement.kind in ("line", "first", "opening"):
        return None
    if statement.kind == "closing":
        found = closing_expression(words)
        return _readable(found) if found else found
    words = words.lstrip(":*_ ") if not EMPHASIS.match(words) else words
    formula = MATHS.match(words) if statement.kind != "conclusion" else None
    if formula is not None:
        return _read_formulas(words, formula)
    sentence = Statement(words, statement.kind).sentence
    formulas = list(MATHS.finditer(sentence))
    if (IN_FORM if formulas else ABOUT).match(sentence):
        return None
    if formulas:
        if OPTION_BEFORE.match(sentence) and MATHS.match(sentence, OPTION_BEFORE.match(sentence).end()):  # type: ignore[union-attr]
            return _readable(sentence.replace("$", ""))
        if SECOND_THOUGHTS.search(NOT_THAT.sub("", sentence)) or len(formulas) > 1:
            return UNREADABLE if statement.kind == "marker" else None
        return _readable(inside(formulas[0]))
    if statement.kind == "conclusion":
        return None
    return _read_words(words.partition("\n")[0] if statement.kind == "label" else sentence, in_box)


def _read_formulas(words: str, formula: re.Match[str]) -> str | None:
    """The formula that the words begin with, or the list of those that are joined to it."""
    found, end, offered = [inside(formula)], formula.end(), False
    while (link := ANOTHER.match(words, end)) is not None:
        following = MATHS.match(words, link.end() - (2 if words[link.end() - 1] in "([" else 1))
        if following is None:
            return UNREADABLE
        offered = offered or "or" in link.group()
        found.append(inside(following))
        end = following.end()
    if re.match(r",?\s*(?:which|but|and)?\s*(?:is|are)?\s*(?:wrong|incorrect|not\s+(?:right|correct))\b", words[end:]):
        return UNREADABLE
    if len(found) == 1:
        return _readable(found[0])
    return (
        UNREADABLE
        if offered and not all("=" in one for one in found)
        else _readable(", ".join(right_side(one) or one for one in found))
    )


def _read_words(sentence: str, in_box: bool) -> str | None:
    """What is stated without dollar signs: `15 people`, `x = 5`, `Friday`."""
    emphasis = EMPHASIS.match(sentence)
    if emphasis is not None:
        sentence = next(group for group in emphasis.groups() if group is not None)
    aside = ASIDE.search(sentence)
    sentence = NOT_THAT.sub("", sentence if aside is None else sentence[: aside.start()]).strip()
    if SECOND_THOUGHTS.search(sentence):
        return UNREADABLE
    if NUMBER_AND_WORDS.match(sentence) and (number := read_number(Statement(sentence, "marker"))):
        return number
    prose = len(PROSE.findall(TEXT.sub("", sentence)))
    if in_box and prose and not re.search(r"\d", sentence):
        return None
    point = re.search(r"\([^()]*,[^()]*\)", sentence)
    if point is not None and prose:
        return _readable(point.group())
    if re.fullmatch(r"-?[\d./]+(?:,\s*-?[\d./]+)*,?\s*and\s+-?[\d./]+", sentence.rstrip(".")):
        return _readable(JOINED.sub(", ", sentence))
    if prose > MAX_WORDS or (prose and re.search(r"\d", sentence)):
        return read_number(Statement(sentence, "marker"))
    return _readable(sentence)


def _readable(words: str) -> str | None:
    words = words.strip().strip("$*").strip().removesuffix(".").strip()
    readable = 0 < len(words) <= MAX_LENGTH and any(character.isalnum() or character in "\\∅∞" for character in to_plain(words))
    return words if readable else None
