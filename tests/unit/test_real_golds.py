"""Every gold answer of the real data sets against itself, and disturbed: right and wrong, in every single case."""

import re
from fractions import Fraction

import pytest

from aft_ray.config import TaskConfig
from aft_ray.isolated import Isolated
from aft_ray.tasks import TASKS, read_questions
from aft_ray.tasks.answers import check_answer
from aft_ray.tasks.choices import LETTERS
from aft_ray.tasks.numbers import plain_number

FILES = {
    "gsm8k-train": ("gsm8k", "gsm8k/train.jsonl", 7473),
    "gsm8k-test": ("gsm8k", "gsm8k/test.jsonl", 1319),
    "aqua-flan": ("aqua", "aqua/train_flan.tsv", 2728),
    "aqua-dev": ("aqua", "aqua/dev.json", 254),
    "aqua-test": ("aqua", "aqua/test.json", 254),
    "ecqa-train": ("ecqa", "ecqa/joined_train.jsonl", 7598),
    "ecqa-val": ("ecqa", "ecqa/joined_val.jsonl", 1090),
    "ecqa-test": ("ecqa", "ecqa/joined_test.jsonl", 2194),
    "math-test": ("math", "math/test.jsonl", 5000),
    "svamp-test": ("svamp", "svamp/test.jsonl", 1000),
    "mmlu-test": ("mmlu", "mmlu_stem/test.jsonl", 3018),
}
WAYS = {
    "gsm8k": ["#### {}", "The answer is {}.", "Answer: ${}", r"so \boxed{{{}}}"],
    "svamp": ["#### {}", "The answer is {}.", "So there are {} left."],
    "aqua": ["The answer is ({}).", "Answer: {}", "{}", "#### {}", r"\boxed{{{}}}", "The correct option is {}"],
    "math": [r"The answer is $\boxed{{{}}}$."],
}
WAYS |= {"ecqa": WAYS["aqua"], "mmlu": WAYS["aqua"]}


@pytest.fixture(scope="module")
def isolated():
    process = Isolated(5.0)
    yield process
    process.close()


@pytest.fixture(scope="module", params=FILES)
def real(request, shared_data):
    name, file, number = FILES[request.param]
    questions = read_questions(TaskConfig(name=name, test_file=shared_data / file), seed=0).questions
    assert len(questions) == number
    return TASKS[name], questions


def verdicts(stated, question, task, isolated):
    return {
        way: check_answer(way.format(stated), question.gold, question.choices, task.answer, isolated).verdict
        for way in WAYS[task.name]
    }


def test_gold_against_gold_is_right(real, isolated):
    task, questions = real
    for question in questions:
        found = verdicts(question.gold, question, task, isolated)
        assert set(found.values()) == {"right"}, (question.question_id, question.gold, found)


def test_references_state_their_gold(real, isolated):
    task, questions = real
    for question in questions:
        if question.reference is not None:
            check = check_answer(question.reference, question.gold, question.choices, task.answer, isolated)
            # This one says itself that its last box is not its answer.
            expected = "wrong" if question.question_id == "math-test-4061" else "right"
            assert check.verdict == expected, (question.question_id, question.gold, check)


def test_disturbed_golds_are_wrong(real, isolated):
    task, questions = real
    disturb = {"choice": other_options, "number": other_numbers, "expression": other_expressions}[task.answer.name]
    disturbed = 0
    for question in questions:
        for stated in disturb(question):
            found = verdicts(stated, question, task, isolated)
            assert set(found.values()) == {"wrong"}, (question.question_id, question.gold, stated, found)
            disturbed += 1
    assert disturbed > 1.5 * len(questions) * (task.name != "math")


def other_options(question):
    return [letter for letter in LETTERS[: len(question.choices)] if letter != question.gold]


def other_numbers(question):
    value = Fraction(question.gold)
    changed = {value + 1, value - 1, value * 10, -value} - {value}
    return [str(float(v)) if v.denominator != 1 else str(v) for v in changed]


def other_expressions(question):
    """What can be disturbed by its form: plain numbers, fractions, and algebra by adding 1 or turning the sign."""
    gold = question.gold
    try:
        value = Fraction(plain_number(gold))
    except ValueError:
        value = None
    if value is not None:
        return [
            f"{v.numerator}/{v.denominator}" if v.denominator != 1 else str(v) for v in {value + 1, value * 10, -value} - {value}
        ]
    fraction = re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", gold)
    if fraction and fraction[2] != fraction[3]:
        sign = "" if fraction[1] else "-"
        return [rf"{fraction[1]}\frac{{{fraction[3]}}}{{{fraction[2]}}}", rf"{sign}\frac{{{fraction[2]}}}{{{fraction[3]}}}"]
    if re.fullmatch(r"[\w\s^{}+*/-]*(?:\\(?:sqrt|frac|pi)[\w\s^{}+*/-]*)+", gold):
        return [f"{gold}+1", f"-({gold})"]
    return []


@pytest.mark.parametrize(("name", "column"), [("aqua-test", "text"), ("ecqa-test", "text"), ("mmlu-test", "text")])
def test_options_by_their_texts(shared_data, isolated, name, column):
    task_name, file, _ = FILES[name]
    task = TASKS[task_name]
    told = 0
    for question in read_questions(TaskConfig(name=task_name, test_file=shared_data / file), seed=0).questions:
        gold = question.choices[LETTERS.index(question.gold)]
        # An option that is itself called by a letter cannot be told from that letter.
        for choice in (choice for choice in question.choices if len(choice) > 1):
            check = check_answer(f"The answer is {choice}", question.gold, question.choices, task.answer, isolated)
            # A text may hold a full stop, a list or an option's letter: then it cannot be told. Never may it be told falsely.
            assert check.verdict != ("wrong" if choice == gold else "right"), (question.question_id, choice, gold, check)
            told += check.verdict != "unknown"
    print(name, told)
