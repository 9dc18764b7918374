"""Whether two expressions are equal, by math-verify (github.com/huggingface/Math-Verify).

It may hang or crash on what a model writes: import and call this in a process that can be killed (aft_ray.isolated). Its own
limits work by signals, which code in C does not see, so they are off. Where it is known to be too generous, it is not believed:
it reads a number out of what it cannot parse, and takes all numbers near 0 for equal.
"""

import functools
import logging
import re
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from aft_ray.tasks.expressions import gold_expression

logging.getLogger("math_verify").setLevel(logging.CRITICAL)

# Not its second reading, which looks for any number where the LaTeX makes no sense.
AS_LATEX = (LatexExtractionConfig(boxed_match_priority=0),)
# TeX takes the next sign for an argument without braces; `\frac\pi4` is what math-verify cannot read.
BARE_FRACTION = re.compile(r"\\[dtc]?frac\s*(\\(?!sqrt)[A-Za-z]+|[0-9A-Za-z])\s*(\\(?!sqrt)[A-Za-z]+|[0-9A-Za-z]|(?=\{))")
TOLERANCE = 1e-5


def same_expression(extracted: str, gold: str) -> bool | None:
    """Whether both are the same; None where either cannot be read."""
    found, wanted = _parsed(extracted), _parsed(gold_expression(gold))
    if not found or not wanted:
        return None
    if not verify(list(wanted), list(found), timeout_seconds=None):
        return False
    return "%" in extracted + gold or not _differ(found[0], wanted[0])


@functools.lru_cache(maxsize=256)
def _parsed(expression: str) -> tuple[Any, ...]:
    braced = BARE_FRACTION.sub(lambda m: rf"\frac{{{m[1]}}}" + (f"{{{m[2]}}}" if m[2] else ""), expression)
    return tuple(parse(f"\\boxed{{{braced}}}", AS_LATEX, parsing_timeout=None))


def _differ(one: Any, other: Any) -> bool:
    """Whether both are numbers, and not the same relative to their size."""
    if not all(isinstance(number, sympy.Expr) and number.is_number for number in (one, other)):
        return False
    first, second = (sympy.Abs(sympy.N(number, 30)) for number in (one, other))
    difference = sympy.Abs(sympy.N(one - other, 30))
    return bool(difference > TOLERANCE * sympy.Max(first, second))


# The first comparison builds grammars for a second or more, which is no part of any check's time.
same_expression(r"\frac{x^2}{2}", r"\sqrt{3} + x")
