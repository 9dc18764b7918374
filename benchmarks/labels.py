"""Checks a second on one core: numbers and options in the caller's own process, and MATH against math-verify called directly.

Run as:  .venv/bin/python benchmarks/labels.py DATA        DATA holds gsm8k/test.jsonl, aqua/test.json and math/test.jsonl

Numbers and options: real reference chains, each with its gold and with that of another question. MATH: golds against themselves
as a model might space them, and against those of other questions. Ours checks the same pairs in a process that can be killed,
with the time limit on; math-verify is called as its README says, in this process, with no limit. All in one run, in turn, other
pairs in every round, after a round of warm-up; the median of several.
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

RUNS, GOLDS_A_ROUND = 5, 500
Pair = tuple[str, str, tuple[str, ...]]


def chains(name: str, file: Path) -> list[Pair]:
    """(chain, gold, choices): each reference with its own gold and with that of its neighbour."""
    questions = read_questions(TaskConfig(name=name, test_file=file), seed=0).held_out
    others = questions[1:] + questions[:1]
    return [(q.reference, gold, q.choices) for q, other in zip(questions, others, strict=True) for gold in (q.gold, other.gold)]


def expressions(file: Path) -> list[list[Pair]]:
    """(chain, gold, ()) in rounds: half of them the same, written otherwise, half of them those of other questions."""
    golds = [q.gold for q in read_questions(TaskConfig(name="math", test_file=file), seed=0).held_out]
    random.Random(0).shuffle(golds)
    rounds = []
    for start in range(0, (RUNS + 1) * GOLDS_A_ROUND, GOLDS_A_ROUND):
        some = golds[start : start + GOLDS_A_ROUND]
        same: list[Pair] = [(rf"The answer is $\boxed{{ {gold} }}$.", gold, ()) for gold in some]
        other: list[Pair] = [
            (rf"The answer is $\boxed{{{other}}}$.", gold, ()) for gold, other in zip(some, some[1:] + some[:1], strict=True)
        ]
        rounds.append(same + other)
    return rounds


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
    assert answer.isolated is not None
    isolated.load(answer.isolated)
    rounds = expressions(data / "math/test.jsonl")
    verdicts = [(ours(pairs, answer, isolated), directly(pairs)) for pairs in rounds[:1]]
    differing = [
        pair for pairs, (a, b) in zip(rounds, verdicts, strict=False) for pair, x, y in zip(pairs, a, b, strict=True) if x != y
    ]
    easy_and_hard = []
    for pairs in rounds[1:]:
        hard = [pair for pair in pairs if answer.compare(answer.extract(pair[0], ()) or "", pair[1], ()) is None]
        easy = [pair for pair in pairs if pair not in hard]
        easy_and_hard.append(
            [seconds(pairs_of_kind, answer, isolated) for pairs_of_kind in (easy, hard)] + [len(easy), len(hard)]
        )
    for what, kinds in (("all", (0, 1)), ("those that need math-verify", (1,))):
        ratios = [sum(r[kind][1] for kind in kinds) / sum(r[kind][0] for kind in kinds) for r in easy_and_hard]
        number = sum(r[2 + kind] for r in easy_and_hard for kind in kinds)
        told = f"{statistics.median(ratios):.2f} x [{min(ratios):.2f}, {max(ratios):.2f}]"
        print(f"math   ours / math-verify directly, checks a second: {told}, {number} pairs, {what}")
    print(
        f"math   verdicts that differ in {len(rounds[0])} pairs: {len(differing)}",
        *(json.dumps(p[:2]) for p in differing),
        sep="\n       ",
    )
    isolated.close()


def seconds(pairs: list[Pair], answer: Answer, isolated: Isolated) -> tuple[float, float]:
    """Of ours, and of math-verify directly."""
    return len(pairs) / per_second(partial(ours, pairs, answer, isolated), len(pairs)), len(pairs) / per_second(
        partial(directly, pairs), len(pairs)
    )


if __name__ == "__main__":
    main()
