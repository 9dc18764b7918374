"""The number that a closing paragraph states, where nothing marks it.

That of the last sentence which holds any: the one in bold, the result of its equation, or the only one that is not a
circumstance (`in 5 years`, `all 5 baskets`, `the 8th day`).
"""

import re

from aft_ray.tasks.closing import BOLD, HEDGED, PARENTHESES, emphasised, main_clause
from aft_ray.tasks.number_forms import (
    NUMBER,
    SPELLED_ANYWHERE,
    compare_numbers,
    in_digits,
    spelled_in_digits,
    value,
)
from aft_ray.tasks.sentences import CONCLUSION, PARAGRAPHS, PIECES, UNREADABLE

# How many sentences without a number may stand behind the one that states it.
MAX_COMMENTS = 2
# Before such comments, this is what a sentence that states something looks like.
CONCLUDES = re.compile(rf"{CONCLUSION.pattern}|{BOLD.pattern}|=\s*\S", re.IGNORECASE)
EQUALS = re.compile(r"(?P<arrow>[\u21d2\u2192]|[=-]>)|[=\u2248]|\\approx\b|\b(?P<word>equals?)(?:\s+to)?\b")
BEFORE_RESULT = re.compile(r"[\s:*_{(\[`\"'~$]*(?:(?:approximately|about|around|roughly|exactly|just|only)\s+)?")
# Behind a number: it is one of a calculation, of a ratio, of an order, or not a quantity by itself.
NOT_WHOLE = re.compile(
    r"[,.:']?\d|[\u00b2\u00b3\u00b9\u2070-\u2079^_]|\s?(?:[\u221a\u03c0]|\\?sqrt|\\?pi\b)|\s?:\s?\d"
    r"|\s?(?:hundred|lakhs?|crores?|bn|mil)\b|M\b|[xyzn]\b|[a-z]\^|\s*(?:[*/+\u00d7\u00f7<>\u2264\u2265]|[-\u2212\u2013](?=\s?\d)|\\)|\s+R\s?\d|\s+(?:in|out\s+of)\s+\d+\s*$"
)
LIMIT = re.compile(r"[<>\u2264\u2265\u2260]\s*$")
ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
PART = re.compile(r"\s*(?:of|as|more|less|fewer|times)\b", re.IGNORECASE)
CIRCUMSTANCE = re.compile(
    r"\b(?:(?:in|after|before|for|within|during|over|every|per|at|on|by|from|with|than|between|until|through|times"
    r"|(?<!total )(?<!sum )(?<!amount )(?<!average )(?<!cost )(?<!result )(?<!number )(?<!profit )"
    r"(?<!price )(?<!rest )(?<!difference )(?<!out )of"
    r"|(?<!has )(?<!have )(?<!had )(?<!needs )(?<!need )(?<!going )(?<!able )(?<!wants )to\s+"
    r"(?!about|approximately|around|roughly|nearly|exactly|just|only|be\b)[a-z]+"
    r"|(?:after|by|before|for|without|when|from|in)\s+[a-z]+ing)"
    r"\s+(?:(?:the|all|these|those|about|his|her|their|its|first|next|last|other|remaining)\s+)*"
    r"|(?:all|the|these|those|both|his|her|their|its|day|week|step|year|month|number|case|question|option)"
    r"\s+(?:(?:first|next|last|original|of\s+the)\s+)*)\W*$",
    re.IGNORECASE,
)
# Directly before the one that the others add up to; and what those behind it come to.
TOTAL = re.compile(r"\b(?:(?:total|sum)\s+of|making|which\s+makes|totall?ing|totals?)\s+\W*$", re.IGNORECASE)
TOTAL_BEHIND = re.compile(r"(?:\s+[a-z]+)?\s+(?:in\s+(?:total|all)|altogether|overall)\b", re.IGNORECASE)
COMES_TO = re.compile(
    r"\b(?:makes?|costs?|comes?\s+to|adds?\s+up\s+to|amounts?\s+to|weighs?|means(?:\s+that)?|leaves?\s+an?|yields?|(?:is|are)\s+worth)\s",
    re.IGNORECASE,
)
# `3 hours, or 180 minutes` says the same again.
SAID_AGAIN = re.compile(
    r"\b([A-Za-z]+),\s+or\s+(?:about\s+)?\$?[\d.,/]*\d\s+(?!\1)[A-Za-z]+(?:\s+and\s+\d+\s+\w+)?|(?<=\d),\s+or\s+(?:about\s+)?[\d.]+\s?(?:%|percent)(?:\s+of\b.*)?"
)
LINKED = re.compile(r"^\s?(?:[a-zA-Z]+\s+){0,2}(?:and|or|to|,)\s*(?:the\s+|another\s+)?\W*$", re.IGNORECASE)
# `one` counts where it is the end of what is said: `It costs one dollar.`
ONE = re.compile(r"(?<!this)(?<!that)(?<!the)(?<!each)(?<!which)(?<!every)\s(one)\s+[a-z]+\W*$", re.IGNORECASE)
DOZEN = re.compile(r"(?<!of )\b(?P<half>half\s+)?a\s+dozen\b", re.IGNORECASE)
MORE_OF_SPELLED = re.compile(r"\s*(?:and\s+)?(?:a\s+)?(?:half|halves|dozen|thirds?|quarters?|times|of)\b", re.IGNORECASE)
# Of these no number is the answer by itself: of what it is not, and of how one would get there.
DENIED = re.compile(
    r"\b(?:not|never|neither|cannot)\b|n['\u2019]t\b"
    r"|\b(?:multiplying|dividing|adding|subtracting)\b(?![^.]{0,60}\s(?:gives|yields|makes|leaves)\s)",
    re.IGNORECASE,
)


def closing_number(ending: str) -> str | None:
    """The number that the last paragraph states; None where it holds none, UNREADABLE where it is not clear which."""
    *before, paragraph = PARAGRAPHS.split(ending.strip())
    sentences = [sentence for sentence in PIECES.split(paragraph) if re.search(r"\w", sentence)]
    for place, sentence in enumerate(reversed(sentences[-1 - MAX_COMMENTS :])):
        if holds_number(sentence) and (place == 0 or CONCLUDES.search(sentence)):
            return number_of_sentence(sentence) or _emphasised_before(sentence, "\n".join(before)) or UNREADABLE
    return None


def number_of_sentence(sentence: str) -> str:
    """The number that a sentence states; UNREADABLE where it is not clear which."""
    sentence = SAID_AGAIN.sub(lambda again: again[1] or "", sentence)
    clause = main_clause(sentence, holds_number)
    if HEDGED.search(PARENTHESES.sub("", sentence)) or sentence.rstrip(" *_\"'").endswith("?"):
        return UNREADABLE
    bold = [words for words in emphasised(clause) if holds_number(words)]
    if len(bold) == 1 and (found := _of_clause(bold[0])):
        return found
    return _of_clause(clause) if len(bold) < 2 else UNREADABLE


def _emphasised_before(sentence: str, before: str) -> str | None:
    """The last number in bold, where it is one of those in the sentence: `So it came to $132, and she saved $33.`"""
    bold = [number for words in emphasised(before) if (number := _of_clause(words))]
    said = [in_digits(number) for number in NUMBER.finditer(sentence)]
    same = [number for number in said if bold and number and compare_numbers(number, bold[-1]) == "right"]
    return same[0] if same else None


def holds_number(words: str) -> bool:
    return re.search(r"\d", words) is not None or SPELLED_ANYWHERE.search(words) is not None or DOZEN.search(words) is not None


def _of_clause(clause: str) -> str:
    equals = list(EQUALS.finditer(clause))
    if equals:
        left, right = clause[: equals[-1].start()], clause[equals[-1].end() :]
        words_follow = equals[-1]["arrow"] or (equals[-1]["word"] and not holds_number(left))
        if (found := _result(right)) or not words_follow:
            return found
        clause = right
    if DENIED.search(clause):
        return UNREADABLE
    numbers = [number for number in NUMBER.finditer(clause) if not ORDINAL.match(clause, number.end())]
    if not numbers:
        return _spelled(clause)
    stated = numbers if len(numbers) == 1 else _quantities(clause, numbers)
    if any(
        [
            NOT_WHOLE.match(clause, number.end()) or LIMIT.search(clause[: number.start()]) or _is_part(clause, number)
            for number in numbers
        ]
    ):
        return UNREADABLE
    if len(stated) > 1:
        stated = _result_of_words(clause, stated)
    said = {value(plain): plain for number in stated if (plain := in_digits(number))}
    return said.popitem()[1] if len(said) == 1 else UNREADABLE


def _result(words: str) -> str:
    """The number behind the last equals sign, where no other follows."""
    number = NUMBER.match(words, BEFORE_RESULT.match(words).end())  # type: ignore[union-attr]
    if (
        number is None
        or NOT_WHOLE.match(words, number.end())
        or re.match(r"\s+(?:must|should|has\s+to)\b", words[number.end() :])
    ):
        return UNREADABLE
    others = list(NUMBER.finditer(words, number.end()))
    if others and len(_quantities(words, [number, *others])) > 1:
        return UNREADABLE
    return in_digits(number) or UNREADABLE


def _quantities(clause: str, numbers: list[re.Match[str]]) -> list[re.Match[str]]:
    """The numbers that are no circumstance, nor listed with one that is."""
    found: list[re.Match[str]] = []
    end, counted = 0, True
    for number in numbers:
        if not (end and LINKED.match(f"{clause[end : number.start()]} ")):
            counted = CIRCUMSTANCE.search(f"{clause[max(0, number.start() - 40) : number.start()]} ") is None
        if counted:
            found.append(number)
        end = number.end()
    return found


def _result_of_words(clause: str, stated: list[re.Match[str]]) -> list[re.Match[str]]:
    """The total of several, or what they come to; all of them where neither is said."""
    totals = [
        number
        for number in stated
        if TOTAL.search(f"{clause[max(0, number.start() - 30) : number.start()]} ") or TOTAL_BEHIND.match(clause, number.end())
    ]
    verbs = list(COMES_TO.finditer(clause))
    behind = [number for number in stated if verbs and number.start() >= verbs[-1].end() - 1]
    return totals or behind or stated


def _is_part(clause: str, number: re.Match[str]) -> bool:
    """Whether it is a fraction of something, or so many times something."""
    fraction = number["denominator"] or number["under"]
    return (fraction is not None and PART.match(clause, number.end()) is not None) or re.match(
        r"\s*times\s+(?:as|more|the|older)\b", clause[number.end() :]
    ) is not None


def _spelled(clause: str) -> str:
    found = [number for number in SPELLED_ANYWHERE.finditer(clause) if number["words"].strip().lower() != "one"]
    if not found and (dozen := DOZEN.search(clause)) is not None:
        return "6" if dozen["half"] else "12"
    if len(found) > 1 or any([MORE_OF_SPELLED.match(clause, number.end()) for number in found]):
        return UNREADABLE
    if found:
        return spelled_in_digits(found[0])
    return "1" if ONE.search(clause) else UNREADABLE
