"""The last answer that a text states, and whether it equals the gold answer. Numbers only; nothing is ever evaluated."""

import re
from fractions import Fraction

from schemas import Verdict

# A number as people write it: sign, currency, thousands commas, decimals, a fraction bar, a percent sign.
NUMBER = re.compile(
    r"(?P<sign>[-\u2212+]?)\s?[$\u20ac\u00a3]?(?P<sign2>[-\u2212]?)"
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?P<decimals>\.\d+)?(?:\s?/\s?(?P<denominator>\d+(?!\.?\d)))?\s?%?",
    re.ASCII,
)
# What introduces an answer. Only what follows one of these is an answer that the text states.
MARKER = re.compile(r"####|\bthe\s+(?:final\s+)?answer\s+is\b\s*:?|\b(?:final\s+)?answer\s*:|\\boxed\s*(?=\{)", re.IGNORECASE)
# A number that goes on like this was not the whole of it: a malformed numeral, or the start of a calculation.
GOES_ON = re.compile(r",?\d|\s*[*/=^+\u00d7\u2212-]+\s*[\d(]")
BETWEEN = re.compile(r"[\s:*{(\[\\]*")
MAX_DIGITS = 100


def stated_number(text: str) -> str | None:
    """The last number that the text states as its answer, in plain digits; None where it states none.

    An answer is stated by `#### 18`, `The answer is 18`, `Answer: 18` or `\\boxed{18}`. If what follows the last of these
    is not a number, no earlier one counts: the text has changed its mind in a way that cannot be read.
    """
    markers = list(MARKER.finditer(text))
    if not markers:
        return None
    after = text[markers[-1].end() :]
    match = NUMBER.match(after, BETWEEN.match(after).end())  # type: ignore[union-attr]
    if match is None or GOES_ON.match(after, match.end()):
        return None
    return _plain(match)


def compare_numbers(extracted: str | None, gold: str) -> Verdict:
    """Equality as exact fractions. Raises ValueError where gold is no number."""
    if extracted is None:
        return "unknown"
    return "right" if Fraction(extracted) == parse_number(gold) else "wrong"


def parse_number(text: str) -> Fraction:
    """A text that is a number and nothing else. Raises ValueError where it is not."""
    match = NUMBER.fullmatch(text.strip().rstrip("."))
    plain = None if match is None else _plain(match)
    if plain is None:
        raise ValueError(f"not a number: {text[:40]!r}")
    return Fraction(plain)


def _plain(match: re.Match[str]) -> str | None:
    whole = (match["whole"] or "").replace(",", "")
    decimals, denominator = match["decimals"] or "", match["denominator"]
    if not (whole or decimals) or len(whole + decimals + (denominator or "")) > MAX_DIGITS:
        return None
    if denominator is not None and (decimals or int(denominator) == 0):
        return None
    negative = (match["sign"] in ("-", "\u2212")) != bool(match["sign2"])
    return f"{'-' if negative else ''}{whole or '0'}{decimals}{f'/{denominator}' if denominator else ''}"
