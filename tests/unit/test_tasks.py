"""Tasks: what they read, what they refuse and how they say so."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aft_ray.config import TaskConfig
from aft_ray.tasks import TASKS, BadInputError, read_questions
from aft_ray.tasks.arithmetic import generate

GOOD = {"question": "How many are 3 bags of 6?", "answer": "3*6=<<3*6=18>>18\n#### 18"}


def gsm8k(tmp_path, train_lines, test_lines=None):
    files = {}
    for name, lines in (("train", train_lines), ("test", test_lines or [json.dumps(GOOD | {"question": "Held out?"})])):
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("\n".join(lines))
    return TaskConfig(name="gsm8k", train_file=files["train"], test_file=files["test"])


def faults_of(config):
    with pytest.raises(BadInputError) as refused:
        read_questions(config, seed=0)
    return refused.value


def test_gsm8k_reads_what_openai_publishes(shared_data):
    config = TaskConfig(name="gsm8k", train_file=shared_data / "gsm8k/train.jsonl", test_file=shared_data / "gsm8k/test.jsonl")
    questions = read_questions(config, seed=0)
    assert len(questions) == 7473 + 1319
    task = TASKS["gsm8k"]
    assert all(task.compare(task.extract(question.reference), question.gold) == "right" for question in questions)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        (json.dumps({"answer": "#### 1"}), "question: expected a text, found nothing"),
        (json.dumps(GOOD | {"question": 5}), "question: expected a text, found 5"),
        (json.dumps(GOOD | {"question": " "}), "question: expected a text"),
        (json.dumps(GOOD | {"answer": "18"}), "answer: expected a chain of thought that ends in '#### NUMBER', found no ####"),
        (json.dumps(GOOD | {"answer": "#### eighteen"}), "answer: expected a chain of thought .* found 'eighteen'"),
        (json.dumps(GOOD | {"question": "\ud800"}), "question: .*surrogate"),
        (json.dumps(GOOD), "question: the same as line 1"),
    ],
)
def test_a_fault_is_named_by_file_line_and_field(tmp_path, line, field):
    error = faults_of(gsm8k(tmp_path, [json.dumps(GOOD), "", line]))
    assert len(error.faults) == 1
    assert re.search(rf"train\.jsonl:3:? ?{field}", str(error))


def test_the_first_20_faults_are_shown_and_all_are_counted(tmp_path):
    error = faults_of(gsm8k(tmp_path, ["{"] * 30, ["["] * 5))
    assert len(error.faults) == 35
    assert str(error).count(".jsonl:") == 20
    assert "35 faults" in str(error)


def test_missing_and_empty_files_are_refused(tmp_path):
    config = gsm8k(tmp_path, [])
    assert "no questions" in str(faults_of(config))
    config.train_file.unlink()
    assert "cannot be read" in str(faults_of(config))


def test_a_question_in_both_files_is_refused(tmp_path):
    assert "held out" in str(faults_of(gsm8k(tmp_path, [json.dumps(GOOD)], [json.dumps(GOOD)])))


def test_limits_and_references(tmp_path):
    lines = [json.dumps(GOOD | {"question": f"Question {number}?"}) for number in range(10)]
    config = gsm8k(tmp_path, lines).model_copy(update={"train_questions": 6, "references": 4})
    train = [question for question in read_questions(config, seed=0) if question.split == "train"]
    assert [question.reference is not None for question in train] == [True] * 4 + [False] * 2


@given(seed=st.integers(0, 2**32 - 1), difficulty=st.integers(1, 6))
def test_arithmetic_references_are_right_by_every_step(seed, difficulty):
    for question in generate("train", 10, seed, difficulty):
        equations = re.findall(r"([\d+*-]+)=(-?\d+)\.", question.reference)
        assert equations
        for left, right in equations:
            total = sum(  # products before sums, without eval
                sign * product
                for sign, product in (
                    (-1 if sign == "-" else 1, int(a) * int(b or 1))
                    for sign, a, b in re.findall(r"([+-]?)(\d+)(?:\*(\d+))?", left)
                )
            )
            assert total == int(right)
        assert equations[-1][1] == question.gold
        assert TASKS["arithmetic"].compare(TASKS["arithmetic"].extract(question.reference), question.gold) == "right"


def test_arithmetic_splits_are_disjoint_and_seeds_repeat():
    train = {question.text for seed in range(3) for question in generate("train", 300, seed, 1)}
    validation = {question.text for question in generate("validation", 300, 0, 1)}
    test = {question.text for question in generate("test", 300, 0, 1)}
    assert len(train | validation | test) == len(train) + len(validation) + len(test)
    assert list(generate("test", 20, 5, 2)) == list(generate("test", 20, 5, 2))
    assert list(generate("test", 20, 5, 2)) != list(generate("test", 20, 6, 2))


def test_arithmetic_admits_several_styles_of_right_chains():
    steps = {question.reference.count("=") for question in generate("train", 100, 0, 2)}
    assert 1 in steps
    assert max(steps) >= 4
