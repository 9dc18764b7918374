r"""Numbers as answers: the one that a statement states."""

import re

from aft_ray.tasks.closing_numbers import closing_number
from aft_ray.tasks.latex import to_plain
from aft_ray.tasks.number_forms import (
    CURRENCY,
    MINUS,
    NUMBER,
    SPELLED,
    SPELLED_ANYWHERE,
    compare_numbers,
    in_digits,
    plain_number,
    spelled_in_digits,
    to_ascii,
)
from aft_ray.tasks.sentences import COMPLETE, SENTENCES, UNREADABLE, Statement
from aft_ray.tasks.stated import last_stated

__all__ = ["compare_numbers", "plain_number", "read_number", "stated_number"]

# The plain case, much faster: nothing but a whole number.
PLAIN = re.compile(r"[ $]*(-?[0-9]{1,15})\.?\s*$")
# What may stand before a number that is stated right away.
BETWEEN = re.compile(
    r"(?:\s*\n\s*[-\u2022*]\s+)?[\s:*_{(\[`\"'=~\u2248#]*(?:(?:approximately|about|around|roughly|exactly|just|only|equal\s+to)\s+)?"
    r"(?:\$(?=\s*[$\d.\u2212\u2013-]))?"
)
OPERATOR = (
    rf"(?:[*/+\u00d7\u00f7\u00b7]|[{MINUS}](?=\s*[$\d(])|\\div\b|[xX](?=\s*{CURRENCY}?\s?\d)"
    r"|(?:times|plus|minus|over|divided\s+by|multiplied\s+by)\b)"
)
# A number that goes on like this was not the whole of it: a malformed numeral, a calculation, or another answer.
GOES_ON = re.compile(
    rf"""[,.:']?\d | \s+\d | [\u00b2\u00b3\u00b9\u2070-\u2079^_] | [xyzn]\b | \s?(?:[\u221a\u03c0]|\\?sqrt|\\?pi\b)
      | (?:st|nd|rd|th)\b | \s?(?:hundred|lakhs?|crores?|bn|mil)\b | M\b | \s?:\s*\d | \s+R\s?\d
      | \s?[=^]+\s*[\d($\\.] | (?:\s+[a-zA-Z/$]+\.?){{0,3}}\s*{OPERATOR}\s*[\d($\\.]
      | (?:\s+[a-zA-Z/]+){{0,2}}\s*(?:,|&|\b(?:and|or|to|by|of|out\s+of)\b)\s*(?:(?:or|and|the|\$)\s+)?{CURRENCY}?\s?\d
      | \s+[a-zA-Z]+\s+\d""",
    re.VERBOSE,
)
# `150 minutes, or 2 hours and 30 minutes` says the same again.
SAID_AGAIN = re.compile(r"(?:\s+[a-zA-Z/]+){1,2}\s*,\s*or\s")
# What comes behind is the result of what stands before.
RESULT = re.compile(
    r"[=\u2248\u21d2\u2192]|\\approx\b|\bequals?(?:\s+to)?\b|\brounds?\s+(?:up\s+|down\s+)?to\b|\brounded\s+to\b(?=\s*\$?\d+\b(?!\s+decimal))|,?\s+or\s+(?:about|approximately)\b",
    re.IGNORECASE,
)
RESULT_OF_CALCULATION = re.compile(r"\b(?:which\s+)?(?:is|are|gives|makes|comes\s+to)\b|,\s*(?:so|or)\b|\bor\b", re.IGNORECASE)
# What stands behind one of these is no part of the answer.
ASIDE = re.compile(
    r"(?<=[\w%)*$])[,;]?\s+(?:because|since|given|where|assuming)\b|(?<=[\w%])\s+\((?!\s*(?:in\b|or\b|[A-J]\)))|(?<=\d):\s",
    re.IGNORECASE,
)
# A text that explains an answer which it has given.
EXPLAINS = re.compile(
    r"\W*(?:explanation|because|reason|check|verif|note|here|since|this|that|where|step|solution|to\s|in\s|first|let|we\s|i\s|hope|the\s+(?:answer|reason))",
    re.IGNORECASE,
)
WHOLE = re.compile(r"(?:\s*(?:[a-zA-Z/$%]+\.?)){0,3}[\s.*_$`)\]}!]*$")
# `Total eggs: 18`; in a list only of the total.
LABELLED = re.compile(
    r"^\s*(?:(?:[A-Za-z]+\s+){0,3}[A-Za-z]+:|[-*\u2022]\s+(?:\w+\s+){0,2}(?:total|sum|result|altogether|overall)(?:\s+\w+){0,2}:)\s+",
    re.IGNORECASE,
)
VERB = re.compile(r"\b(?:is|are|was|were|has|have|had)\b", re.IGNORECASE)
LISTED, NEXT_LISTED = re.compile(r"\s*1[.)]\s+"), re.compile(r"\n\s*2[.)]\s")
NOT_BUT = re.compile(r"\bnot\b[^.;\n]*?\bbut\b(?:\s+rather\b)?", re.IGNORECASE)
FENCE = re.compile(r"^\s*```\w*\n")
BULLET = re.compile(r"\s*\n\s*[-\u2022*]\s+")
BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
ANNOTATION = re.compile(r"<<[^<>]*>>")
# Where one of these stands before it, a number is not stated.
DENIED = re.compile(
    r"(?:\b(?:not|never|neither|cannot)\b|n['\u2019]t\b)\s+(?:(?!(?:is|are|was|were)\b)\w+\s+){0,3}\W*$"
    r"|\b(?:less|more|fewer|greater|larger|smaller)\s+than\s+\W*$|^\W*at\s+(?:least|most)\s+\W*$"
    r"|\b(?:times|plus|minus|divided\s+by|multiplied\s+by|half|thirds?|quarters?|double|twice)\s+(?:of\s+)?\W*$"
    r"|\b(?:between|either|maybe|perhaps|possibly|could|might)\b[^.]{0,30}$|[<>\u2264\u2265\u2260]\s*$",
    re.IGNORECASE,
)
DOUBT = re.compile(
    r"\b(?:unclear|unknown|undefined|impossible|undetermined|cannot\s+be\s+determined|infinit\w+)\b", re.IGNORECASE
)
# `two and a half`, `two dozen`: more than the words before.
HALVES = re.compile(r"\s*(?:and\s+)?(?:a\s+)?(?:half|halves|dozen|thirds?|quarters?|more|less|fewer|times)\b", re.IGNORECASE)
DENIED_WORD = re.compile(r"\b(?:not|never|neither|none|cannot)\b|n['\u2019]t\b", re.IGNORECASE)


def stated_number(text: str, choices: tuple[str, ...] = ()) -> str | None:
    """The number that the text states as its answer, in plain digits; None where it states none."""
    return last_stated(text, read_number)


def read_number(statement: Statement) -> str | None:
    """The number of a statement; None where it states nothing, UNREADABLE where it is not one number."""
    plain = PLAIN.match(statement.words)
    if plain is not None:
        return plain[1]
    words = to_ascii(to_plain(statement.words))
    if "<<" in words:
        words = ANNOTATION.sub("", words)
    if statement.kind == "opening":
        return None
    if statement.kind == "closing":
        return closing_number(words) or None
    if statement.kind == "line":
        # A complete one was read with its paragraph.
        return None if COMPLETE.search(words) else _read_line(words)
    if statement.kind == "first":
        return _read_first(words)
    words = NOT_BUT.sub("", FENCE.sub("", words, count=1))
    words = BULLET.sub("", words, count=1) if BULLET.match(words) else words
    if LISTED.match(words):
        if NEXT_LISTED.search(words):
            return None
        words = LISTED.sub("", words, count=1)
    sentence = words if statement.kind == "box" else Statement(words, statement.kind).sentence
    behind = words.lstrip()[len(sentence) :]
    if statement.kind == "label" and _is_heading(sentence, behind):
        return None
    found = _read_sentence(sentence)
    if statement.kind == "conclusion":
        return found or None
    if found is None and statement.kind != "box":
        return UNREADABLE if statement.kind == "marker" and (DENIED_WORD.search(sentence) or DOUBT.search(sentence)) else None
    return found


def _is_heading(sentence: str, behind: str) -> bool:
    """Whether `Answer:` stands above a whole solution, of which the first sentence is only the beginning."""
    number = NUMBER.match(sentence, BETWEEN.match(sentence).end())  # type: ignore[union-attr]
    if number is not None and WHOLE.match(sentence, number.end()) and not VERB.search(sentence):
        return False
    return re.search(r"\d", behind) is not None and not EXPLAINS.match(behind)


def _read_sentence(sentence: str) -> str | None:
    """The result that a sentence gives, the number that it begins with, or the only one in it."""
    aside = ASIDE.search(sentence)
    main = sentence if aside is None else sentence[: aside.start()]
    results = list(RESULT.finditer(main))
    if results:
        return _result(main[results[-1].end() :]) or _result(main[: results[0].start()]) or UNREADABLE
    begins = NUMBER.match(main, BETWEEN.match(main).end())  # type: ignore[union-attr]
    if begins is not None:
        if SAID_AGAIN.match(main, begins.end()) or not GOES_ON.match(main, begins.end()):
            return in_digits(begins) or UNREADABLE
        results = list(RESULT_OF_CALCULATION.finditer(main))
        if results and re.match(rf"(?:\s+[a-zA-Z/$]+\.?){{0,3}}\s*(?:{OPERATOR}|of\b)", main[begins.end() :]):
            return _result(main[results[-1].end() :]) or UNREADABLE
        return _same_again(main) or UNREADABLE
    spelled = SPELLED.match(main)
    if spelled is not None:
        return UNREADABLE if HALVES.match(main, spelled.end()) else spelled_in_digits(spelled)
    return _sole(main)


def _same_again(main: str) -> str | None:
    """One of two numbers that are equal: `5/2 or 2.5`."""
    found = [in_digits(number) for number in NUMBER.finditer(main)]
    if len(found) == 2 and found[0] and found[1] and compare_numbers(found[0], found[1]) == "right":
        return found[1] if found[1].endswith("%") else found[0]
    return None


def _result(words: str) -> str | None:
    number = NUMBER.match(words, BETWEEN.match(words).end())  # type: ignore[union-attr]
    return None if number is None or GOES_ON.match(words, number.end()) else in_digits(number)


def _sole(sentence: str) -> str | None:
    """The only number that stands in the sentence."""
    numbers = list(NUMBER.finditer(sentence))
    if not numbers:
        spelled = [found for found in SPELLED_ANYWHERE.finditer(sentence) if found["words"].strip() != "one"]
        if len(spelled) == 1 and not DENIED.search(f"{sentence[: spelled[0].start()]} "):
            return spelled_in_digits(spelled[0])
        return None
    if len(numbers) > 1 or DOUBT.search(sentence) or DENIED.search(f"{sentence[: numbers[0].start()]} "):
        return UNREADABLE
    return UNREADABLE if GOES_ON.match(sentence, numbers[0].end()) else in_digits(numbers[0])


def _read_line(line: str) -> str | None:
    """The number that is all of a line, or the result of its equation, or of `Total: 18`, or its only bold number."""
    words = LABELLED.sub("", line)
    begins = NUMBER.match(words, BETWEEN.match(words).end())  # type: ignore[union-attr]
    if begins is not None and not words[begins.end() :].strip(" .*_$`)]}!"):
        return in_digits(begins)
    bold = BOLD.findall(line)
    if len(bold) == 1 and (inside := _read_sentence(bold[0])):
        return inside
    # Of an equation only where no other sentence follows: `9+28=37. The jar` breaks off before it states anything.
    last = SENTENCES.split(words.rstrip())[-1]
    if "=" in last and not DOUBT.search(last):
        return _result(last.rpartition("=")[2])
    if begins is not None and WHOLE.match(words, begins.end()) and not re.match(r"\s*[-\u2022*]\s", line):
        return in_digits(begins)
    spelled = SPELLED.fullmatch(words.strip(" .*_"))
    return spelled_in_digits(spelled) if spelled is not None else None


def _read_first(text: str) -> str | None:
    """The number that is all of the first line or sentence, where what follows explains it."""
    sentence = Statement(text, "first").sentence
    begins = NUMBER.match(sentence, BETWEEN.match(sentence).end())  # type: ignore[union-attr]
    if (
        begins is None
        or not WHOLE.match(sentence, begins.end())
        or (LISTED.match(text) and NEXT_LISTED.search(text))
        or sentence[:1] in "-\u2022"
    ):
        return None
    behind = text.lstrip()[len(sentence) :]
    return (
        in_digits(begins)
        if EXPLAINS.match(behind) or re.search(rf"(?<!\d){re.escape(begins.group().strip())}(?!\d)", behind)
        else None
    )
