r"""Numbers in every notation, and their values as exact fractions. Nothing is ever evaluated.

`$1,234.50`, `-5`, `3/4`, `3 1/2`, `50%`, `1.5 million`, `1e5`, `3 \times 10^8`, `\frac{3}{4}`, `eighteen`, digits of any script.
"""

import functools
import re
import unicodedata
from fractions import Fraction

from aft_ray.tasks.latex import to_plain
from schemas import Verdict

# Longer ones are no answers, and Python refuses to read some of them.
MAX_DIGITS = 100
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12, "k": 10**3}
MINUS = r"\-\u2212\u2013\u2011"
CURRENCY = r"(?:(?:US|A|C)?\$|[\u20ac\u00a3\u20b9\u00a5]|Rs\.?(?=[\s\d])|USD\b|EUR\b)"
NUMBER = re.compile(
    rf"""(?P<sign>[{MINUS}+]|(?i:negative|minus)\b)? \s? {CURRENCY}? \s? (?P<sign2>[{MINUS}]?)
    (?: (?P<whole>\d{{1,3}}(?:,\d{{3}})+(?!\d)|(?<=[$\u20ac\u00a3])\d{{1,3}}(?:[ ]\d{{3}})+(?![\d.,])
          |\d{{1,2}}(?:,\d\d)+,\d{{3}}(?!\d)|\d+) (?P<decimals>\.\d+)?
      | (?P<bare>\.\d+) )
    (?: [eE](?P<e>[-+]?\d{{1,3}})(?!\w)
      | \s?[*x\u00d7]\s?10\s?\^\s?\{{?\s?(?P<ten>[{MINUS}]?\d{{1,3}})\s?\}}?
      | (?:\s+|\s?-\s?|\s+and\s+)(?P<over>\d{{1,9}})/(?P<under>\d{{1,9}})(?![\d.])
      | \s?/\s?(?P<denominator>\d+)(?!\.?\d) )?
    (?: \s?(?P<percent>%|percent\b) | \s?(?P<scale>(?:thousand|million|billion|trillion|dozen)\b|[kK](?!\w)) )?""",
    re.VERBOSE,
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
VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")


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
    plain = None if match is None else in_digits(match)
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


def in_digits(match: re.Match[str]) -> str | None:
    """The number of a match of NUMBER in plain digits, with its unit; None where it has no value."""
    digits = re.sub("[, ]", "", match["whole"] or "0") + (match["decimals"] or match["bare"] or "")
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


def spelled_in_digits(match: re.Match[str]) -> str:
    """The number of a match of SPELLED in plain digits."""
    total = group = 0
    for word in re.findall("[a-z]+", match["words"].lower()):
        if word == "hundred":
            group = max(group, 1) * 100
        elif word in SCALES:
            total, group = total + max(group, 1) * SCALES[word], 0
        elif word != "and":
            group += WORDS[word]
    return f"{'-' if match['minus'] else ''}{total + group}"
