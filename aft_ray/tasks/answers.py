"""Kinds of answers: how one is found in a text, and compared with gold, in three outcomes: right, wrong, could not tell."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from aft_ray.isolated import Isolated
from aft_ray.tasks.choices import compare_choices, gold_letter, stated_choice
from aft_ray.tasks.expression_forms import clean, compact
from aft_ray.tasks.expressions import compare_expressions, gold_expression, number_of, stated_expression
from aft_ray.tasks.numbers import compare_numbers, plain_number, stated_number
from aft_ray.tasks.texts import compare_texts, folded, stated_text
from schemas import Verdict

Choices = tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """A kind of answer. `extract` and `compare` are exact, fast and never raise for any text."""

    name: str
    extract: Callable[[str, Choices], str | None]
    """(text, choices) -> the answer that the text states last, None where it states none."""
    compare: Callable[[str, str, Choices], Verdict | None]
    """(extracted, gold, choices) -> verdict; None where it takes `isolated` to tell."""
    read_gold: Callable[[str, Choices], str]
    """(gold as a file states it, choices) -> gold. Raises ValueError where it is none of this kind."""
    statement: str = "The answer is {gold}."
    """How a text states it."""
    isolated: str | None = None
    """module:name(extracted, gold) -> bool | None, which may hang or crash."""


class Check(NamedTuple):
    verdict: Verdict
    extracted: str | None
    reason: str


def _number_gold(gold: str, choices: Choices) -> str:
    return plain_number(gold.rpartition("####")[2])


def _expression_gold(gold: str, choices: Choices) -> str:
    found = gold_expression(gold)
    if not found:
        raise ValueError("no expression")
    return found


def _text_gold(gold: str, choices: Choices) -> str:
    if not gold.strip():
        raise ValueError("no text")
    return gold.strip()


NUMBER = Answer("number", stated_number, compare_numbers, _number_gold)
CHOICE = Answer("choice", stated_choice, compare_choices, gold_letter, statement="The answer is ({gold}).")
EXPRESSION = Answer(
    "expression",
    stated_expression,
    compare_expressions,
    _expression_gold,
    statement=r"The answer is $\boxed{{{gold}}}$.",
    isolated="aft_ray.tasks.equivalence:same_expression",
)
TEXT = Answer("text", stated_text, compare_texts, _text_gold)


def by_function(function: str) -> Answer:
    """The user's own check, module:name(completion, gold) -> True, False, or None where it cannot tell."""
    return Answer("function", _whole, _undecided, _text_gold, isolated=function)


def _whole(text: str, choices: Choices) -> str | None:
    return text


def _undecided(extracted: str, gold: str, choices: Choices) -> None:
    return None


def answer_of_kind(kind: str) -> Answer:
    """By the name that a configuration gives: number, choice, expression, text, or module:name."""
    return {"number": NUMBER, "choice": CHOICE, "expression": EXPRESSION, "text": TEXT}.get(kind) or by_function(kind)


def form_of(extracted: str) -> Fraction | int | str:
    """The same for answers of any kind that are the same: as numbers, or as texts without case, articles and typesetting."""
    text = clean(extracted)
    number = number_of(text)
    return compact(folded(text)) if number is None else number


def check_answer(text: str, gold: str, choices: Choices, answer: Answer, isolated: Isolated) -> Check:
    """Whether the answer that the text states is gold. A check that hangs or crashes could not tell, and says so."""
    extracted = answer.extract(text, choices)
    if extracted is None:
        return Check("unknown", None, "no answer stated")
    verdict = answer.compare(extracted, gold, choices)
    # Of a user's function the whole text is the input, and nothing was extracted.
    shown = None if answer.name == "function" else extracted
    if verdict is None:
        assert answer.isolated is not None
        outcome = isolated.call(answer.isolated, extracted, gold)
        if outcome.failure is not None:
            return Check("unknown", shown, f"check failed: {outcome.failure}")
        verdict = "unknown" if outcome.value is None else "right" if outcome.value else "wrong"
    if verdict == "unknown":
        return Check(verdict, shown, "answer not comparable")
    return Check(verdict, shown, f"{verdict} answer")
