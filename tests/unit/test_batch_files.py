"""Batch files: the requests that are written, and real answers to them.

vllm_batch_output.jsonl is what vLLM 0.32 made of the requests of JOB (k 3, max_new_tokens 24, as docs/candidates.md says it, with
tiny_llama), the prompt of the last made too long for it.
"""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from transformers import AutoTokenizer
from typer.testing import CliRunner

from aft_ray.cli import BAD_INPUT, app
from aft_ray.config import ModelConfig, PromptConfig, RunConfig, SamplingConfig, TaskConfig
from aft_ray.sampling.batch_files import plain_template
from aft_ray.sampling.given import read_given
from aft_ray.tasks import read_questions
from tests.conftest import ROOT, tokenized

ANSWERED = Path(__file__).parent / "vllm_batch_output.jsonl"
K, LENGTH = 3, 24
JOB = RunConfig(
    name="batch",
    model=ModelConfig(path=ROOT / "jobs" / "tiny_llama"),
    task=TaskConfig(name="arithmetic", difficulty=1, train_questions=4, test_questions=3),
    sampling=SamplingConfig(k=K, max_new_tokens=LENGTH),
)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def train(tokenizer):
    return tokenized(read_questions(JOB.task, JOB.seed).train, tokenizer)


def requested(folder: Path, job: RunConfig, *more: str) -> list[dict]:
    (folder / "job.json").write_text(job.model_dump_json())
    told = CliRunner().invoke(app, ["requests", str(folder / "job.json"), "--out", str(folder / "batch.jsonl"), *more])
    assert told.exit_code == 0, told.output
    return [json.loads(line) for line in (folder / "batch.jsonl").read_text().splitlines()]


def read(folder: Path, lines: list[dict], questions, tokenizer):
    file, told = folder / "chains.jsonl", io.StringIO()
    file.write_text("\n".join(map(json.dumps, lines)))
    return read_given(file, questions, tokenizer, False, Console(file=told, width=300)), told.getvalue()


def test_a_request_asks_for_what_the_run_would_sample(tmp_path, train, tokenizer):
    lines = requested(tmp_path, JOB, "--sampling.temperature", "0.7", "--model", "large")
    assert [line["custom_id"] for line in lines] == [question.question_id for question in train]
    for line, question in zip(lines, train, strict=True):
        (message,) = line["body"]["messages"]
        assert tuple(tokenizer(message["content"])["input_ids"]) == question.prompt_ids
        assert (line["body"]["n"], line["body"]["max_completion_tokens"], line["body"]["temperature"]) == (K, LENGTH, 0.7)
        assert line["body"]["model"] == "large"
    assert len({line["body"]["seed"] for line in lines}) == len(train)


def test_the_template_begins_a_prompt_as_the_tokenizer_does(tmp_path, tiny_llama):
    assert plain_template(tiny_llama) == "{{ bos_token }}{{ messages[0].content }}"
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / file).write_text((tiny_llama / file).read_text())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    assert plain_template(tmp_path) == "{{ messages[0].content }}"


def test_examples_come_before_a_question_in_its_conversation(tmp_path):
    (*_, line) = requested(tmp_path, JOB.model_copy(update={"prompt": PromptConfig(chat=True, few_shot=1)}))
    assert [message["role"] for message in line["body"]["messages"]] == ["user", "assistant", "user"]
    assert len((tmp_path / "batch.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("setting", "told"), [(("--sampling.kk", "1"), "sampling.kk"), (("--alignment.loss", "no_module:loss"), "no_module")]
)
def test_a_setting_that_there_is_none_of_is_refused_before_anything_is_written(tmp_path, setting, told):
    (tmp_path / "job.json").write_text(JOB.model_dump_json())
    refused = CliRunner().invoke(app, ["requests", str(tmp_path / "job.json"), "--out", str(tmp_path / "x"), *setting])
    assert refused.exit_code == BAD_INPUT
    assert told in " ".join(refused.output.split())
    assert not (tmp_path / "x").exists()


def test_the_answers_of_vllm_are_the_tokens_that_it_has_counted(tmp_path, train, tokenizer):
    lines = [json.loads(line) for line in ANSWERED.read_text().splitlines()]
    groups, told = read(tmp_path, lines, train, tokenizer)
    assert [group.question for group in groups] == train[:3]
    for group, line in zip(groups, lines, strict=False):
        usage = line["response"]["body"]["usage"]
        assert len(group.question.prompt_ids) == usage["prompt_tokens"]
        ends = [choice["message"]["content"].endswith(" ") for choice in line["response"]["body"]["choices"]]  # a token, left out
        lengths = [len(candidate.token_ids) + end for candidate, end in zip(group.candidates, ends, strict=True)]
        assert sum(lengths) == usage["completion_tokens"]
        assert [length == LENGTH for length in lengths] == [c.finish_reason == "length" for c in group.candidates]
    assert [candidate.finish_reason for candidate in groups[1].candidates] == ["stop", "length", "length"]
    assert "9 chains of 3 training questions" in told
    assert "chains.jsonl:4: the request failed" in told
    assert "maximum context length" in told


def test_lines_of_a_question_add_up_and_what_is_no_chain_is_left_out(tmp_path, train, tokenizer):
    name = train[0].question_id

    def line(*choices, **more):
        return {"custom_id": name, "response": {"status_code": 200, "body": {"choices": list(choices)}}, "error": None} | more

    def said(text, reason="stop"):
        return {"message": {"role": "assistant", "content": text}, "finish_reason": reason}

    lines = [
        line(said("One. The answer is 1."), said(None), said("Two. The answer", "content_filter")),
        line({"text": " Three. The answer is 3.", "finish_reason": "stop"}),
        line(response=None, error={"code": "batch_expired", "message": "too late"}),
        line(response={"status_code": 429, "body": {"error": {"message": "too many"}}}),
    ]
    (group,), told = read(tmp_path, lines, train, tokenizer)
    assert [(c.text, c.finish_reason) for c in group.candidates] == [
        ("One. The answer is 1.", "stop"),
        ("Two. The answer", "length"),
        ("Three. The answer is 3.", "stop"),
    ]
    assert "left out: 3 rows or choices" in told
    for reason in ("1: a choice without a text", "3: the request failed: .*too late", "4: the request failed: .*too many"):
        assert re.search(rf"chains\.jsonl:{reason}", told)
