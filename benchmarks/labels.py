"""Checks a second on one core: numbers and options in the caller's own process, and MATH against math-verify called directly.

Run as:  .venv/bin/python benchmarks/labels.py DATA        DATA holds gsm8k/test.jsonl, aqua/test.json and math/test.jsonl

Numbers and options: real reference chains, each with its gold and with that of another question. MATH: golds against themselves
as a model might write them otherwise (spaces, a fraction as a quotient), and against those of other questions. Ours checks the
same pairs in a process that can be killed, with the time limit on. math-verify is called as its README says, in this process,
with no time limit: what it would take to call it alone. All in one run, in turn, after a warm-up; the median of several.
"""

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from math_verify import parse, verify

from aft_ray.config import TaskConfig
from aft_ray.isolated import Isolated
from aft_ray.tasks import TASKS, read_questions
from aft_ray.tasks.answers import Answer, check_answer

RUNS, MATH_PAIRS = 5, 400
Pair = tuple[str, str, tuple[str, ...]]


def chains(name: str, file: Path) -> list[Pair]:
    """(chain, gold, choices): each reference with its own gold and with that of its neighbour."""
    questions = read_questions(TaskConfig(name=name, test_file=file), seed=0).held_out
    others = questions[1:] + questions[:1]
    return [(q.reference, gold, q.choices) for q, other in zip(questions, others, strict=True) for gold in (q.gold, other.gold)]


def expressions(file: Path) -> list[Pair]:
    """(boxed expression, gold, ()): half of them the same, written otherwise, half of them those of other questions."""
    golds = [q.gold for q in read_questions(TaskConfig(name="math", test_file=file), seed=0).held_out]
    random.Random(0).shuffle(golds)
    golds = golds[: MATH_PAIRS // 2]
    same = [(rf"The answer is $\boxed{{ {gold} }}$.", gold, ()) for gold in golds]
    return same + [
        (rf"The answer is $\boxed{{{other}}}$.", gold, ()) for gold, other in zip(golds, golds[1:] + golds[:1], strict=True)
    ]


def ours(pairs: list[Pair], answer: Answer, isolated: Isolated) -> list[str]:
    return [check_answer(text, gold, choices, answer, isolated).verdict for text, gold, choices in pairs]


def directly(pairs: list[Pair]) -> list[str]:
    return ["right" if verify(read(f"${gold}$"), read(text), timeout_seconds=None) else "wrong" for text, gold, _ in pairs]


def read(text: str) -> list[Any]:
    return parse(text, parsing_timeout=None)


def per_second(work: Callable[[], list[str]], size: int) -> float:
    started = time.perf_counter()
    work()
    return size / (time.perf_counter() - started)


def main() -> None:
    data = Path(sys.argv[1])
    isolated = Isolated(5.0)
    print(f"checks a second on one core, median of {RUNS} [min, max]")
    for name, file in (("gsm8k", "gsm8k/test.jsonl"), ("aqua", "aqua/test.json")):
        pairs = chains(name, data / file)
        rates = [per_second(partial(ours, pairs, TASKS[name].answer, isolated), len(pairs)) for _ in range(RUNS + 1)][1:]
        mean = sum(len(text) for text, _, _ in pairs) / len(pairs)
        told = f"{statistics.median(rates):8,.0f}/s [{min(rates):,.0f}, {max(rates):,.0f}]"
        print(f"{name:6} {told}, chains of {mean:.0f} characters")
    answer = TASKS["math"].answer
    pairs = expressions(data / "math/test.jsonl")
    hard = [
        (text, gold, choices) for text, gold, choices in pairs if answer.compare(answer.extract(text, ()) or "", gold, ()) is None
    ]
    for what, some in (("all", pairs), ("those that need math-verify", hard)):
        ratios = [ratio(some, answer, isolated) for _ in range(RUNS + 1)][1:]
        told = f"{statistics.median(ratios):.2f} x [{min(ratios):.2f}, {max(ratios):.2f}]"
        print(f"math   ours / math-verify directly: {told}, {len(some)} pairs, {what}")
    differing = [pair for pair, a, b in zip(pairs, ours(pairs, answer, isolated), directly(pairs), strict=True) if a != b]
    print(f"math   verdicts that differ: {len(differing)}", *(json.dumps(pair[:2]) for pair in differing[:10]), sep="\n       ")
    isolated.close()


def ratio(pairs: list[Pair], answer: Answer, isolated: Isolated) -> float:
    """Of the rates; nothing is remembered from the round before."""
    isolated.close()
    assert answer.isolated is not None
    isolated.load(answer.isolated)
    clear_caches()
    return per_second(lambda: ours(pairs, answer, isolated), len(pairs)) / per_second(lambda: directly(pairs), len(pairs))


def clear_caches() -> None:
    from aft_ray.tasks import expressions, numbers

    for function in (expressions.canonical, expressions.gold_expression, numbers.plain_number, numbers.value):
        function.cache_clear()


if __name__ == "__main__":
    main()
