"""Options as they read: which one has this text, or this value."""

import functools
import re
import string

from aft_ray.tasks.latex import to_plain
from aft_ray.tasks.number_forms import NUMBER, compare_numbers, in_digits, plain_number, to_ascii, value
from aft_ray.tasks.numbers import read_number
from aft_ray.tasks.sentences import UNREADABLE, Statement

LETTERS = string.ascii_uppercase
REFUSED = re.compile(
    r"\b(?:not|neither|none|never|cannot|either|unclear|unknown|unsure|incorrect|wrong|false|eliminat\w+|rul\w+\s+out|except|could|might|"
    r"unlikely|anything\s+but|no\s+sense)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
# `12 km per hour` is a number with a unit; `5 : 3` and `2x` are none.
UNIT = re.compile(r"(?![xyzn]\b)(?:[A-Za-z](?:[\w./^]| (?!\d))*)?\.?")
QUOTES = re.compile(r"[\"'`\u201c\u201d\u2018\u2019*_$]|[,;!?](?=\s|$)")
BETWEEN = re.compile(r"\s*([:,/])\s*")
NONE_OR_ALL = re.compile(r"^(none|all) of (?:these|those|them|the above|the given options)$")
BOTH_OF = re.compile(r"(?:both )?\(?([a-j])\)? (?:and|&) \(?([a-j])\)?(?: only)?")
SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2010": "-", "\u2011": "-", "\u03c0": "pi", "\u00b0": None})


def is_option(letter: str, choices: tuple[str, ...]) -> bool:
    return letter in LETTERS[: len(choices) or 10]


def letters_of(said: str, choices: tuple[str, ...]) -> str | None:
    """The options that read exactly so; where none does, those that read so but for case and quotes, if they are all the same."""
    exact, plain = _by_reading(choices)
    return exact.get(as_written(said)) or plain.get(as_read(said))


@functools.lru_cache(maxsize=4096)
def _by_reading(choices: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Letters by what the options read exactly, and by what they read plainly where that tells them apart."""
    exact: dict[str, str] = {}
    readings: dict[str, set[str]] = {}
    for letter, choice in zip(LETTERS, choices, strict=False):
        if as_written(choice):
            exact[as_written(choice)] = f"{exact[as_written(choice)]}|{letter}" if as_written(choice) in exact else letter
            readings.setdefault(as_read(choice), set()).add(as_written(choice))
    plain = {reading: exact[min(same)] for reading, same in readings.items() if reading and len(same) == 1}
    return exact, plain


def agreed(letter: str, rest: str, choices: tuple[str, ...]) -> str:
    """The letter, unless what stands behind it is the text of another option."""
    behind = letters_of(Statement(rest.lstrip(" ).:*]"), "line").sentence, choices)
    return UNREADABLE if behind is not None and letter not in behind.split("|") else letter


def option_by_text(words: str, choices: tuple[str, ...]) -> str | None:
    """The option whose text the words are, begin with, or alone contain; the longest where one holds another."""
    whole = letters_of(words, choices)
    if whole is not None:
        return whole
    said = as_read(words)
    for fits in (lambda text: said.startswith(f"{text} "), lambda text: f" {text} " in f" {said} "):
        # Numbers are looked for by their value: `10 x 60 = 600` does not begin with an answer.
        found = {choice for choice in choices if as_read(choice) and fits(as_read(choice)) and number_of(choice) is None}
        longest = max(found, key=lambda choice: len(as_read(choice)), default="")
        if found:
            if not all(as_read(choice) in as_read(longest) for choice in found) or (
                REFUSED.search(words) and not REFUSED.search(longest)
            ):
                return _combined(said, choices) or UNREADABLE
            if _offered(said[said.find(as_read(longest)) + len(as_read(longest)) :], choices):
                return _combined(said, choices) or UNREADABLE
            return letters_of(longest, choices) if _alone(longest, choices) else UNREADABLE
    return None


def _combined(said: str, choices: tuple[str, ...]) -> str | None:
    """`A and B only`, where those two options are named; None where no option says so."""
    if REFUSED.search(said) or " or " in f" {said} ":
        return None
    named = {letters_of(choice, choices) for choice in choices if f" {as_read(choice)} " in f" {said} "}
    for letter, choice in zip(LETTERS, choices, strict=False):
        both = BOTH_OF.fullmatch(as_written(choice).casefold())
        if both is not None and {both[1].upper(), both[2].upper()} == named:
            return letter
    return None


def _offered(behind: str, choices: tuple[str, ...]) -> bool:
    """Whether `or`, `and` and another option's text come next."""
    linked = re.match(r" (?:or|and|and/or) (?:the |an? )?", behind)
    return linked is not None and any(
        [behind[linked.end() :].startswith(as_read(choice)) for choice in choices if as_read(choice)]
    )


def _alone(choice: str, choices: tuple[str, ...]) -> bool:
    """Whether no other option differs from it by case and quotes only."""
    return len({as_written(other) for other in choices if as_read(other) == as_read(choice)}) == 1


def option_by_value(statement: Statement, choices: tuple[str, ...]) -> str | None:
    """The options of the number that is stated; the number itself where it is that of none."""
    stated = read_number(statement)
    if not stated or not choices:
        return stated if choices else None
    return option_of_number(stated, to_ascii(statement.words), choices)


def option_of_number(stated: str, words: str, choices: tuple[str, ...]) -> str | None:
    """As `option_by_value`; None where the units in the words do not tell which."""
    found = value(stated)
    known = [(place, number[0]) for place, number in enumerate(numbers_of(choices)) if number is not None]
    same = [place for place, number in known if value(number) == found] or [
        place for place, number in known if compare_numbers(stated, number) == "right"
    ]
    if not same:
        return stated
    unit = _unit(words, stated)
    units = [(numbers_of(choices)[place] or ("", ""))[1] for place in same]
    fitting = [place for place, other in zip(same, units, strict=True) if _units_agree(unit, other)]
    if len(set(units)) > 1 and not unit:
        return None
    return "|".join(LETTERS[place] for place in fitting) or None


@functools.lru_cache(maxsize=4096)
def numbers_of(choices: tuple[str, ...]) -> tuple[tuple[str, str] | None, ...]:
    """Of each option its number and its unit, None where it is no number."""
    return tuple(number_of(choice) for choice in choices)


def number_of(choice: str) -> tuple[str, str] | None:
    text = to_ascii(to_plain(choice)).replace("\u00b0", "").strip().strip("$").strip()
    match = NUMBER.match(text)
    rest = "" if match is None else text[match.end() :].strip()
    if match is None or not UNIT.fullmatch(rest):
        return None
    try:
        return plain_number(match.group()), _unit(text)
    except ValueError:
        return None


def _unit(text: str, stated: str | None = None) -> str:
    """The word behind the number, the first where it is not said which, without its plural."""
    numbers = list(NUMBER.finditer(text))
    said = [number for number in numbers if in_digits(number) == stated]
    place = said[-1].end() if said else numbers[0].end() if numbers else len(text)
    word = re.match(r"\s*([A-Za-z]+)", text[place:])
    return "" if word is None else word[1].lower().removesuffix("s")


def _units_agree(one: str, other: str) -> bool:
    return not one or not other or one.startswith(other) or other.startswith(one)


@functools.lru_cache(maxsize=16384)
def as_written(text: str) -> str:
    """Without surplus white space and the final stop; case and every sign make a difference."""
    return " ".join(to_plain(text[:1000]).translate(SIGNS).replace("\\pi", "pi").replace(" %", "%").split()).rstrip(". ")


@functools.lru_cache(maxsize=16384)
def as_read(text: str) -> str:
    """Also without case, quotes, and the article at the beginning."""
    words = QUOTES.sub("", as_written(text)).casefold().split()
    if len(words) > 1 and words[0] in ("a", "an", "the"):
        words = words[1:]
    return BETWEEN.sub(r"\1", NONE_OR_ALL.sub(r"\1", " ".join(words).rstrip(". ")))
