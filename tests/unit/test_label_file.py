"""`aft-ray label`: rows come back in order with verdict, extracted and reason; broken ones are told by line."""

import json

import pytest
from typer.testing import CliRunner

from aft_ray.cli import app

ROWS = [
    {"gold": "18", "completion": "The answer is 18.", "note": {"kept": [1, None, "\u00e9"]}},
    {"gold": 18, "completion": "The answer is 17."},
    {"gold": "...\n#### 18", "completion": "I do not know."},
    {"gold": "18", "completion": "The answer is 18. Or", "finish_reason": "length"},
]
BROKEN = [
    ("not json", "2: not JSON"),
    ("[1]", "2: expected a JSON object, found list"),
    ('{"gold": "18"}', "2:completion: expected a text, found nothing"),
    ('{"gold": "18", "completion": null}', "2:completion: expected a text, found None"),
    ('{"gold": "x", "completion": "18"}', "2:gold: not a number: 'x'"),
    ('{"gold": true, "completion": "18"}', "2:gold: expected a number, found True"),
    ('{"gold": NaN, "completion": "18"}', "2: not JSON (NaN is no JSON)"),
    ("\udcff", "2: not JSON"),
]


def label(tmp_path, lines, *arguments):
    (tmp_path / "in.jsonl").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    out = tmp_path / "out.jsonl"
    result = CliRunner().invoke(app, ["label", str(tmp_path / "in.jsonl"), "--out", str(out), *arguments])
    return result, [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else None


def test_rows_come_back_in_order_with_all_their_columns(tmp_path):
    result, rows = label(tmp_path, map(json.dumps, ROWS), "--task", "gsm8k")
    assert result.exit_code == 0
    assert [(row["verdict"], row["extracted"], row["reason"]) for row in rows] == [
        ("right", "18", "right answer"),
        ("wrong", "17", "wrong answer"),
        ("unknown", None, "no answer stated"),
        ("unknown", None, "cut off"),
    ]
    for row, given in zip(rows, ROWS, strict=True):
        assert {name: row[name] for name in given} == given
    assert "1 right, 1 wrong, 2 unknown, 0 broken" in result.stderr


@pytest.mark.parametrize(("line", "told"), BROKEN)
def test_a_broken_row_is_told_by_line_and_the_rest_goes_on(tmp_path, line, told):
    result, rows = label(tmp_path, [json.dumps(ROWS[0]), line, json.dumps(ROWS[1])], "--task", "gsm8k")
    assert result.exit_code == 0
    assert f"in.jsonl:{told}" in result.stderr
    assert [row["verdict"] for row in rows] == ["right", "wrong"]


def test_a_kind_of_answer_that_the_task_would_not_heed_is_refused(tmp_path):
    result, rows = label(tmp_path, map(json.dumps, ROWS), "--task", "gsm8k", "--answer", "expression")
    assert result.exit_code == 2
    assert "--answer and --field are for --task custom" in result.stderr
    assert rows is None


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["{", "[]"], "in.jsonl: none of 2 rows can be labelled, expected"),
        ([], "in.jsonl: no rows, expected"),
        (["", ""], "no rows"),
    ],
)
def test_a_file_of_which_no_row_can_be_labelled_is_refused_and_leaves_no_output(tmp_path, lines, told):
    result, rows = label(tmp_path, lines, "--task", "gsm8k")
    assert result.exit_code == 2
    assert told in result.stderr
    assert rows is None


@pytest.mark.parametrize(
    ("task", "row", "verdict"),
    [
        ("aqua", {"gold": "B", "completion": "Answer: (B)"}, "right"),
        ("aqua", {"gold": "B", "completion": "The answer is 60", "options": ["A)50", "B)60", "C)7", "D)8", "E)9"]}, "right"),
        ("ecqa", {"gold": "A", "completion": "The answer is cake", "choices": [["A", "mess"], ["B", "cake"]]}, "wrong"),
        ("mmlu", {"gold": 2, "completion": "C", "choices": ["a1", "b1", "c1", "d1"]}, "right"),
        ("math", {"gold": r"\frac{1}{2}", "completion": r"\boxed{\frac{2}{4}}"}, "right"),
        ("math", {"gold": r"so $\boxed{x^2}$", "completion": r"\boxed{x^3}"}, "wrong"),
        ("svamp", {"gold": 145.0, "completion": "145"}, "right"),
        ("custom", {"gold": "7", "completion": "#### 7.0"}, "right"),
    ],
)
def test_every_task_labels_its_rows(tmp_path, task, row, verdict):
    result, rows = label(tmp_path, [json.dumps(row)], "--task", task)
    assert result.exit_code == 0, result.output
    assert [found["verdict"] for found in rows] == [verdict]


def test_a_hanging_check_is_unknown_and_costs_no_other_row(tmp_path):
    hanging = {"gold": "7", "completion": r"\boxed{9^{9^{9^{9^9}}}}"}
    good = {"gold": "x^2", "completion": r"\boxed{x \cdot x}"}
    result, rows = label(tmp_path, map(json.dumps, [good, hanging, good]), "--task", "math", "--check-seconds", "1")
    assert result.exit_code == 0
    assert [row["verdict"] for row in rows] == ["right", "unknown", "right"]
    assert rows[1]["reason"] == "check failed: took longer than 1 s"


def test_a_file_that_is_not_there_leaves_no_output(tmp_path):
    result = CliRunner().invoke(
        app, ["label", str(tmp_path / "no.jsonl"), "--task", "gsm8k", "--out", str(tmp_path / "out.jsonl")]
    )
    assert result.exit_code == 2
    assert "no.jsonl: No such file" in result.stderr
    assert list(tmp_path.iterdir()) == []
