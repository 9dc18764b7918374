"""Tasks: what they read, what they refuse and how they say so."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from aft_ray.config import FieldsConfig, TaskConfig
from aft_ray.tasks import BadInputError, read_questions
from aft_ray.tasks.arithmetic import generate
from aft_ray.tasks.files import hub_source
from aft_ray.tasks.numbers import compare_numbers, stated_number

GOOD = {"question": "How many are 3 bags of 6?", "answer": "3*6=<<3*6=18>>18\n#### 18"}


def gsm8k(tmp_path, train_lines, test_lines=None):
    files = {}
    for name, lines in (("train", train_lines), ("test", test_lines or [json.dumps(GOOD | {"question": "Held out?"})])):
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    return TaskConfig(name="gsm8k", train_file=files["train"], test_file=files["test"])


def faults_of(config):
    with pytest.raises(BadInputError) as refused:
        read_questions(config, seed=0)
    return refused.value


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        (json.dumps({"answer": "#### 1"}), "question: expected a value, found nothing"),
        (json.dumps(GOOD | {"question": 5}), "question: expected a text, found 5"),
        (json.dumps(GOOD | {"question": " "}), "question: expected a text"),
        (json.dumps(GOOD | {"answer": "18"}), "answer: expected a chain of thought that ends in '#### NUMBER', found no ####"),
        (json.dumps(GOOD | {"answer": "#### eighteen"}), "answer: expected a chain of thought .* found 'eighteen'"),
        (json.dumps(GOOD | {"question": "\ud800"}), "question: .*surrogate"),
        ("\udcff", "not UTF-8"),
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


def test_what_is_held_out_or_stands_twice_is_left_out_of_train_and_counted(tmp_path):
    again = GOOD | {"question": GOOD["question"].upper().replace(" ", "  ")}
    other = GOOD | {"question": "How many are 2 bags of 9?"}
    held_out = [json.dumps(GOOD), json.dumps(GOOD)]
    found = read_questions(gsm8k(tmp_path, [json.dumps(row) for row in (GOOD, again, other, other)], held_out), seed=0)
    assert [question.text for question in found.train] == [other["question"]]
    assert len(found.held_out) == 2
    assert found.counts == {"gsm8k: left out of train, held out as well": 2, "gsm8k: left out of train, twice": 1}


def test_the_same_question_with_two_golds_is_refused(tmp_path):
    error = faults_of(gsm8k(tmp_path, [json.dumps(GOOD), json.dumps(GOOD | {"answer": "#### 19"})]))
    file = tmp_path / "train.jsonl"
    assert error.faults == [f"{file}:2: gold '19', the same question as {file}:1, gold '18'"]


@pytest.mark.parametrize(
    ("answer", "golds", "told"),
    [
        ("number", ["1/2", "0.5", "50%"], []),
        ("number", ["2", 2.0, "3"], [3]),
        ("text", ["Paris", "paris", "the Paris", "Lyon"], [4]),
        ("expression", [r"\frac{1}{2}", "1/2", "0.5", "x/2"], [4]),
        ("expression", ["(x+1)^2", "x^2 + 2x + 1", "x^2 + 2x + 2"], [3]),
        ("math:gcd", ["1/2", "0.5"], [2]),
    ],
)
def test_one_gold_written_in_two_ways_is_no_contradiction(tmp_path, answer, golds, told):
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(json.dumps({"question": "How many?", "gold": gold}) for gold in golds))
    config = TaskConfig(name="custom", train_file=file, answer=answer)
    if told:
        assert [fault.partition(": gold")[0] for fault in faults_of(config).faults] == [f"{file}:{row}" for row in told]
    else:
        assert len(read_questions(config, seed=0).train) == 1


def test_limits_and_references(tmp_path):
    lines = [json.dumps(GOOD | {"question": f"Question {number}?"}) for number in range(10)]
    config = gsm8k(tmp_path, lines).model_copy(update={"train_questions": 6, "references": 4})
    train = read_questions(config, seed=0).train
    assert [question.reference is not None for question in train] == [True] * 4 + [False] * 2


ROWS = {
    "aqua": (
        {
            "question": "How fast?",
            "options": ["A)50 km/h", "B)60 km/h", "C)7", "D)8", "E)9"],
            "rationale": "120/2",
            "correct": "B",
        },
        ("How fast?", ("50 km/h", "60 km/h", "7", "8", "9"), "B", "120/2\nThe answer is (B)."),
    ),
    "ecqa": (
        {"question": "What?", "choices": [["A", "mess"], ["B", "cake"]], "answer": "A", "explanation_flan": "It is."},
        ("What?", ("mess", "cake"), "A", "It is. The answer is (A)."),
    ),
    "math": (
        {"problem": "What?", "solution": "It is $\\boxed{\\frac{1}{2}}$."},
        ("What?", (), "\\frac{1}{2}", "It is $\\boxed{\\frac{1}{2}}$."),
    ),
    "svamp": ({"Body": "There are 3", "Question": "How many?", "Answer": 3.0}, ("There are 3. How many?", (), "3", None)),
    "mmlu": ({"question": "Unit?", "choices": ["J", "N"], "answer": 1}, ("Unit?", ("J", "N"), "B", None)),
}
BAD = {
    "aqua": {"correct": "F"},
    "ecqa": {"answer": "C"},
    "math": {"solution": "It is a half."},
    "svamp": {"Answer": "three"},
    "mmlu": {"answer": 2},
}


@pytest.mark.parametrize("name", ROWS)
def test_every_task_reads_its_rows_and_names_a_broken_field(tmp_path, name):
    row, expected = ROWS[name]
    (tmp_path / "good.jsonl").write_text(json.dumps(row))
    (question,) = read_questions(TaskConfig(name=name, test_file=tmp_path / "good.jsonl"), seed=0).held_out
    assert (question.text, question.choices, question.gold, question.reference) == expected
    (tmp_path / "bad.jsonl").write_text(json.dumps(row | BAD[name]))
    (field,) = BAD[name]
    assert f"bad.jsonl:1:{field}: " in str(faults_of(TaskConfig(name=name, test_file=tmp_path / "bad.jsonl")))


def test_aqua_reads_flan_s_rows(tmp_path):
    file = tmp_path / "train.tsv"
    file.write_text("How fast?\\nOptions:\\n(A) 5\\n(B) 6\\n(C) 7\\n(D) 8\\n(E) 9\t(B)\t120/2\\n= 6\nHow?\t(B)\tso\n")
    error = faults_of(TaskConfig(name="aqua", train_file=file))
    assert error.faults == [f"{file}:2:column1: expected a question, \\nOptions: and five options, found 0"]
    file.write_text(file.read_text().splitlines()[0])
    (question,) = read_questions(TaskConfig(name="aqua", train_file=file), seed=0).train
    assert (question.choices, question.gold) == (("5", "6", "7", "8", "9"), "B")
    assert question.reference == "120/2\n= 6\nThe answer is (B)."


CUSTOM_ROWS = [{"q": f"{number} + 1 = ?", "a": number + 1, "why": f"The answer is {number + 1}."} for number in range(3)]
FIELDS = FieldsConfig(question="q", gold="a", reference="why")


def custom_file(tmp_path, kind):
    if kind == "jsonl":
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, CUSTOM_ROWS)))
        return tmp_path / "rows.jsonl"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(CUSTOM_ROWS), tmp_path / "rows.parquet")
        return tmp_path / "rows.parquet"
    if kind == "saved":
        Dataset.from_list(CUSTOM_ROWS).save_to_disk(tmp_path / "saved")
        return tmp_path / "saved"
    folder = tmp_path / "hub"
    folder.mkdir()
    more = [{"q": "not asked", "a": 0, "why": ""}] if kind == "slice" else []
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, [*CUSTOM_ROWS, *more])))
    return Path(f"hf:{folder}:train[:{len(CUSTOM_ROWS)}]" if more else f"hf:{folder}:train")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved", "hub", "slice"])
def test_custom_rows_come_from_any_kind_of_file(tmp_path, kind):
    config = TaskConfig(name="custom", called="sums", train_file=custom_file(tmp_path, kind), fields=FIELDS)
    found = read_questions(config, seed=0)
    assert [(q.task, q.text, q.gold, q.reference) for q in found.train] == [
        ("sums", row["q"], str(row["a"]), row["why"]) for row in CUSTOM_ROWS
    ]
    assert found.train[0].question_id == "sums-train-1"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("hf:openai/gsm8k/main:train", ("openai/gsm8k", "main", "train")),
        ("hf:squad:validation[10%:20%]+train[:5]", ("squad", None, "validation[10%:20%]+train[:5]")),
    ],
)
def test_a_dataset_of_the_hub_is_named_with_its_split(name, source):
    assert hub_source(name) == source


@pytest.mark.parametrize("name", ["hf:squad", "hf::train", "hf:squad:", "hf:squad:train[:80"])
def test_a_name_without_a_split_is_refused(name):
    with pytest.raises(ValueError, match="expected hf:NAME:SPLIT"):
        hub_source(name)


@pytest.mark.parametrize(
    ("row", "settings", "told"),
    [
        ({"q": "?", "a": "five"}, {}, "a: not a number: 'five'"),
        ({"q": "?"}, {}, "a: expected a value, found nothing; the row has q"),
        ({"q": 5, "a": 5}, {}, "q: expected a text, found 5"),
        ({"q": "?", "a": 5, "why": 7}, {}, "why: expected a text, found 7"),
        ({"q": "?", "a": "C", "o": ["x", "y"]}, {"answer": "choice"}, "a: not an option: 'C'"),
        ({"q": "?", "a": "A", "o": "x"}, {"answer": "choice"}, "o: expected a list of 2 to 26 options, found 'x'"),
    ],
)
def test_custom_faults_are_named_by_the_users_fields(tmp_path, row, settings, told):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    fields = FIELDS.model_copy(update={"choices": "o"} if settings else {})
    assert faults_of(TaskConfig(name="custom", train_file=file, fields=fields, **settings)).faults == [f"{file}:1:{told}"]


def test_a_mixture_reads_all_its_parts(tmp_path):
    first = gsm8k(tmp_path, [json.dumps(GOOD)])
    second = TaskConfig(name="arithmetic", train_questions=0, test_questions=5)
    found = read_questions(TaskConfig(name="mixture", parts=(first, second)), seed=0)
    assert [(q.task, q.split) for q in found.questions] == [("gsm8k", "train"), ("gsm8k", "test")] + [("arithmetic", "test")] * 5


def test_golds_of_two_kinds_of_answers_contradict_each_other_as_they_are_written(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text(json.dumps({"question": GOOD["question"], "gold": "eighteen"}))
    texts = TaskConfig(name="custom", test_file=file, answer="text")
    numbers = gsm8k(tmp_path, [json.dumps(GOOD)])
    for parts in ((numbers, texts), (texts, numbers)):
        (fault,) = faults_of(TaskConfig(name="mixture", parts=parts)).faults
        assert f"{file}:1" in fault
        assert f"{numbers.train_file}:1" in fault


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
        assert compare_numbers(stated_number(question.reference), question.gold) == "right"


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
