r"""Numbers as answers: read as people write them, compared as exact fractions. Nothing is ever evaluated.

`$1,234.50`, `-5`, `3/4`, `3 1/2`, `50%`, `1.5 million`, `1e5`, `3 \times 10^8`, `\frac{3}{4}`, `eighteen`, digits of any script.
"""

import functools
import re
import unicodedata
from fractions import Fraction

from aft_ray.tasks.latex import to_plain
from aft_ray.tasks.stated import SENTENCES, UNREADABLE, Statement, last_stated
from schemas import Verdict

# Longer ones are no answers, and Python refuses to read some of them.
MAX_DIGITS = 100
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12, "k": 10**3}
MINUS = r"\-\u2212\u2013\u2011"
CURRENCY = r"(?:(?:US|A|C)?\$|[\u20ac\u00a3\u20b9\u00a5]|Rs\.?(?=[\s\d])|USD\b|EUR\b)"
NUMBER = re.compile(
    rf"""(?P<sign>[{MINUS}+]|(?:negative|minus)\b)? \s? {CURRENCY}? \s? (?P<sign2>[{MINUS}]?)
    (?: (?P<whole>\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d{{1,2}}(?:,\d\d)+,\d{{3}}(?!\d)|\d+) (?P<decimals>\.\d+)? | (?P<bare>\.\d+) )
    (?: [eE](?P<e>[-+]?\d{{1,3}})(?!\w)
      | \s?[*x\u00d7]\s?10\s?\^\s?\{{?\s?(?P<ten>[{MINUS}]?\d{{1,3}})\s?\}}?
      | (?:\s+|\s?-\s?|\s+and\s+)(?P<over>\d{{1,9}})/(?P<under>\d{{1,9}})(?![\d.])
      | \s?/\s?(?P<denominator>\d+)(?!\.?\d) )?
    (?: \s?(?P<percent>%|percent\b) | \s?(?P<scale>(?:thousand|million|billion|trillion|dozen)\b|[kK](?!\w)) )?""",
    re.VERBOSE,
)
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
ONES = (
    "zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
WORDS = {word: value for value, word in enumerate(ONES.split())} | {
    word: value * 10 for value, word in enumerate(TENS.split(), start=2)
}
SPELLED = re.compile(
    rf"""[\s*_:"']* (?P<minus>(?:negative|minus)\s+)?
    (?P<words>(?:(?:{"|".join(sorted(WORDS, key=len, reverse=True))}|hundred|thousand|million)\b(?:\s+and\s+(?=[a-z])|[\s-]*))+)
    (?!\s*of\b)""",
    re.VERBOSE | re.IGNORECASE,
)
SPELLED_ANYWHERE = re.compile(
    rf"(?<![a-z-])(?={'|'.join(sorted(WORDS, key=len, reverse=True))})" + SPELLED.pattern, SPELLED.flags
)
# `two and a half`, `two dozen`: more than the words before.
HALVES = re.compile(r"\s*(?:and\s+)?(?:a\s+)?(?:half|halves|dozen|thirds?|quarters?|more|less|fewer|times)\b", re.IGNORECASE)
DENIED_WORD = re.compile(r"\b(?:not|never|neither|none|cannot)\b|n['\u2019]t\b", re.IGNORECASE)
VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")


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
    if statement.kind == "line":
        return _read_line(words)
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
            return _plain(begins) or UNREADABLE
        results = list(RESULT_OF_CALCULATION.finditer(main))
        if results and re.match(rf"(?:\s+[a-zA-Z/$]+\.?){{0,3}}\s*(?:{OPERATOR}|of\b)", main[begins.end() :]):
            return _result(main[results[-1].end() :]) or UNREADABLE
        return _same_again(main) or UNREADABLE
    spelled = SPELLED.match(main)
    if spelled is not None:
        return UNREADABLE if HALVES.match(main, spelled.end()) else _spelled(spelled)
    return _sole(main)


def _same_again(main: str) -> str | None:
    """One of two numbers that are equal: `5/2 or 2.5`."""
    found = [_plain(number) for number in NUMBER.finditer(main)]
    if len(found) == 2 and found[0] and found[1] and compare_numbers(found[0], found[1]) == "right":
        return found[1] if found[1].endswith("%") else found[0]
    return None


def _result(words: str) -> str | None:
    number = NUMBER.match(words, BETWEEN.match(words).end())  # type: ignore[union-attr]
    return None if number is None or GOES_ON.match(words, number.end()) else _plain(number)


def _sole(sentence: str) -> str | None:
    """The only number that stands in the sentence."""
    numbers = list(NUMBER.finditer(sentence))
    if not numbers:
        spelled = [found for found in SPELLED_ANYWHERE.finditer(sentence) if found["words"].strip() != "one"]
        if len(spelled) == 1 and not DENIED.search(f"{sentence[: spelled[0].start()]} "):
            return _spelled(spelled[0])
        return None
    if len(numbers) > 1 or DOUBT.search(sentence) or DENIED.search(f"{sentence[: numbers[0].start()]} "):
        return UNREADABLE
    return UNREADABLE if GOES_ON.match(sentence, numbers[0].end()) else _plain(numbers[0])


def _read_line(line: str) -> str | None:
    """The number that is all of a line, or the result of its equation, or of `Total: 18`, or its only bold number."""
    words = re.sub(r"^\s*(?:[A-Za-z]+\s+){0,3}[A-Za-z]+:\s+", "", line)
    begins = NUMBER.match(words, BETWEEN.match(words).end())  # type: ignore[union-attr]
    if begins is not None and not words[begins.end() :].strip(" .*_$`)]}!"):
        return _plain(begins)
    bold = BOLD.findall(line)
    if len(bold) == 1 and (inside := _read_sentence(bold[0])):
        return inside
    # Of an equation only where no other sentence follows: `9+28=37. The jar` breaks off before it states anything.
    last = SENTENCES.split(words.rstrip())[-1]
    if "=" in last and not DOUBT.search(last):
        return _result(last.rpartition("=")[2])
    if begins is not None and WHOLE.match(words, begins.end()) and not re.match(r"\s*[-\u2022*]\s", line):
        return _plain(begins)
    spelled = SPELLED.fullmatch(words.strip(" .*_"))
    return _spelled(spelled) if spelled is not None else None


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
        _plain(begins)
        if EXPLAINS.match(behind) or re.search(rf"(?<!\d){re.escape(begins.group().strip())}(?!\d)", behind)
        else None
    )


def compare_numbers(extracted: str, gold: str, choices: tuple[str, ...] = ()) -> Verdict:
    """Equality as exact fractions. Of `50%` and `1.5 million` the bare number counts as well, for gold may be meant so.

    Raises ValueError where gold is no number.
    """
    if extracted == gold:
        return "right"
    found, found_unit = value(extracted)
    wanted, wanted_unit = value(plain_number(gold))
    if found == wanted and (found_unit == wanted_unit or 1 in (found_unit, wanted_unit)):
        return "right"
    return "right" if found_unit != wanted_unit and found * found_unit == wanted * wanted_unit else "wrong"


@functools.lru_cache(maxsize=4096)
def plain_number(text: str) -> str:
    """A text that is a number and nothing else, in plain digits. Raises ValueError where it is not."""
    text = to_ascii(to_plain(text)).strip().removesuffix(".").strip("$ ") if len(text) <= 2 * MAX_DIGITS else ""
    match = NUMBER.fullmatch(text)
    plain = None if match is None else _plain(match)
    if plain is None:
        raise ValueError(f"not a number: {text[:40]!r}")
    return plain


def to_ascii(text: str) -> str:
    """Digits of any script as ASCII ones, and \u00bd as 1/2."""
    if text.isascii():
        return text
    text = VULGAR.sub(lambda m: f" {unicodedata.normalize('NFKC', m.group())} ".replace("\u2044", "/"), text)
    return "".join(str(unicodedata.decimal(c)) if not c.isascii() and c.isdecimal() else FULLWIDTH.get(c, c) for c in text)


# Punctuation of numbers in scripts other than ASCII.
FULLWIDTH = {
    "\uff0c": ",",
    "\uff0e": ".",
    "\uff0d": "-",
    "\uff05": "%",
    "\uff04": "$",
    "\u2044": "/",
    "\u066b": ".",
    "\u066c": ",",
}


def _plain(match: re.Match[str]) -> str | None:
    digits = (match["whole"] or "0").replace(",", "") + (match["decimals"] or match["bare"] or "")
    denominator, over, power = match["denominator"], match["over"], match["e"] or match["ten"]
    if len(digits) + len(denominator or "") > MAX_DIGITS or (denominator or match["under"] or "1").strip("0") == "":
        return None
    if denominator is not None:
        if "." in digits:
            return None
        digits = f"{digits}/{denominator}"
    elif over is not None:
        if "." in digits:
            return None
        digits = str(int(digits) + Fraction(int(over), int(match["under"])))
    elif power is not None:
        exponent = int(re.sub(f"[{MINUS}]", "-", power))
        if abs(exponent) > MAX_DIGITS:
            return None
        digits = str(Fraction(digits) * Fraction(10) ** exponent)
    negative = (match["sign"] not in (None, "+")) != bool(match["sign2"])
    unit = "%" if match["percent"] else f" {match['scale'].lower()}" if match["scale"] else ""
    return f"{'-' if negative else ''}{digits}{unit}"


@functools.lru_cache(maxsize=4096)
def value(plain: str) -> tuple[Fraction | int, Fraction | int]:
    """The bare number, and what its unit multiplies it by."""
    if plain.isdigit():
        return int(plain), 1
    if plain.endswith("%"):
        return Fraction(plain[:-1]), Fraction(1, 100)
    number, _, scale = plain.partition(" ")
    return Fraction(number), SCALES[scale] if scale else 1


def _spelled(match: re.Match[str]) -> str | None:
    total = group = 0
    for word in re.findall("[a-z]+", match["words"].lower()):
        if word == "hundred":
            group = max(group, 1) * 100
        elif word in SCALES:
            total, group = total + max(group, 1) * SCALES[word], 0
        elif word != "and":
            group += WORDS[word]
    return f"{'-' if match['minus'] else ''}{total + group}"
