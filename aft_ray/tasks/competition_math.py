r"""math: competition mathematics (MATH, github.com/hendrycks/math, MIT; 5,000 held out), checked by math-verify.

JSON lines with `problem` and a `solution` that ends in \boxed{gold}:

    {"problem": "What is $\\frac{1}{2}+\\frac{1}{3}$?", "level": "Level 1", "type": "Algebra",
     "solution": "$\\frac{3}{6}+\\frac{2}{6}=\\boxed{\\frac{5}{6}}$."}
"""

from typing import Any

from aft_ray.config import TaskConfig
from aft_ray.tasks.answers import EXPRESSION
from aft_ray.tasks.base import Asked, Row, Task, Text
from aft_ray.tasks.expressions import gold_expression


class MathRow(Row):
    problem: Text
    solution: Text


def parse(row: dict[str, Any], config: TaskConfig) -> Asked:
    found = MathRow.model_validate(row)
    gold = gold_expression(found.solution) if "\\boxed" in found.solution else ""
    if not gold:
        raise ValueError(f"solution: expected a solution that ends in \\boxed{{...}}, found {found.solution[-40:]!r}")
    return Asked(found.problem, gold, reference=found.solution)


TASK = Task(
    "math",
    EXPRESSION,
    source="github.com/hendrycks/math",
    licence="MIT",
    parse=parse,
    template="Problem: {question}\nSolution:",
)
