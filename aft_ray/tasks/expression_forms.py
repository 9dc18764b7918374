r"""One form for what is written in many ways: `√2` and `\sqrt{2}`, `5\text{ cm}` and `5 cm`, `-2 < x \le 5` and `(-2,5]`."""

import functools
import re

MAX_LENGTH = 1000
UNICODE = {
    "\u2212": "-", "\u2013": "-", "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00f7": r"\div ",
    "\u03c0": r"\pi ",
    "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u221e": r"\infty ", "\u2205": r"\emptyset ", "\u00b0": r"^\circ ",
    "\u222a": r"\cup ", "\u2229": r"\cap ", "\u2208": r"\in ", "\u211d": r"\mathbb{R}", "\u03b8": r"\theta ", "\u00b1": r"\pm ",
    "\u00b9": "^1", "\u00b2": "^2", "\u00b3": "^3", "\u2074": "^4", "\u2075": "^5", "\u2076": "^6",
    "\u00bd": r"\frac{1}{2}", "\u2153": r"\frac{1}{3}", "\u2154": r"\frac{2}{3}", "\u00bc": r"\frac{1}{4}",
    "\u00be": r"\frac{3}{4}",
    "\u2019": "'", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
}  # fmt: skip
ROOT = re.compile("\u221a\\s*(?:\\(([^()]*)\\)|([A-Za-z]|\\d+(?:\\.\\d+)?))|(?:\\\\|(?<![a-zA-Z\\\\]))sqrt\\s*\\(([^()]*)\\)")
MATRIX = re.compile(
    r"[\[(]?\s*\\begin\s*\{[bp]?(?:matrix|array)\}(?:\s*\{[clr| ]+\})?(.*?)\\end\s*\{[bp]?(?:matrix|array)\}\s*[\])]?", re.DOTALL
)
MATRIX_BEGINS = r"\begin{pmatrix}"
REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\overline\s*\{(\d+)\}")
ABOUT = re.compile(r"\s*\\approx(?![a-zA-Z]).*$", re.DOTALL)
# What only sets type.
SIZING = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![a-zA-Z])"
    r"|\\[!,;:> ]|\\(?:quad|qquad)(?![a-zA-Z])|~|\\color\s*\{[^{}]*\}|</?[bi]>|\\therefore(?![a-zA-Z])|\\boxed(?=\{)"
)
SYNONYMS = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\leqslant": r"\le", r"\geqslant": r"\ge", r"\leq": r"\le",
    r"\geq": r"\ge", r"\neq": r"\ne", r"\varnothing": r"\emptyset", r"\lvert": "|", r"\rvert": "|", r"\%": "%", r"\$": "",
    r"\lbrace": r"\{", r"\rbrace": r"\}", r"\langle": "(", r"\rangle": ")", r"\equiv": "=",
}  # fmt: skip
SYNONYM = re.compile("|".join(rf"{re.escape(name)}(?![a-zA-Z])" for name in sorted(SYNONYMS, key=len, reverse=True)))
TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{\s*([^{}]*?)\s*\}")
LABELLED = re.compile(
    r"^(?:\\(?:text|textbf|mathrm)\s*\{[^{}]*(?::|\bis)\s*\}|(?:the\s+)?(?:final\s+)?answer\s*(?:is|:)|Total:|Area:)\s*",
    re.IGNORECASE,
)
THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!\s*|\\,)(?=\d{3}(?!\d))")
# A unit behind a value. `o'clock`, `a.m.`, `million` are none: they say which value it is.
UNIT = re.compile(
    r"(?<=[\w})\]|])\s*(?:\\(?:text|textbf|mathrm|mbox|textrm)\s*\{\s*(?P<text>[^{}]*?)\s*\}|\{\\rm\s*(?P<rm>[^{}]*)\}"
    r"|(?<!\\)(?P<bare>(?:\s|(?<=\d))(?:[a-zA-Z]{3,}\s*){1,4}|(?:\s|(?<=\d))(?:cm|km|mm|kg|ft|lb|oz|ml|hr|in)))"
    r"\s*(?P<power>\^\s*\{?\s*\d\s*\}?)?\s*$"
)
NO_UNIT = re.compile(
    r"\b(?:million|billion|trillion|thousand|hundred|dozen|[ap]\.?\s?m\.?|or|and|if|for|to|more|less|than|from|where|when|o'clock|even|odd|is|are|not"
    r"|sin|cos|tan|cot|sec|csc|log|exp|max|min|lim|mod|gcd|lcm|det|pmod|base|two|three|four|five|six|seven|eight|nine|ten)\b",
    re.IGNORECASE,
)
UNIT_NAMES = {
    "ft": "foot", "feet": "foot", "in": "inch", "inches": "inch", "gm": "gram", "g": "gram", "cm": "centimeter",
    "mm": "millimeter",
    "m": "meter", "km": "kilometer", "kg": "kilogram", "lb": "pound", "lbs": "pound", "oz": "ounce", "hr": "hour", "hrs": "hour",
    "min": "minute", "mins": "minute", "sec": "second", "s": "second", "yd": "yard", "ml": "milliliter", "l": "liter",
}  # fmt: skip
BASED = re.compile(r"^-?\(?(?P<digits>[0-9A-Z]+(?:\.[0-9A-Z]+)?)\)?(?:_\{?(?P<base>\d+|[a-z]+)\}?)?$")
BASES = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "sixteen": "16",
}
LETTERS = re.compile(r"^\(?[A-Z]\)?(?:,\(?[A-Z]\)?)*$")
COMPARISON = re.compile(r"\\(?:le|ge|ne)(?![a-zA-Z])|[<>]")
SET_OF = re.compile(r"^\\\{\s*[a-z]\s*(?::|\\mid|\|)\s*(.*)\\\}$")
MEMBER = re.compile(r"^\\?[A-Za-z]+(?:\([a-z]\))?\s*\\in\s*(?=[\[({\\])")
# The left side of `x = 5`, `f(2) = 5`, `\angle A = 5`, `3 \cdot 4 = 12`: nothing that the right side answers only in part.
NAMES = re.compile(
    r"^(?:\\(?:angle|triangle|text|overline|mathrm|det|max|min|sin|cos|tan|log)\s*)*"
    r"(?:[A-Za-z]{1,4}'?(?:_\{?\\?[A-Za-z0-9]+\}?)?|\\[a-z]+(?:_\{?\w+\}?)?|\\?\|\s*\\?[\w{}]+\s*\\?\|"
    r"|\{[A-Za-z ]+\}|\[?[A-Z]{1,4}\]?)\s*(?:\([^()]*\))?$"
    r"|^[A-Za-z](?:\^\{?-1\}?)?\(.*\)$|^m?\\angle\s*[A-Z]+$|^[A-Za-z]_\{\\text\s*\{\w+\}\}$|^\(\s*[a-z](?:\s*,\s*[a-z])+\s*\)$|^\\mathbf\{\w\}$"
    r"|^[A-Za-z]+\s[A-Za-z ]+$|^[A-Za-z]\s*:\s*[A-Za-z]$"
    r"|^(?:[\d\s+*/^.(){}!%_-]"
    r"|\\(?:frac|cdot|times|sqrt|div|pi|binom|choose|log|ln|sin|cos|tan|lfloor|rfloor|lceil|rceil|circ)(?![a-zA-Z]))+$"
)


@functools.lru_cache(maxsize=4096)
def clean(expression: str) -> str:
    """The same expression in plain LaTeX without what only sets type, without dollar signs and final punctuation."""
    text = expression[:MAX_LENGTH].strip()
    if not text.isascii():
        text = "".join([UNICODE.get(character, character) for character in text])
    text = ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2] or m[3] or ''}}}", text)
    text = THOUSANDS.sub("", text)
    text = re.sub(r"\\\\\s*\[[^\]]*\]", r"\\\\", text)
    text = SIZING.sub(" ", text.replace("\\\\", "\x00")).replace("\x00", "\\\\")
    text = SYNONYM.sub(lambda m: SYNONYMS[m.group()], text)
    text = re.sub(r"\\(?:mathrm|text)\s*\{\s*i\s*\}", "i", text)
    text = MATRIX.sub(r"\\begin{pmatrix}\1\\end{pmatrix}", text) if "\\begin" in text else text
    text = REPEATING.sub(_repeating, text)
    text = re.sub(r"\\overline\s*\{([A-Z]{2})\}", r"\1", ABOUT.sub("", text) or text.replace("\\approx", ""))
    text = re.sub(r"(?<=\d)\s*\\?p?mod\s*\{?\d+\}?\s*$|\s*\\pmod\s*\{?\s*\d+\s*\}?\s*$", "", text)
    text = re.sub(r"(?<=[\w)])\*\*(?=[\w(])", "^", text)
    text = re.sub(r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-zA-Z])|\\degree\b|\\circ\s*$", r"^\\circ ", text)
    text = LABELLED.sub("", re.sub(r"\*\*|`|__", "", text).strip())
    while (shorter := text.strip().strip("$").rstrip(".,;: \\")) != text:
        text = shorter
    return re.sub(r"\s+", " ", text)


def _repeating(match: re.Match[str]) -> str:
    r"""`0.1\overline{6}` as a fraction."""
    sign, whole, plain, repeated = match.groups()
    nines = "9" * len(repeated) + "0" * len(plain)
    return rf"{sign}\frac{{{int((whole or '0') + plain + repeated) - int((whole or '0') + plain)}}}{{{nines}}}"


def compact(expression: str) -> str:
    """Without white space, where it means nothing."""
    return re.sub(r"\s+", "", expression)


def split_unit(expression: str) -> tuple[str, str]:
    """(value, unit) of a cleaned expression; the unit is empty where there is none."""
    text = re.sub(r"\s*\^\\circ\s*(?:[CF]|\\(?:text|mathrm)\s*\{\s*[CF]\s*\})?$", "", expression)
    if text != expression and not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):
        return text, ""
    found = UNIT.search(expression)
    if found is None or NO_UNIT.search(found.group()):
        return expression, ""
    name = found["text"] or found["rm"] or found["bare"] or ""
    power = re.sub(r"\D", "", found["power"] or "")
    words = name.lower().replace("miles per hour", "mph").split()
    if words and words[0] in ("square", "sq", "cubic"):
        power = "3" if words.pop(0) == "cubic" else "2"
    stem = re.sub(r"[^a-z]", "", "".join([UNIT_NAMES.get(word.strip("."), word.strip(".").removesuffix("s")) for word in words]))
    return expression[: found.start()].strip(), stem + power


def same_letters(said: str, wanted: str) -> bool | None:
    """Of golds that are an option's letter or several: `\\text{(C)}`, `A, D`. None where gold is something else."""
    if not LETTERS.match(letters := compact(TEXT.sub(r"\1", wanted))):
        return None
    plain = TEXT.sub(r"\1", said).strip()
    first = re.match(
        r"^(?:(?:option|choice|graph|figure)\s+)?\(?([A-Z])\)?(?:[.:)\s]\s*\S.*)?$", plain, re.IGNORECASE if len(plain) > 1 else 0
    )
    if "," not in letters:
        if first is not None and (plain[:1] == "(" or len(plain) == 1 or plain[1:2] in ".:)" or plain[:1] in "ocgOCGf"):
            return first[1].upper() == letters.strip("()")
        return None
    return (
        sorted(re.findall("[A-Z]", compact(plain))) == sorted(re.findall("[A-Z]", letters))
        if LETTERS.match(compact(plain))
        else None
    )


def same_base(said: str, wanted: str) -> bool | None:
    r"""Of numbers of which gold names its base, `1011_2`; None where it does not."""
    one, other = (BASED.match(compact(TEXT.sub(r"\1", text))) for text in (said, wanted))
    if one is None or other is None or other["base"] is None:
        return None
    bases = [BASES.get(match["base"], match["base"]) for match in (one, other)]
    same_sign = said.startswith("-") == wanted.startswith("-")
    return same_sign and one["digits"] == other["digits"] and (bases[0] is None or bases[0] == bases[1])


def as_text(expression: str) -> str:
    r"""Words without type setting, articles, case and punctuation: `\text{4:30 p.m.}` and `4:30 \text{ PM}` are the same."""
    words = TEXT.sub(r" \1 ", expression).casefold()
    words = re.sub(r"\b([ap])\.?\s?m\b\.?", r"\1m", words)
    words = re.sub(r":00(?=\s*[ap]m)", "", words)
    words = re.sub(r"[^\w:%+-]+", " ", words)
    return re.sub(r"\b(?:a|an|the)\b", " ", words)


def as_interval(expression: str) -> str | None:
    r"""An inequality in one variable as an interval, `x < -1 \text{ or } x \ge 2` as a union; None where it is none."""
    text = expression
    if (inner := SET_OF.match(text)) is not None:
        text = inner[1].strip()
    parts = re.split(r"\\(?:text|mathrm)\s*\{\s*(?:or|OR)\s*\}|\s+or\s+|\\lor|\\vee", text)
    intervals = [_interval(part.strip(" $")) for part in parts]
    return None if None in intervals else r"\cup".join(interval or "" for interval in intervals)


def _interval(part: str) -> str | None:
    pieces = re.split(r"\s*(\\(?:le|ge|ne)(?![a-zA-Z])|[<>])\s*", part)
    if len(pieces) == 3:
        left, sign, right = pieces
        if not re.fullmatch(r"[a-z]", left):
            left, sign, right = right, {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}.get(sign, sign), left
        if not re.fullmatch(r"[a-z]", left) or not right or left in right.replace(r"\frac", "").replace(r"\sqrt", ""):
            return None
        return {
            "<": rf"(-\infty,{right})",
            r"\le": rf"(-\infty,{right}]",
            ">": rf"({right},\infty)",
            r"\ge": rf"[{right},\infty)",
            r"\ne": rf"(-\infty,{right})\cup({right},\infty)",
        }[sign]
    if len(pieces) == 5 and re.fullmatch(r"[a-z]", pieces[2]):
        low, first, _, second, high = pieces
        if first in ("<", r"\le") and second in ("<", r"\le"):
            return ("(" if first == "<" else "[") + f"{low},{high}" + (")" if second == "<" else "]")
        if first in (">", r"\ge") and second in (">", r"\ge"):
            return ("(" if second == ">" else "[") + f"{high},{low}" + (")" if first == ">" else "]")
    return None


def as_column(expression: str) -> str:
    r"""A tuple as a column vector: `(1, 2)` as `\begin{pmatrix} 1 \\ 2 \end{pmatrix}`; anything else as it is."""
    point = re.fullmatch(r"\(([^()]*,[^()]*)\)", expression)
    return expression if point is None else rf"\begin{{pmatrix}}{point[1].replace(',', chr(92) * 2)}\end{{pmatrix}}"


def is_interval(expression: str) -> bool:
    text = compact(expression)
    return re.match(r"^[\[(].*,.*[\])]$", text) is not None and (
        r"\infty" in text or r"\cup" in text or text[0] == "[" or text[-1] == "]" or text.count(",") == 1
    )


def right_side(expression: str) -> str | None:
    """What `x = 5` says that x is; the expression where it is no equation, None where the right side is not all of it.

    Of `x = 3, y = 4` both right sides.
    """
    if "=" not in expression or COMPARISON.search(expression):
        return expression
    several = re.split(r",\s*(?=\\?[a-zA-Z]\s*=)", expression)
    if len(several) > 1 and all(re.match(r"^\s*\\?[a-zA-Z]+\s*=[^=]+$", one) for one in several):
        return ", ".join(one.partition("=")[2].strip() for one in several)
    left, _, right = expression.rpartition("=")
    left, right = left.strip(), right.strip()
    if re.fullmatch(r"[a-zA-Z]", right) and "=" not in left:
        return left
    if right.startswith(MATRIX_BEGINS) and re.match(r"[^\d=]+(?:\^[^=]*)?$", left):
        return right
    if right and all(NAMES.match(side.strip()) or len(_variables(side)) > 1 for side in left.split("=")):
        return right
    return None


def _variables(side: str) -> set[str]:
    return set(re.findall(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])", re.sub(r"\\[a-zA-Z]+", " ", side)))


def brackets_differ(said: str, wanted: str) -> bool:
    """A set is no tuple, and nothing is closed at infinity."""
    one, other = compact(said), compact(wanted)
    kinds = [text[:2] == r"\{" if text[-1:] == "}" else False for text in (one, other)]
    tuples = [text[:1] == "(" and text[-1:] == ")" and "," in text for text in (one, other)]
    if (kinds[0] and tuples[1]) or (tuples[0] and kinds[1]):
        return True
    return (r"\infty]" in one) != (r"\infty]" in other) or (r"[-\infty" in one) != (r"[-\infty" in other)
