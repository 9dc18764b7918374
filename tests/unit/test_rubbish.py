"""200,000 texts that nobody would write: no exception, and no check over its limit."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aft_ray.isolated import Isolated
from aft_ray.tasks.answers import CHOICE, EXPRESSION, NUMBER, TEXT, check_answer
from aft_ray.tasks.equations import equations, false_equation

CHOICES = ("bloody mess", "12 km", "1/2", "None of these", "\\frac{1}{2}")
CASES = [(NUMBER, "18", ()), (CHOICE, "B", CHOICES), (CHOICE, "B", ()), (TEXT, "Paris", ())]
PIECES = [
    *"0123456789", *"()[]{}$%^_&#*/\\=+-.,:;!?<>|~`'\"", " ", "\n", "\0", "\ud800", "\udfff", "\u0661", "\u00bd", "\u2212",
    "The answer is ", "Answer: ", "#### ", "\\boxed{", "\\frac{", "\\text{", "\\sqrt", "\\left(", "\\right)", "option ", "(A)",
    "18", "1,234", "3/4", "50%", "1e999", "9" * 60, "million", "eighteen", "minus ", "Paris", "bloody mess", "12 km", " or ",
    "<<3*6=18>>", "<<1/0=", "Question: ", "\nQuestion:", "So ", "therefore ", "\u0130", "\ufb03", "\U0001d7d9", "\u2044",
    "null", "NaN", "inf", "__import__('os')",
]  # fmt: skip
STATED = ["{}", "The answer is {}", "#### {}", "\\boxed{{{}}}", "Answer: {}", "so {}.\nThe answer is {}.", "$${}$$"]
LIMIT = 2.0


class NeverAsked(Isolated):
    """Stands in for the process where only the fast part is to be tried."""

    def call(self, function, *arguments):
        raise AssertionError("numbers, options and texts need no process")


@pytest.mark.parametrize("seed", range(4))
def test_mutated_texts(seed):
    never, generator = NeverAsked(LIMIT), random.Random(seed)
    slowest = 0.0
    for _ in range(49_500):
        rubbish = "".join(generator.choices(PIECES, k=generator.randint(0, 12)))
        text = generator.choice(STATED).replace("{}", rubbish)
        answer, gold, choices = CASES[generator.randrange(len(CASES))]
        started = time.perf_counter()
        verdict = check_answer(text, gold, choices, answer, never).verdict
        slowest = max(slowest, time.perf_counter() - started)
        assert verdict in ("right", "wrong", "unknown")
        EXPRESSION.compare(EXPRESSION.extract(text, ()) or "", "\\frac{1}{2}", ())
    assert slowest < LIMIT


@settings(max_examples=2000)
@given(text=st.text(), case=st.sampled_from(CASES), stated=st.sampled_from(STATED))
def test_any_text(text, case, stated):
    answer, gold, choices = case
    for completion in (text, stated.replace("{}", text)):
        assert check_answer(completion, gold, choices, answer, NeverAsked(LIMIT)).verdict in ("right", "wrong", "unknown")
        equations(completion)
        false_equation(completion)


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        "{",
        "[",
        "\\boxed{",
        "\\frac{",
        "1,",
        "9",
        "$",
        "- ",
        "<<",
        "The answer is ",
        "a ",
        "A) ",
        "\n",
        "so ",
        "1+",
        "<<1=",
        "\\text{",
    ],
)
def test_100_kb_of_the_same(piece):
    text = piece * (100_000 // len(piece))
    for answer, gold, choices in CASES:
        for completion in (text, f"The answer is {text}", f"{text} The answer is 18."):
            started = time.perf_counter()
            check_answer(completion, gold, choices, answer, NeverAsked(LIMIT))
            EXPRESSION.extract(completion, ())
            equations(completion)
            false_equation(completion)
            assert time.perf_counter() - started < LIMIT


def test_latex_rubbish_against_math_verify():
    """The whole way, the process included, of which a few may be killed."""
    isolated, generator = Isolated(LIMIT), random.Random(0)
    latex = [piece for piece in PIECES if piece not in ("\0", "\ud800", "\udfff")] + [
        "x",
        "y^2",
        "\\infty",
        "\\pi",
        "\\begin{pmatrix}",
        "&",
        "\\\\",
        "^{",
    ]
    for _ in range(400):
        rubbish = "".join(generator.choices(latex, k=generator.randint(1, 8)))
        started = time.perf_counter()
        check = check_answer(f"\\boxed{{{rubbish}}}", "x^2+1", (), EXPRESSION, isolated)
        assert check.verdict in ("right", "wrong", "unknown")
        # What a killed one costs on top is the start of the next.
        assert time.perf_counter() - started < LIMIT + 30
    isolated.close()
