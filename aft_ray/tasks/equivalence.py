"""Whether two expressions are equal, by math-verify (github.com/huggingface/Math-Verify).

It may hang or crash on what a model writes: import and call this in a process that can be killed (aft_ray.isolated). Its own
limits work by signals, which code in C does not see, so they are off. Where it is known to be too generous, it is not believed:
it reads a number out of what it cannot parse, and takes all numbers near 0 for equal.
"""

import dataclasses
import functools
import logging
import re
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from aft_ray.tasks.expression_forms import clean
from aft_ray.tasks.expressions import gold_expression, normal

logging.getLogger("math_verify").setLevel(logging.CRITICAL)

# Neither its second reading, which looks for any number where the LaTeX makes no sense, nor its search for any fraction, nor
# its units, which it takes out of expressions in `t`, `s` and `m`.
AS_LATEX = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
CONFIG = (dataclasses.replace(AS_LATEX, normalization_config=dataclasses.replace(AS_LATEX.normalization_config, units=False)),)
# TeX takes the next sign for an argument without braces; `\frac\pi4` is what math-verify cannot read.
BARE_FRACTION = re.compile(r"\\[dtc]?frac\s*(\\(?!sqrt)[A-Za-z]+|[0-9A-Za-z])\s*(\\(?!sqrt)[A-Za-z]+|[0-9A-Za-z]|(?=\{))")
SLASHED = re.compile(r"(?<![\d.}])(\d+)\s*/\s*(\d+)(?![\d.])")
DEGREES = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc)\s*(?:\\left)?\(?\s*)(\d+)\s*\^\s*\\circ")
TOLERANCE = 1e-5


def same_expression(extracted: str, gold: str) -> bool | None:
    """Whether both are the same; None where either cannot be read."""
    meant = normal(clean(extracted), clean(gold_expression(gold)))
    if meant is None:
        return None
    found, wanted = _parsed(meant[0]), _parsed(meant[1])
    if not found or not wanted:
        return None
    if not verify(list(wanted), list(found), timeout_seconds=None, allow_set_relation_comp=True):
        # What was read as mere text was not read.
        return None if any(all(isinstance(part, str) for part in parts) for parts in (found, wanted)) else False
    return "%" in extracted + gold or not _differ(found[0], wanted[0])


@functools.lru_cache(maxsize=256)
def _parsed(expression: str) -> tuple[Any, ...]:
    braced = BARE_FRACTION.sub(lambda m: rf"\frac{{{m[1]}}}" + (f"{{{m[2]}}}" if m[2] else ""), expression)
    braced = SLASHED.sub(r"\\frac{\1}{\2}", DEGREES.sub(r"\1\\frac{\2\\pi}{180}", braced))
    return tuple(_with_i(part) for part in parse(f"\\boxed{{{braced}}}", CONFIG, parsing_timeout=None))


def _with_i(parsed: Any) -> Any:
    """Every `i` the imaginary unit: math-verify reads that of `3i` as a real variable."""
    symbols = getattr(parsed, "free_symbols", None)
    if not symbols:
        return parsed
    return parsed.xreplace({symbol: sympy.I if symbol.name == "i" else sympy.Symbol(symbol.name) for symbol in symbols})


def _differ(one: Any, other: Any) -> bool:
    """Whether both are numbers, and not the same relative to their size."""
    if not all(isinstance(number, sympy.Expr) and number.is_number for number in (one, other)):
        return False
    first, second = (sympy.Abs(sympy.N(number, 30)) for number in (one, other))
    difference = sympy.Abs(sympy.N(one - other, 30))
    return bool(difference > TOLERANCE * sympy.Max(first, second))


# The first comparison builds grammars for a second or more, which is no part of any check's time.
same_expression(r"\frac{x^2}{2}", r"\sqrt{3} + x")
