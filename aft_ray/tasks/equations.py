"""The equations of a chain of thought: whether they hold, and their list, by which RFT tells chains apart (arXiv 2308.01825).

GSM8K annotates its calculations as `<<48/2=24>>`. Nothing is evaluated but the four operations on numbers.
"""

import ast
import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

ANNOTATED = re.compile(r"<<([^<>=]{1,200})=([^<>=]{1,60})>>")
# Without annotations: what stands right before and right behind an equals sign.
BEFORE = re.compile(r"[\d(][\d\s.,+*/()x\u00d7\u00f7$%-]*$")
BEHIND = re.compile(r"\s*([-$]{0,2}\d[\d,]{0,60}(?:\.\d{1,60})?)")
MAX_LEFT = 200
MAX_DIGITS = 40


def equations(text: str) -> tuple[str, ...]:
    """All equations of a text in their order, without spaces; annotated ones alone where there are any."""
    found = ANNOTATED.findall(text) or list(_plain_equations(text))
    return tuple(re.sub(r"[\s$,]", "", f"{left}={right}") for left, right in found)


def _plain_equations(text: str) -> Iterator[tuple[str, str]]:
    start, at = 0, text.find("=")
    while at >= 0:
        left, right = BEFORE.search(text[max(start, at - MAX_LEFT) : at]), BEHIND.match(text, at + 1)
        if left is not None and right is not None:
            yield left.group(), right[1]
        start, at = at + 1 if right is None else right.end(), text.find("=", at + 1)


def false_equation(text: str) -> str | None:
    """The first annotated equation that does not hold; None where all that can be read do.

    A result may be rounded or cut to the decimals that it shows.
    """
    for left, right in ANNOTATED.findall(text):
        found, stated = _calculate(left), _calculate(right)
        if found is None or stated is None:
            continue
        decimals = re.search(r"\.(\d*)\s*%?\s*$", right)
        last_place = Fraction(1, 10 ** len(decimals[1])) if decimals else 0
        rounded, cut = abs(found - stated) <= last_place / 2, 0 <= abs(found) - abs(stated) < last_place
        if not (rounded or cut):
            return f"<<{left}={right}>>"
    return None


def _calculate(text: str) -> Fraction | None:
    """The value of sums, differences, products and quotients of numbers; None where it is anything else."""
    text = re.sub(r"[$,\s]", "", text).replace("\u00d7", "*").replace("\u00f7", "/").replace("x", "*")
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", re.sub(r"(\d+(?:\.\d*)?|\.\d+)%", r"(\1/100)", text))
    if not text or re.search(rf"\d{{{MAX_DIGITS}}}|[^\d.+*/()-]|\*\*|//", text):
        return None
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(Decimal(repr(number)))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left) + _value(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left) - _value(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left) * _value(right)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _value(left) / _value(right)
    raise ValueError(f"not a calculation: {ast.dump(node)[:40]}")
