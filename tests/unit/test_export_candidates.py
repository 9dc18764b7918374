"""Candidates as data sets: what TRL itself makes of them, and that every pair and every right chain is there once."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset, load_from_disk
from transformers import AutoTokenizer
from trl.data_utils import is_conversational
from typer.testing import CliRunner

from aft_ray.cli import BAD_INPUT, app
from aft_ray.config import ModelConfig, RunConfig, TaskConfig
from aft_ray.export_candidates import export_candidates
from aft_ray.tasks.arithmetic import generate
from schemas import Candidate, CandidateGroup, write_parquet
from tests.conftest import tokenized

LABELS = (("positive", "negative", "positive", "dropped"), ("negative",), ("positive",))


def write_config(folder, model, **more):
    config = RunConfig(name="run", model=ModelConfig(path=model), task=TaskConfig(name="arithmetic"), **more)
    (folder / "config.json").write_text(config.model_dump_json())


@pytest.fixture(scope="module")
def run(tiny_llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "vft").mkdir()
    (folder / "vft" / "model").symlink_to(tiny_llama)
    write_config(folder, folder / "gone")
    (folder / "sample" / "groups").mkdir(parents=True)
    questions = tokenized(generate("train", len(LABELS), 0, 1), AutoTokenizer.from_pretrained(tiny_llama))
    groups = [
        CandidateGroup(
            question=question,
            candidates=tuple(
                Candidate(index=i, text=f" {i}: {label}", token_ids=(1,), finish_reason="stop", log_likelihood=-1.0, label=label)
                for i, label in enumerate(labels)
            ),
            model="m", seed=0, temperature=1.0, top_p=1.0, max_new_tokens=9,
        )
        for question, labels in zip(questions, LABELS, strict=True)
    ]  # fmt: skip
    write_parquet(folder / "sample" / "groups" / "1.parquet", CandidateGroup, groups)
    return folder, groups


def exported(run, kind, out, *more):
    told = CliRunner().invoke(app, ["export", str(run), "--as", kind, "--out", str(out), *more])
    assert told.exit_code == 0, told.output
    return told.output


def test_every_pair_once_and_what_the_model_read_as_its_prompt(run, tiny_llama, tmp_path):
    folder, groups = run
    assert "2 rows" in exported(folder, "preference", tmp_path / "pairs.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [(row["chosen"], row["rejected"]) for row in rows] == [
        (" 0: positive", " 1: negative"),
        (" 2: positive", " 1: negative"),
    ]
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    assert tuple(tokenizer(rows[0]["prompt"])["input_ids"]) == groups[0].question.prompt_ids


def test_a_chain_from_a_file_stands_behind_its_prompt_as_it_was_trained_on(run, tiny_llama, tmp_path):
    groups, tokenizer = run[1], AutoTokenizer.from_pretrained(tiny_llama)
    ids = (*tokenizer(" The answer is 7.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
    given = Candidate(
        index=0, text="The answer is 7.", token_ids=ids, finish_reason="stop", log_likelihood=None, label="positive"
    )
    folder = tmp_path / "run"
    (folder / "sample" / "groups").mkdir(parents=True)
    write_config(folder, tiny_llama)
    write_parquet(
        folder / "sample" / "groups" / "1.parquet", CandidateGroup, [groups[0].model_copy(update={"candidates": (given,)})]
    )
    exported(folder, "prompt-completion", tmp_path / "right.jsonl")
    assert json.loads((tmp_path / "right.jsonl").read_text())["completion"] == " The answer is 7."


def test_a_model_that_vft_has_left_is_not_asked_where_the_run_goes_without_vft(run, tiny_llama, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run", symlinks=True)
    (folder / "vft" / "model").unlink()
    (folder / "vft" / "model").mkdir()  # of an earlier run, and of another base model: here, none
    write_config(folder, tiny_llama, sampling={"sample_from": "base"}, alignment={"start_from": "base"})
    assert "2 rows" in exported(folder, "preference", tmp_path / "pairs.jsonl")


def test_held_out_questions_that_were_sampled_apart_are_exported_too(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run", symlinks=True)
    held_out = [g.model_copy(update={"question": g.question.model_copy(update={"split": "test"})}) for g in run[1]]
    (folder / "held-out" / "groups").mkdir(parents=True)
    write_parquet(folder / "held-out" / "groups" / "1.parquet", CandidateGroup, held_out)
    (folder / "summary.json").write_text(json.dumps({"stages": [{"name": "sample"}, {"name": "held-out"}]}))
    assert "2 rows" in exported(folder, "preference", tmp_path / "pairs.jsonl", "--split", "test")
    assert "2 rows" in exported(folder, "preference", tmp_path / "train.jsonl")


def test_right_chains_as_parquet_and_as_a_saved_dataset(run, tmp_path):
    folder, _ = run
    exported(folder, "prompt-completion", tmp_path / "right.parquet")
    exported(folder, "prompt-completion", tmp_path / "right")
    found = load_dataset("parquet", data_files=str(tmp_path / "right.parquet"), split="train")
    assert found["completion"] == [" 0: positive", " 2: positive", " 0: positive"]
    assert load_from_disk(tmp_path / "right").to_list() == found.to_list()


def test_conversations_are_what_trl_takes_for_such(run, tmp_path):
    folder, groups = run
    exported(folder, "messages", tmp_path / "messages.jsonl")
    (first, *_) = [json.loads(line) for line in (tmp_path / "messages.jsonl").read_text().splitlines()]
    assert is_conversational(first)
    assert first["messages"] == [
        {"role": "user", "content": groups[0].question.text},
        {"role": "assistant", "content": "0: positive"},
    ]


@pytest.mark.parametrize(("more", "told"), [(["--split", "test"], "no preference of split test"), ([], "config.json")])
def test_nothing_to_export_is_told(more, told, run, tmp_path):
    folder = run[0] if more else tmp_path
    refused = CliRunner().invoke(app, ["export", str(folder), "--as", "preference", "--out", str(tmp_path / "x.jsonl"), *more])
    assert refused.exit_code == BAD_INPUT
    assert told in "".join(refused.output.split("\n"))
    assert not (tmp_path / "x.jsonl").exists()


def test_what_is_there_is_replaced_whole_or_not_at_all(run, tmp_path, monkeypatch):
    out = tmp_path / "new" / "pairs.jsonl"
    assert export_candidates(run[0], "preference", "train", out) == 2
    before = out.read_text()

    def full(self, path, **more):
        Path(path).write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Dataset, "to_json", full)
    with pytest.raises(OSError, match="No space"):
        export_candidates(run[0], "preference", "train", out)
    assert out.read_text() == before
    assert list(out.parent.iterdir()) == [out]
    folder = tmp_path / "pairs"
    export_candidates(run[0], "preference", "train", folder)
    with pytest.raises(ValueError, match="there already"):
        export_candidates(run[0], "preference", "train", folder)
    assert len(load_from_disk(folder)) == 2
