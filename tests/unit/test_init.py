"""A job file from a stranger's questions: what the columns and golds are taken for, and that the job is what it says."""

import json
import re
import shlex
import shutil
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from aft_ray.cli import BAD_INPUT, app, load_job
from aft_ray.preflight import check_references
from aft_ray.tasks import BadInputError, read_questions

ROWS = {
    "number": {"problem": "What is 2 + {n}?", "answer": "{m}", "solution": "2 + {n} = {m}. The answer is {m}."},
    "text": {"question": "Which letter is number {n}?", "target": "the {w}"},
    "expression": {"question": "Half of {n}?", "answer": "x^{{{n}}} + 1"},
    "choice": {"question": "Which is {n}?", "options": ["one", "{n}"], "answer": "B"},
    "gsm8k": {"question": "What is 2 + {n}?", "answer": "2 + {n} = <<2+{n}={m}>>{m}\n#### {m}"},
}


def questions(folder: Path, kind: str, number: int = 50, first: int = 3) -> Path:
    def filled(value, n):
        return [filled(v, n) for v in value] if isinstance(value, list) else value.format(n=n, m=n + 2, w="abcdefghij"[n % 10])

    file = folder / "mine.jsonl"
    rows = [{name: filled(value, n) for name, value in ROWS[kind].items()} for n in range(first, first + number)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments) -> str:
    told = CliRunner().invoke(app, ["init", *map(str, arguments)], env={"COLUMNS": "200"})
    assert told.exit_code == 0, told.output
    return told.output


def refused(*arguments) -> str:
    told = CliRunner().invoke(app, ["init", *map(str, arguments)], env={"COLUMNS": "300"})
    assert told.exit_code == BAD_INPUT, told.output
    return told.output


@pytest.mark.parametrize("kind", ROWS)
def test_a_job_for_fifty_questions(kind, here, tiny_llama):
    file = questions(here, kind)
    told = init(file.name, "--model", tiny_llama)
    job = load_job(here / "job.py")
    assert job.name == "mine"
    (command,) = re.findall(r"^Next: aft-ray (.*)$", told, re.MULTILINE)
    checked = CliRunner().invoke(app, shlex.split(command))
    assert checked.exit_code == 0, checked.output
    assert "40 training questions" in checked.output
    assert "10 held out" in checked.output
    assert job.model.path.resolve() == tiny_llama
    assert (job.task.name, job.task.answer) == (("gsm8k", "number") if kind == "gsm8k" else ("custom", kind))
    found = read_questions(job.task, 0)
    assert (len(found.train), len(found.held_out)) == (40, 10)
    texts = {question.text for question in found.train}
    assert not texts & {question.text for question in found.held_out}
    if kind in ("number", "gsm8k"):
        assert all(question.reference for question in found.train)
        assert {question.gold for question in found.held_out} == {str(n + 2) for n in range(7, 53, 5)}


@pytest.mark.parametrize("kind", ROWS)
def test_without_references_the_base_model_is_sampled_and_aligned(kind, here, tiny_llama):
    told = init(questions(here, kind), "--model", tiny_llama)
    job = load_job(here / "job.py")
    expected = "vft" if kind in ("number", "gsm8k") else "base"
    assert (job.sampling.sample_from, job.alignment.start_from) == (expected, expected)
    assert ("No training question has a reference" in told) == (expected == "base")
    with nullcontext() if expected == "vft" else pytest.raises(BadInputError):
        check_references(read_questions(job.task, 0).train)


@pytest.mark.parametrize("clean", ["final_answer", "target"])
def test_a_column_of_sentences_is_a_reference_where_a_clean_one_stands_beside_it(clean, here, tiny_llama):
    rows = [
        {"question": f"What is {n} + 2?", "answer": f"{n} + 2 = {n + 2} in all. The answer is {n + 2}.", clean: n + 2}
        for n in range(50)
    ]
    (here / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    init("mine.jsonl", "--model", tiny_llama)
    task = load_job(here / "job.py").task
    assert (task.answer, task.fields.gold, task.fields.reference) == ("number", clean, "answer")
    first = read_questions(task, 0).train[0]
    assert (first.gold, first.reference) == ("2", rows[0]["answer"])


def test_a_solution_that_ends_in_a_box_is_a_gold(here, tiny_llama):
    golds = [f"We add {n} and x to a sum. It is $\\boxed{{{n} + x}}$." for n in range(9)]
    assert kind_of(golds, here, tiny_llama) == "expression"


def test_a_sentence_is_no_expression(here, tiny_llama):
    assert kind_of([f"We find that x = {n} holds." for n in range(9)], here, tiny_llama) == "text"


def test_names_of_the_hub_stay_as_they_are(here, tiny_llama):
    for split, first in (("train", 3), ("test", 90)):
        (here / "hub").mkdir(exist_ok=True)
        questions(here, "number", first=first).rename(here / "hub" / f"{split}.jsonl")
    train, test = f"hf:{here / 'hub'}:train[:40]", f"hf:{here / 'hub'}:test"
    assert "--test hf:NAME:test" in refused(train, "--model", tiny_llama)
    init(train, "--test", test, "--model", tiny_llama)
    job = load_job(here / "job.py")
    assert (str(job.task.train_file), str(job.task.test_file)) == (train, test)
    assert job.name.endswith("hub-train-40-")
    assert sorted(path.name for path in here.iterdir()) == ["hub", "job.py"]
    found = read_questions(job.task, 0)
    assert (len(found.train), len(found.held_out)) == (40, 50)


def test_columns_that_are_not_read_may_hold_anything(here, tiny_llama):
    of_any_kind = {"when": datetime(2026, 1, 2), "seen": b"\xff", "note": "zwölf"}
    rows = [{"question": f"What is 2 + {n}?", "gold": n + 2, **of_any_kind} for n in range(9)]
    pq.write_table(pa.Table.from_pylist(rows), here / "mine.parquet")
    init("mine.parquet", "--model", tiny_llama)
    surrogates = [json.dumps({"question": row["question"], "gold": 2, "note": "a \ud800 b"}) for row in rows]
    (here / "other.jsonl").write_text("\n".join(surrogates))
    init("other.jsonl", "--model", tiny_llama, "--out", "other.py")
    for job in ("job.py", "other.py"):
        assert len(read_questions(load_job(here / job).task, 0).held_out) == 1
    assert '"when": "2026-01-02 00:00:00"' in (here / "mine.train.jsonl").read_text()
    assert json.loads((here / "other.test.jsonl").read_text()) == json.loads(surrogates[4])


def kind_of(golds, here, model) -> str:
    rows = [{"question": f"What is number {number}?", "gold": gold} for number, gold in enumerate(golds)]
    (here / "golds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    init("golds.jsonl", "--model", model)
    return load_job(here / "job.py").task.answer


@pytest.mark.parametrize(
    ("kind", "golds"),
    [
        ("text", ["Apollo 11", "12 May 1990", "Route 66", "7 and/or 8", "T-34 tanks", "H"]),
        ("text", ["A", "B", "C", "D", "(E)"]),
        ("text", ["Москва 1", "東京 23", "zwölf 12", "Henry VIII", "50 km/h"]),
        ("expression", ["x+1", r"\frac{1}{2}", r"2\pi", "(3, 4)", "2ab", r"\text{Friday}"]),
        ("expression", ["sqrt(3)/2", "3x - 4", "y = 12", "area^2 + 1", "12:30"]),
        ("expression", ["5 cm", "18 minutes", "2.5 kg", "300 meters", "7 miles"]),
        ("number", ["1,200", "1/2", "12%", "-3.5", "$5"]),
    ],
)
def test_a_digit_alone_makes_no_expression_of_a_text(kind, golds, here, tiny_llama):
    assert kind_of(golds, here, tiny_llama) == kind


def test_the_folder_can_be_moved(here, tiny_llama):
    questions(here / "..", "number").rename(here / "mine.jsonl")
    init("mine.jsonl", "--model", tiny_llama)
    moved = here.parent / f"{here.name}-moved"
    here.rename(moved)
    assert len(read_questions(load_job(moved / "job.py").task, 0).train) == 40


def test_held_out_questions_of_a_file_of_their_own(here, tiny_llama):
    file = questions(here, "text", 7, first=90)
    test = file.rename(here / "test.jsonl")
    init(questions(here, "text", 9), "--test", test, "--model", tiny_llama, "--out", "other.py")
    found = read_questions(load_job(here / "other.py").task, 0)
    assert (len(found.train), len(found.held_out)) == (9, 7)
    assert sorted(path.name for path in here.iterdir()) == ["mine.jsonl", "other.py", "test.jsonl"]


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ("nosuch.jsonl", "nosuch.jsonl: cannot be read (No such file or directory)"),
        ("empty.jsonl", "empty.jsonl: no questions"),
        ("other.jsonl", "other.jsonl:2:answer: expected a value, found nothing; the row has problem"),
        ("mine.jsonl", "mine.jsonl: all of its questions are held out in mine.jsonl as well"),
        ("copy.jsonl", "mine.jsonl: all of its questions are held out in copy.jsonl as well"),
    ],
)
def test_held_out_questions_that_would_be_refused_later_are_refused_now(test, told, here, tiny_llama):
    shutil.copy(questions(here, "number"), here / "copy.jsonl")
    (here / "empty.jsonl").touch()
    (here / "other.jsonl").write_text('\n{"problem": "2 + 2?"}')
    assert told in refused("mine.jsonl", "--model", tiny_llama, "--test", test)
    assert not (here / "job.py").exists()


def test_a_folder_without_a_model_is_refused(here):
    (here / "no_model").mkdir()
    assert "config.json: not there, expected a Hugging Face model directory" in refused(
        questions(here, "number"), "--model", "no_model"
    )
    assert sorted(path.name for path in here.iterdir()) == ["mine.jsonl", "no_model"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (['{"q": "?", "gold": "1"}'] * 9, "no column called question, problem"),
        (['{"question": "?", "why": "1"}'] * 9, "no column called gold, final_answer"),
        (['{"question": "2 + 2?", "gold": "4"}'] * 3, "3 rows are too few"),
        (['{"question": "2 + 2?", "gold": 4}'] * 8 + ['{"question": "2?", "gold": null}'], "mine.jsonl:9:gold"),
        (["", *['{"question": "2 + 2?", "gold": 4}'] * 8, "{}"], "mine.jsonl:10:question: expected a value"),
        (['{"question": "2 + 2?", "gold": 4}'] * 8 + ['{"question": "2 + 2?", "gold": 5}'], "the same question as"),
        (
            ['{"question": "2 + 2?", "answer": "2 + 2 = 4. The answer is 4."}'] * 9,
            "answer holds chains of sentences, as in '2 + 2 = 4.",
        ),
        (["no json"], "mine.jsonl:1"),
        ([], "no rows"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(rows, told, here, tiny_llama):
    (here / "mine.jsonl").write_text("\n".join(rows))
    assert told in refused("mine.jsonl", "--model", tiny_llama)
    assert [path.name for path in here.iterdir()] == ["mine.jsonl"]


def test_files_that_are_there_are_never_overwritten(here, tiny_llama):
    questions(here, "number")
    (here / "mine.test.jsonl").write_text("mine")
    refused("mine.jsonl", "--model", tiny_llama)
    assert (here / "mine.test.jsonl").read_text() == "mine"
    assert not (here / "job.py").exists()


def test_any_name_of_a_file_makes_a_name_of_a_run(here, tiny_llama):
    questions(here, "number").rename(here / "_my questions (1).jsonl")
    init("_my questions (1).jsonl", "--model", tiny_llama)
    assert load_job(here / "job.py").name == "my-questions-1-"


def test_a_job_file_that_is_there_is_left_alone(here, tiny_llama):
    questions(here, "number")
    (here / "job.py").write_text("mine")
    refused("mine.jsonl", "--model", tiny_llama)
    assert (here / "job.py").read_text() == "mine"
