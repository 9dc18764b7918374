r"""Options as answers: by letter (`(C)`, `C) 600`, `option C`), by text (`bloody mess`), or by value (`150 meters` for `150 m`).

What is extracted is a letter; several where options read the same (`B|E`); or the number that was stated, where no option has
that value.
"""

import functools
import re
import string
from typing import Any

from aft_ray.tasks.latex import to_plain
from aft_ray.tasks.numbers import NUMBER, plain_number, read_number, to_ascii, value
from aft_ray.tasks.stated import Statement, statements
from schemas import Verdict

NOUNS = ("answer", "option", "choice")
LETTERS = string.ascii_uppercase
LEAD = re.compile(
    r"""[\s*_:"'`$=-]* (?:(?:the|it'?s|is|be|therefore)\s+)* (?:(?:correct|right|best|most\s+likely)\s+)?
        (?:(?:answer|option|choice|alternative|letter)s?\b)? [\s*_:"'`$]* (?:is\s+)? [\s*_$"'`]*""",
    re.VERBOSE | re.IGNORECASE,
)
LETTER = re.compile(r"(?P<open>[(\[{]\s*)?(?P<letter>[A-Za-z])(?![A-Za-z0-9\u2019'^+/*-]|\s*=)(?P<close>\s*[)\]}])?")
# The plain case, much faster: nothing but a letter.
ONLY = re.compile(r"[\s*_$]*\(?([A-J])\)?[\s*_$.]*$")
# A letter with other letters behind it is no choice of one.
ANOTHER = re.compile(r"[\s)\].:,*]*(?:or|and|&|/|,)\s*(?:option\s+|choice\s+)?[(\[]?[A-J](?![A-Za-z])")
# `The answer is A because ...` names an option, `The answer is A bloody mess` does not.
GOES_ON = re.compile(r"\s+(?!(?:because|since|as|is|which|for|so|due|given|and|the|[(\[-]))[a-z]", re.IGNORECASE)
REFUSED = re.compile(r"\b(?:not|neither|none|never|cannot|either|unclear|unknown|unsure)\b|n['\u2019]t\b", re.IGNORECASE)
# Where nothing marks the answer, a last sentence names its option like this.
NAMED = re.compile(
    r"\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer|ANSWER)\s*:?\s*[(\[]?(?P<named>[A-J])(?![A-Za-z0-9'\u2019])|[(\[](?P<bracketed>[A-J])[)\]]"
    r"|\b(?P<subject>[B-HJ])\s+is\s+(?:the\s+)?(?:correct|right|answer|best)"
)
WHOLE = re.compile(r"[\s*_(\[\"'$]*(?P<letter>[A-J])(?:[\s*_)\]\"'$]*$|[*_]*[).:\]](?=\s|$))")
# `12 km per hour` is a number with a unit; `5 : 3` and `2x` are none.
UNIT = re.compile(r"(?![xyzn]\b)(?:[A-Za-z][\w./^ ]*)?\.?")
LETTERED = re.compile(r"\s*\(?([A-Za-z])[).:]\s*(?=\S)")
QUOTES = re.compile(r"[\"'`\u201c\u201d\u2018\u2019*_$]|[,;!?](?=\s|$)")
MINUS = str.maketrans("\u2212\u2013\u2010\u2011", "----")


def stated_choice(text: str, choices: tuple[str, ...] = ()) -> str | None:
    """The option that the text states as its answer; None where it states none, or several."""
    for statement in statements(text, NOUNS):
        found = _read(statement, choices)
        if found is not None or statement.final:
            return found
    return None


def compare_choices(extracted: str, gold: str, choices: tuple[str, ...] = ()) -> Verdict:
    """By letter. A stated number that no option has is wrong where gold is a number, and cannot be told otherwise.

    Raises ValueError where gold names no option.
    """
    letter = gold_letter(gold, choices)
    if extracted[0].isalpha():
        return "right" if letter in extracted.split("|") else "wrong"
    place = LETTERS.index(letter)
    known = _numbers(choices)[place] if place < len(choices) else None
    if known is None:
        return "unknown"
    return "right" if value(known[0]) == value(extracted) else "wrong"


@functools.lru_cache(maxsize=4096)
def gold_letter(gold: str, choices: tuple[str, ...] = ()) -> str:
    """The letter of a gold answer given as letter, as (letter), or as an option's text. Raises ValueError where it is none."""
    letter = gold.strip().strip("()[]. ").upper()
    if len(letter) == 1 and letter in LETTERS[: len(choices) or 26]:
        return letter
    same = _letters(gold, choices)
    if same is None:
        raise ValueError(f"not an option: {gold[:40]!r}")
    return same[0]


def read_choices(found: Any) -> tuple[str, ...]:
    """Options as files hold them: texts, with or without their letters (`A)50`, `(A) 50`), [letter, text] pairs, {letter: text},
    or {"label": [...], "text": [...]}. Raises ValueError where it is none of these."""
    if isinstance(found, dict):
        found = found["text"] if isinstance(found.get("text"), list) else list(found.values())
    if isinstance(found, list) and all(isinstance(choice, list | tuple) and len(choice) == 2 for choice in found):
        found = [choice[1] for choice in found]
    if (
        not isinstance(found, list)
        or not 2 <= len(found) <= len(LETTERS)
        or not all(isinstance(c, str) and c.strip() for c in found)
    ):
        raise ValueError(f"expected a list of 2 to {len(LETTERS)} options, found {found!r:.60}")
    lettered = [LETTERED.match(choice) for choice in found]
    if all(match and match[1].upper() == letter for match, letter in zip(lettered, LETTERS, strict=False)):
        found = [choice[match.end() :] if match else choice for choice, match in zip(found, lettered, strict=True)]
    return tuple(choice.strip() for choice in found)


def listed(choices: tuple[str, ...]) -> str:
    """The options as a question shows them, one a line."""
    return "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def _read(statement: Statement, choices: tuple[str, ...]) -> str | None:
    only = ONLY.match(statement.words)
    if only is not None and _is_option(only[1], choices):
        return only[1]
    words = to_plain(statement.words).strip()
    if statement.kind in ("line", "conclusion"):
        whole = WHOLE.match(words)
        if whole is not None and _is_option(whole["letter"], choices):
            return _agreed(whole["letter"], words[whole.end() :], choices)
        return _named(words, choices) or (_by_text(statement.sentence, choices) if statement.kind == "conclusion" else None)
    line = words.partition("\n")[0]
    whole_line = _letters(line, choices) or _letters(Statement(words, statement.kind).sentence, choices)
    if whole_line is not None and (len(_exact(line)) > 1 or line[:1].islower()):
        return whole_line
    lead = LEAD.match(words)
    assert lead is not None
    letter = LETTER.match(words, lead.end())
    if letter is not None and _is_option(letter["letter"].upper(), choices):
        rest = words[letter.end() :]
        if ANOTHER.match(rest):
            return None
        bracketed = letter["close"] is not None
        alone = not rest.strip(" .*_$\"'`)]}\n")
        capital = letter["letter"].isupper()
        if bracketed or alone or (capital and not (letter["letter"] in "AI" and GOES_ON.match(rest))):
            return _agreed(letter["letter"].upper(), rest, choices)
        by_text = _by_text(words, choices)
        return by_text or (letter["letter"] if capital else None)
    sentence = Statement(words, statement.kind).sentence
    by_text, named = _by_text(sentence, choices), _named(sentence, choices)
    if by_text is not None and named is not None and named not in by_text.split("|"):
        return None
    return named or by_text or _by_value(Statement(words, statement.kind), choices)


def _is_option(letter: str, choices: tuple[str, ...]) -> bool:
    return letter in LETTERS[: len(choices) or 10]


def _agreed(letter: str, rest: str, choices: tuple[str, ...]) -> str | None:
    """The letter, unless what stands behind it is the text of another option."""
    behind = _letters(Statement(rest.lstrip(" ).:*]"), "line").sentence, choices)
    return None if behind is not None and letter not in behind.split("|") else letter


def _named(words: str, choices: tuple[str, ...]) -> str | None:
    if REFUSED.search(words):
        return None
    letters = {m["named"] or m["bracketed"] or m["subject"] for m in NAMED.finditer(words)}
    letter = letters.pop() if len(letters) == 1 else None
    return letter if letter is not None and _is_option(letter, choices) else None


def _letters(said: str, choices: tuple[str, ...]) -> str | None:
    """The options that read exactly so; where none does, those that read so but for case and quotes, if they are all the same."""
    exact, plain = _by_reading(choices)
    return exact.get(_exact(said)) or plain.get(_plain(said))


@functools.lru_cache(maxsize=4096)
def _by_reading(choices: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Letters by what the options read exactly, and by what they read plainly where that tells them apart."""
    exact: dict[str, str] = {}
    readings: dict[str, set[str]] = {}
    for letter, choice in zip(LETTERS, choices, strict=False):
        if _exact(choice):
            exact[_exact(choice)] = f"{exact[_exact(choice)]}|{letter}" if _exact(choice) in exact else letter
            readings.setdefault(_plain(choice), set()).add(_exact(choice))
    plain = {reading: exact[min(same)] for reading, same in readings.items() if reading and len(same) == 1}
    return exact, plain


def _by_text(words: str, choices: tuple[str, ...]) -> str | None:
    """The option whose text the words are, begin with, or alone contain; the longest where one holds another."""
    whole = _letters(words, choices)
    if whole is not None:
        return whole
    said = _plain(words)
    for fits in (lambda text: said.startswith(f"{text} "), lambda text: f" {text} " in f" {said} "):
        found = {choice for choice in choices if _plain(choice) and fits(_plain(choice))}
        longest = max(found, key=lambda choice: len(_plain(choice)), default="")
        if found:
            if not all(_plain(choice) in _plain(longest) for choice in found) or (
                REFUSED.search(words) and not REFUSED.search(longest)
            ):
                return None
            return _letters(longest, choices) if _alone(longest, choices) else None
    return None


def _alone(choice: str, choices: tuple[str, ...]) -> bool:
    """Whether no other option differs from it by case and quotes only."""
    return len({_exact(other) for other in choices if _plain(other) == _plain(choice)}) == 1


def _by_value(statement: Statement, choices: tuple[str, ...]) -> str | None:
    stated = read_number(statement)
    if stated is None or not choices:
        return None
    found = value(stated)
    same = [place for place, known in enumerate(_numbers(choices)) if known is not None and value(known[0]) == found]
    if not same:
        return stated
    unit = _unit(to_ascii(statement.words))
    units = [(_numbers(choices)[place] or ("", ""))[1] for place in same]
    fitting = [place for place, other in zip(same, units, strict=True) if _units_agree(unit, other)]
    if len(set(units)) > 1 and not unit:
        return None
    return "|".join(LETTERS[place] for place in fitting) or None


@functools.lru_cache(maxsize=4096)
def _numbers(choices: tuple[str, ...]) -> tuple[tuple[str, str] | None, ...]:
    """Of each option its number and its unit, None where it is no number."""
    return tuple(_number(choice) for choice in choices)


def _number(choice: str) -> tuple[str, str] | None:
    text = to_ascii(to_plain(choice)).strip().strip("$").strip()
    match = NUMBER.match(text)
    rest = "" if match is None else text[match.end() :].strip()
    if match is None or not UNIT.fullmatch(rest):
        return None
    try:
        return plain_number(match.group()), _unit(text)
    except ValueError:
        return None


def _unit(text: str) -> str:
    """The word behind the first number, without its plural."""
    match = NUMBER.search(text)
    word = re.match(r"\s*([A-Za-z]+)", text[match.end() :]) if match is not None else None
    return "" if word is None else word[1].lower().removesuffix("s")


def _units_agree(one: str, other: str) -> bool:
    return not one or not other or one.startswith(other) or other.startswith(one)


@functools.lru_cache(maxsize=16384)
def _exact(text: str) -> str:
    """Without surplus white space and the final stop; case and every sign make a difference."""
    return " ".join(to_plain(text[:1000]).translate(MINUS).split()).rstrip(". ")


@functools.lru_cache(maxsize=16384)
def _plain(text: str) -> str:
    """Also without case, quotes, and the article at the beginning."""
    words = QUOTES.sub("", _exact(text)).casefold().split()
    if len(words) > 1 and words[0] in ("a", "an", "the"):
        words = words[1:]
    return " ".join(words).rstrip(". ")
