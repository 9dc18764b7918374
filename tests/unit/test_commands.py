"""The commands as a whole: what the documents call exists, what the help promises of exit codes is so."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from aft_ray.cli import BAD_INPUT, DOES_NOT_FIT, INTERRUPTED, TERMINATED, app
from aft_ray.config import ModelConfig, RunConfig, SamplingConfig, TaskConfig
from tests.conftest import ROOT

COMMANDS = set(typer.main.get_command(app).commands)
ENDS = {0: "done", 1: "failed", BAD_INPUT: "settings", DOES_NOT_FIT: "planned", INTERRUPTED: "Ctrl-C", TERMINATED: "SIGTERM"}


@pytest.fixture
def job(tmp_path, tiny_llama) -> Path:
    task = TaskConfig(name="arithmetic", train_questions=4, test_questions=3)
    sampling = SamplingConfig(max_prompt_tokens=100, max_new_tokens=60)
    model = ModelConfig(path=tiny_llama, precision="fp32")
    config = RunConfig(name="x", runs_dir=tmp_path, model=model, task=task, sampling=sampling)
    (tmp_path / "job.json").write_text(config.model_dump_json())
    return tmp_path / "job.json"


def test_the_documents_call_the_commands_that_there_are():
    files = (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"))
    calls = [re.findall(r"(?:`|bin/|^ {4})aft-ray ([a-z]+)", file.read_text(), re.MULTILINE) for file in files]
    assert {command for called in calls for command in called} == COMMANDS


def test_exit_codes_stand_in_the_help_and_in_the_document():
    told = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    written = (ROOT / "docs" / "stages.md").read_text()
    for code, end in ENDS.items():
        assert re.search(rf"\b{code} [a-z ]*{end}", told)
        assert re.search(rf"^\| {code} \|", written, re.MULTILINE)


@pytest.mark.parametrize("command", ["run", "sample", "align", "eval"])
def test_a_job_that_is_not_there_and_a_setting_that_is_none_are_refused(command, job):
    for arguments in ([str(job.with_name("none.py"))], [str(job), "--sampling.kk", "1"]):
        assert CliRunner().invoke(app, [command, *arguments]).exit_code == BAD_INPUT


def test_the_evaluation_of_another_model_of_that_name_is_not_replaced(job, tmp_path, tiny_llama, monkeypatch):
    monkeypatch.setattr("aft_ray.cli.stages.run_job", lambda config, *_: ran.append(config.name))
    ran, places = [], [tmp_path / name / "checkpoint-5" for name in ("one", "other")]
    for place in places:
        shutil.copytree(tiny_llama, place)

    def evaluate(place, *settings):
        return CliRunner().invoke(app, ["eval", str(job), "--model", str(place), *settings])

    assert evaluate(places[0]).exit_code == 0
    folder = tmp_path / "x-eval-checkpoint-5"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model": {"path": str(places[0])}}))
    assert evaluate(places[0]).exit_code == 0
    refused = evaluate(places[1])
    assert refused.exit_code == BAD_INPUT
    assert f"{folder} holds the evaluation of {places[0]}" in refused.output
    assert evaluate(places[1], "--name", "another").exit_code == 0
    assert ran == [folder.name, folder.name, "another"]


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (OSError("the disk is full"), 1, "Failed. Logs: "),
        (KeyboardInterrupt(), INTERRUPTED, "Stopped. The same command goes on"),
        (SystemExit(1), TERMINATED, "Stopped. The same command goes on"),
    ],
)
def test_how_a_run_ended_is_its_exit_code(error, code, told, job, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr("aft_ray.run.write_parquet", fails)
    monkeypatch.setattr("aft_ray.cli.job.keep_chatter", lambda logs: None)  # it would send away what pytest reads
    monkeypatch.setattr(sys, "argv", ["aft-ray"])
    ended = CliRunner().invoke(app, ["sample", str(job)])
    assert ended.exit_code == code
    assert told in ended.output
