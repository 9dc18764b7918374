"""Whether two expressions are equal, by math-verify (github.com/huggingface/Math-Verify).

It may hang or crash on what a model writes: import and call this in a process that can be killed (aft_ray.isolated). Its own
limits work by signals, which code in C does not see, so they are off.
"""

import functools
import logging
from typing import Any

from math_verify import parse, verify

from aft_ray.tasks.expressions import gold_expression

logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def same_expression(extracted: str, gold: str) -> bool | None:
    """Whether both are the same; None where either cannot be read."""
    found, wanted = _parsed(extracted), _parsed(gold_expression(gold))
    if not found or not wanted:
        return None
    same: bool = verify(list(wanted), list(found), timeout_seconds=None)
    return same


@functools.lru_cache(maxsize=256)
def _parsed(expression: str) -> tuple[Any, ...]:
    return tuple(parse(f"\\boxed{{{expression}}}", parsing_timeout=None))


# The first comparison builds grammars for a second or more, which is no part of any check's time.
same_expression(r"\frac{x^2}{2}", r"\sqrt{3} + x")
