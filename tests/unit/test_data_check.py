"""The look before anything is spent: what `aft-ray check` tells, and what a run refuses."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from aft_ray.cli import app, run_job
from aft_ray.config import LabellingConfig, ModelConfig, PromptConfig, RunConfig, TaskConfig
from aft_ray.data_check import check_questions
from aft_ray.run import Run
from aft_ray.tasks import BadInputError


def gsm8k_row(number, answer=None):
    return {"question": f"What is {number} and 1?", "answer": answer or f"{number}+1={number + 1}\n#### {number + 1}"}


def write(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def check(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_a_report_has_lengths_doubles_overlap_golds_and_five_examples(tmp_path, tiny_llama):
    train = write(tmp_path / "train.jsonl", [gsm8k_row(n) for n in [*range(20), 7, 30]])
    test = write(tmp_path / "test.jsonl", [gsm8k_row(n) for n in (30, 31)])
    result = check(train, "--task", "gsm8k", "--test", test, "--model", tiny_llama, "--max-prompt-tokens", "10")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "gsm8k: 20 training questions (20 with reference), 2 held out"
    assert "  left out of train, held out as well: 1" in lines
    assert "  left out of train, twice: 1" in lines
    assert "  gold accepted by the task's own check: 22 of 22" in lines
    assert "  references that state the gold answer: 22 of 22" in lines
    (prompts,) = [line for line in lines if line.startswith("  prompt tokens: p50 ")]
    assert prompts.endswith("over 10, not asked: 22")
    (references,) = [line for line in lines if line.startswith("  reference tokens: p50 ")]
    assert references.endswith("over 1024 with prompt, left out: 0")
    assert result.output.count("Question: What is ") == 5
    assert "<s>Question: What is 0 and 1?\nAnswer: 0+1=1\n#### 1</s>" in result.output


def test_lengths_are_those_of_the_tokenizer(tmp_path, tiny_llama):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    rows = [{"question": "How many? " * number, "answer": "#### 3"} for number in range(1, 102)]
    file = write(tmp_path / "train.jsonl", rows)
    lengths = sorted(len(tokenizer(f"Question: {row['question'].strip()}\nAnswer:")["input_ids"]) for row in rows)
    result = check(file, "--task", "gsm8k", "--model", tiny_llama, "--max-prompt-tokens", lengths[60])
    expected = f"prompt tokens: p50 {lengths[50]:,}, p99 {lengths[99]:,}, max {lengths[100]:,}; over {lengths[60]}, not asked: 40"
    assert expected in result.output


def test_all_faults_are_told_by_file_line_and_field(tmp_path):
    file = write(tmp_path / "train.jsonl", [gsm8k_row(1), "{", {"question": "How many?", "answer": "18"}])
    result = check(file, "--task", "gsm8k")
    assert result.exit_code == 2
    assert "2 faults in the input" in result.output
    assert f"{file}:2: not JSON" in result.output
    assert f"{file}:3:answer: expected a chain of thought that ends in '#### NUMBER'" in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--field", "solution=gold"), "solution: Extra inputs are not permitted"),
        (("--field", "gold"), "gold: String should have at least 1 character"),
        (("--answer", "essay"), "answer"),
        (("--answer", "choice"), "answer choice needs fields.choices"),
        (("--model", "nowhere"), "nowhere"),
        (("--model", "no_model"), "no_model: no tokenizer that can be loaded"),
        (("--model", "broken_model"), "broken_model: no tokenizer that can be loaded"),
        (("--few-shot", "3"), "task custom: fewer than prompt.few_shot = 3 training questions with reference"),
    ],
)
def test_wrong_settings_are_told_without_a_traceback(tmp_path, tiny_llama, arguments, told, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, files in (("no_model", []), ("broken_model", ["config.json", "tokenizer_config.json", "tokenizer.json"])):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text((tiny_llama / file).read_text().replace("vocab", "vacob"))
    file = write(tmp_path / "mine.jsonl", [{"question": "What?", "gold": 1}])
    result = check(file, "--task", "custom", "--model", tiny_llama, *arguments)
    assert result.exit_code == 2, result.exception
    assert told in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--task", "arithmetic"), "arithmetic makes its questions from a seed and reads no file"),
        (("--task", "gsm8k", "--chat"), "--chat, --few-shot and limits in tokens need --model"),
        (("--task", "gsm8k", "--few-shot", "1"), "--chat, --few-shot and limits in tokens need --model"),
        (("--task", "gsm8k", "--max-tokens", "100"), "--chat, --few-shot and limits in tokens need --model"),
        (("--task", "gsm8k", "--answer", "expression"), "--answer and --field are for --task custom"),
        (("--task", "gsm8k", "--field", "gold=solution"), "--answer and --field are for --task custom"),
    ],
)
def test_what_would_be_left_out_silently_is_refused(tmp_path, arguments, told):
    result = check(write(tmp_path / "train.jsonl", [gsm8k_row(1), gsm8k_row(2)]), *arguments)
    assert result.exit_code == 2
    assert told in result.output


def test_examples_of_ones_own_rows(tmp_path):
    rows = [{"q": f"What is {n}?", "right": n, "options": ["a [red] apple", "pears"]} for n in (0, 1)]
    file = write(tmp_path / "mine.jsonl", rows)
    fields = [part for field in ("question=q", "gold=right", "choices=options") for part in ("--field", field)]
    result = check(file, "--task", "custom", "--answer", "choice", *fields)
    assert result.exit_code == 0, result.output
    assert "Question: What is 1?\nOptions:\n(A) a [red] apple\n(B) pears\nAnswer:" in result.output
    assert "gold B" in result.output


def refused(config, **labelling):
    with pytest.raises(BadInputError) as error:
        check_questions(config, 0, None, PromptConfig(), LabellingConfig(**labelling))
    return error.value.faults


def custom(tmp_path, rows, answer="number"):
    file = write(tmp_path / "mine.jsonl", rows)
    return TaskConfig(name="custom", train_file=file, answer=answer)


def test_references_that_do_not_state_their_gold_are_refused(tmp_path):
    rows = [{"question": f"{n}+1?", "gold": n + 1, "reference": f"The answer is {n + 1}."} for n in range(20)]
    check_questions(custom(tmp_path, rows), 0, None, PromptConfig(), LabellingConfig())
    rows[:3] = [row | {"reference": "Just count.\nI did."} for row in rows[:3]]
    faults = refused(custom(tmp_path, rows))
    assert faults[0].startswith("3 of 20 references of task custom do not state the gold answer, expected one as in")
    assert faults[1] == f"{tmp_path / 'mine.jsonl'}:1: reference no answer stated, gold is '1'"


def test_a_function_that_cannot_be_imported_is_refused(tmp_path):
    config = custom(tmp_path, [{"question": "1+1?", "gold": 2}], answer="nowhere_to_be_found:check")
    (fault,) = refused(config)
    assert "nowhere_to_be_found" in fault
    (fault,) = refused(custom(tmp_path, [{"question": "1+1?", "gold": 2}]), reward="math:no_such_reward")
    assert "no_such_reward" in fault


def test_a_run_looks_first_and_leaves_nothing_behind(tmp_path, tiny_llama):
    train = write(tmp_path / "train.jsonl", [gsm8k_row(1), gsm8k_row(2, "#### two")])
    test = write(tmp_path / "test.jsonl", [gsm8k_row(3)])
    config = RunConfig(
        name="mine",
        runs_dir=tmp_path / "runs",
        model=ModelConfig(path=tiny_llama, precision="fp32"),
        task=TaskConfig(name="gsm8k", train_file=train, test_file=test),
    )
    with pytest.raises(BadInputError, match=r"train\.jsonl:2:answer: "):
        Run(config, Console())
    with pytest.raises(SystemExit) as exit_status:
        run_job(config, [])
    assert exit_status.value.code == 2
    assert not (tmp_path / "runs").exists()
