"""A whole run on the real parts: what each stage leaves, and what a second start does with it."""

import io
import json
import math
import os
import re
import shutil
import sys
import time

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from starlette.testclient import TestClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from typer.testing import CliRunner

from aft_ray.cli import app
from aft_ray.config import LabellingConfig
from aft_ray.report.found import FoundRun
from aft_ray.report.view import make_app
from aft_ray.run import Run
from aft_ray.storage import model_fingerprint, read_manifest
from aft_ray.tasks import read_questions
from aft_ray.training.examples import alignment_examples, vft_examples
from schemas import CandidateGroup, Evaluation, Question, ReferenceScores, arrow_schema, read_parquet
from tests.integration.conftest import GIVEN, HELD_OUT, NEVER_TRAINED_ON, TRAIN_QUESTIONS, K

STAGES = ["questions", "vft", "sample", "align", "evaluate-vft", "evaluate-aft"]


@pytest.fixture(scope="module")
def groups(finished_run) -> list[CandidateGroup]:
    return read_parquet(finished_run[0] / "sample" / "groups", CandidateGroup)


@pytest.fixture(scope="module")
def sampled(groups) -> list[CandidateGroup]:
    return [group for group in groups if group.candidates[0].log_likelihood is not None]


@pytest.fixture(scope="module")
def vft_model(finished_run):
    return AutoModelForCausalLM.from_pretrained(finished_run[0] / "vft" / "model", dtype=torch.float32)


def mean_log_likelihood(model, prompt, chain):
    ids = torch.tensor([[*prompt, *chain]])
    with torch.no_grad():
        log_probabilities = model(ids).logits[0].double().log_softmax(-1)
    places = torch.arange(len(prompt), ids.shape[1])
    return log_probabilities[places - 1, ids[0, places]].mean().item()


def test_every_question_comes_once_with_all_its_candidates(groups, small_config):
    assert sorted(g.question.question_id for g in groups) == sorted(
        q.question_id for q in read_questions(small_config.task, small_config.seed).questions
    )
    assert {len(group.candidates) for group in groups} == {K}


def test_files_have_the_schema_of_the_record(finished_run):
    for file in (finished_run[0] / "sample" / "groups").glob("*.parquet"):
        assert pq.read_schema(file).equals(arrow_schema(CandidateGroup))


def test_training_sampling_and_scoring_see_the_same_tokens(finished_run, groups, sampled):
    """Those of the plain template, as transformers reads the whole text; every chain ends with end-of-sequence.

    That the engines got these tokens and no others, their log-likelihoods show, below.
    """
    tokenizer = AutoTokenizer.from_pretrained(finished_run[0] / "vft" / "model")
    questions = {q.question_id: q for q in read_parquet(finished_run[0] / "questions", Question)}
    trained = [g for g in groups if g.question.split == "train"]
    examples = [*vft_examples(list(questions.values())), *alignment_examples(trained, vft_covers_positives=True)]
    assert len(examples) > len(trained)
    for example in examples:
        question = questions[example.question_id]
        prompt = f"Question: {question.text}\nAnswer:"
        assert list(example.prompt_ids) == tokenizer(prompt)["input_ids"]
        for chain in example.chains:
            if chain.role == "reference":
                whole = tokenizer(f"{prompt} {question.reference}")["input_ids"] + [tokenizer.eos_token_id]
                assert [*example.prompt_ids, *chain.token_ids] == whole
            assert chain.token_ids[-1] == tokenizer.eos_token_id
            assert tokenizer.eos_token_id not in chain.token_ids[:-1]
    for group in groups:
        assert group.question == questions[group.question.question_id]


def test_candidates_are_what_the_sampler_says_of_them(sampled, vft_model, finished_run):
    """Text against tokens, and the raw log-likelihood against transformers' own forward."""
    tokenizer = AutoTokenizer.from_pretrained(finished_run[0] / "vft" / "model")
    for group in sampled[:12]:
        for candidate in group.candidates:
            assert tokenizer.decode(candidate.token_ids, skip_special_tokens=True) == candidate.text
            assert (candidate.token_ids[-1] == tokenizer.eos_token_id) == (candidate.finish_reason == "stop")
            expected = mean_log_likelihood(vft_model, group.question.prompt_ids, candidate.token_ids)
            assert candidate.score == pytest.approx(expected, abs=1e-3)


def test_labels_follow_from_text_and_gold(groups):
    labels = set()
    for group in groups:
        texts = [candidate.text for candidate in group.candidates]
        for place, candidate in enumerate(group.candidates):
            labels.add(candidate.label)
            assert (candidate.reason == "duplicate") == (candidate.text in texts[:place] and candidate.reason != "cut off")
            if candidate.label == "positive":
                assert re.findall(r"\d+", candidate.text)[-1] == group.question.gold
    assert labels == {"positive", "negative", "dropped"}, "the small run no longer exercises every label"


def test_given_candidates_keep_their_ranks_and_are_not_sampled(groups):
    given = [group for group in groups if group.candidates[0].log_likelihood is None]
    assert len(given) == GIVEN
    for group in given:
        assert [candidate.rank for candidate in group.candidates] == [3, 1, 2, 3]
        assert [candidate.label for candidate in group.candidates] == ["negative", "positive", "positive", "negative"]
        assert group.candidates[2].false_equation == "<<1+1=3>>"
        assert group.candidates[1].token_ids == group.question.reference_ids


@pytest.mark.parametrize("stage", ["vft", "align"])
def test_the_exported_model_scores_as_the_trainer_did(finished_run, stage):
    folder = finished_run[0] / stage
    probe = json.loads((folder / "training.json").read_text())["probe"]
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    questions = {g.question.question_id: g.question for g in read_parquet(finished_run[0] / "sample" / "groups", CandidateGroup)}
    prompt = questions[probe["question_id"]].prompt_ids
    for chain, score in zip(probe["chains"], probe["scores"], strict=True):
        assert mean_log_likelihood(model, prompt, chain) == pytest.approx(score, abs=1e-4)


def test_the_exported_model_is_a_whole_hugging_face_directory(finished_run):
    folder = finished_run[0] / "align" / "model"
    assert list(folder.glob("*.safetensors"))
    assert not list(folder.glob("*.bin"))
    assert GenerationConfig.from_pretrained(folder).eos_token_id == AutoTokenizer.from_pretrained(folder).eos_token_id


def test_both_models_are_assessed_on_the_same_candidates(finished_run, groups, vft_model):
    folder = finished_run[0]
    of_question = {group.question.question_id: group for group in groups}
    vft, aft = (
        {e.question_id: e for e in read_parquet(folder / stage / "evaluations", Evaluation)}
        for stage in ("evaluate-vft", "evaluate-aft")
    )
    assert vft.keys() == aft.keys() == {q for q, group in of_question.items() if group.question.split == "test"}
    for question_id, evaluation in vft.items():
        group = of_question[question_id]
        positives = [c for c in group.candidates if c.label == "positive"]
        negatives = [c for c in group.candidates if c.label == "negative"]
        if not (positives and negatives):
            assert evaluation.positive_scores == evaluation.negative_scores == ()
            continue
        assert evaluation.positive_scores == pytest.approx([c.score for c in positives], abs=1e-3)
        assert evaluation.negative_scores == pytest.approx([c.score for c in negatives], abs=1e-3)
        assert len(aft[question_id].positive_scores) == len(positives)
        prompt = group.question.prompt_ids
        assert evaluation.positive_scores[0] == pytest.approx(
            mean_log_likelihood(vft_model, prompt, positives[0].token_ids), abs=1e-3
        )


def test_greedy_accuracy_is_that_of_the_greedy_chains_task_by_task(finished_run, groups):
    folder, summary = finished_run
    golds = {group.question.question_id: group.question.gold for group in groups}
    for row in summary["models"]:
        evaluations = read_parquet(folder / f"evaluate-{row['name']}" / "evaluations", Evaluation)
        greedy = [(e.greedy.text, golds[e.question_id]) for e in evaluations if e.task == row["task"]]
        right = [text.endswith(f"The answer is {gold}.") for text, gold in greedy]
        assert row["accuracy"] == pytest.approx(sum(right) / len(right))


def test_the_summary_has_what_is_promised(finished_run):
    folder, summary = finished_run
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert [(model["task"], model["name"], model["n"], model["trained_on"]) for model in summary["models"]] == [
        ("arithmetic", "vft", HELD_OUT, True),
        ("arithmetic", "aft", HELD_OUT, True),
        ("longer", "vft", NEVER_TRAINED_ON, False),
        ("longer", "aft", NEVER_TRAINED_ON, False),
    ]
    assert [compared["task"] for compared in summary["comparisons"]] == ["arithmetic", "longer"]
    for model in summary["models"]:
        assert model["accuracy_ci"][0] <= model["accuracy"] <= model["accuracy_ci"][1]
        if model["assessment_pairs"]:
            assert 0 <= model["assessment_accuracy"] <= 1
            assert model["mean_positive_score"] < 0 > model["mean_negative_score"]
        assert model["k"] == K
        assert model["pass_at_k"]["1"]["mean"] <= model["pass_at_k"][str(K)]["mean"]
        assert 0 <= model["majority"]["mean"] <= 1
    assert summary["models"][0]["assessment_pairs"] > 0
    assert [stage["name"] for stage in summary["stages"]] == STAGES
    questions = TRAIN_QUESTIONS + HELD_OUT + NEVER_TRAINED_ON
    held_out = HELD_OUT + NEVER_TRAINED_ON
    assert summary["stages"][0]["counts"] == {"train": TRAIN_QUESTIONS, "with reference": 32, "held out": held_out}
    assert summary["stages"][2]["counts"]["candidates"] == K * questions
    assert summary["seed"] == 0
    assert {"torch", "ray", "deepspeed", "transformers"} <= summary["versions"].keys()


def test_tensorboard_has_been_told_of_every_step_of_right_chains_and_of_the_results(finished_run, groups):
    folder, summary = finished_run
    (run,) = (folder / "tracking").iterdir()
    found = EventAccumulator(str(run))
    found.Reload()
    for stage in ("vft", "align"):
        history = json.loads((folder / stage / "training.json").read_text())["history"]
        for name in ("loss", "learning_rate", "gradient_norm"):
            told = [(event.step, event.value) for event in found.Scalars(f"{stage}/{name}")]
            assert dict(told) == pytest.approx({step: row[name] for step, row in enumerate(history, start=1)}, rel=1e-5)
            assert len(told) == len(history)
    for model in summary["models"]:
        (event,) = found.Scalars(f"results/{model['task']}/{model['name']}/accuracy")
        assert event.value == pytest.approx(model["accuracy"])
    answered = [e.greedy.verdict for e in read_parquet(folder / "evaluate-aft" / "evaluations", Evaluation)]
    checked = {"sample": [c.verdict for group in groups for c in group.candidates], "evaluate-aft": answered}
    for stage, number in (
        ("sample", TRAIN_QUESTIONS + HELD_OUT + NEVER_TRAINED_ON),
        ("evaluate-aft", HELD_OUT + NEVER_TRAINED_ON),
    ):
        last = found.Scalars(f"{stage}/acceptance")[-1]
        right = checked[stage].count("right") / len(checked[stage])
        assert (last.step, last.value) == (number, pytest.approx(right))


def test_the_loss_falls(finished_run):
    history = json.loads((finished_run[0] / "vft" / "training.json").read_text())["history"]
    assert history[-1]["loss"] < history[0]["loss"] / 2


def execute(config, until=None):
    printed = io.StringIO()
    run = Run(config, Console(file=printed, width=200), until)
    summary = run.execute()
    return [stage["name"] for stage in summary["stages"] if not stage["skipped"]], summary, printed.getvalue()


def test_a_second_start_does_nothing(finished_run, small_config):
    started, before = time.monotonic(), psutil.Process(os.getpid()).children(recursive=True)
    made, summary, _ = execute(small_config)
    assert made == []
    assert time.monotonic() - started < 30
    assert len(psutil.Process(os.getpid()).children(recursive=True)) <= len(before) + 2
    assert summary["models"] == finished_run[1]["models"]


def test_the_command_for_a_part_finds_it_done_and_stops_there(finished_run, monkeypatch):
    folder, before = finished_run[0], (finished_run[0] / "summary.json").read_bytes()
    monkeypatch.setattr("aft_ray.cli.job.keep_chatter", lambda logs: None)  # it would send away what pytest reads
    monkeypatch.setattr(sys, "argv", ["aft-ray"])
    told = CliRunner().invoke(app, ["sample", str(folder / "config.json"), "--evaluation.confidence", "0.9"])
    assert told.exit_code == 0, told.output
    assert re.findall(r"✓ (\S+) +(done before)?", told.output) == [(name, "done before") for name in STAGES[:3]]
    assert f"Candidates {folder / 'sample' / 'groups'}" in told.output
    assert f"aft-ray align {folder / 'config.json'} --evaluation.confidence 0.9" in told.output
    assert (folder / "summary.json").read_bytes() == before


def test_given_candidates_alone_are_aligned_on_with_no_other_model_and_no_engine(
    small_config, ray_session, tmp_path, monkeypatch
):
    monkeypatch.setattr("aft_ray.run.sample_candidates", lambda *_: pytest.fail("sampled"))
    changed = {
        "runs_dir": tmp_path,
        "sampling": small_config.sampling.model_copy(update={"only_given": True}),
        "alignment": small_config.alignment.model_copy(update={"start_from": "base", "beta": 0.2}),
        "resources": small_config.resources.model_copy(update={"training_workers": 0}),
    }
    made, summary, _ = execute(small_config.model_copy(update=changed), "align")
    assert made == ["questions", "sample", "align"]
    assert summary["stages"][1]["counts"]["groups"] == summary["stages"][2]["counts"]["examples"] == GIVEN
    assert model_fingerprint(tmp_path / "small" / "align" / "model") != model_fingerprint(small_config.model.path)


def test_a_training_that_had_ended_is_not_begun_again(finished_run, small_config, tmp_path, monkeypatch):
    """Killed between the end of a training and that of its stage."""
    shutil.copytree(finished_run[0], tmp_path / "small")
    stage = tmp_path / "small" / "align"
    wanted = read_manifest(stage).fingerprint
    (stage / "manifest.json").unlink()
    stage.rename(stage.parent / f".align-{wanted}")
    monkeypatch.setattr("aft_ray.run.run_training", lambda job: pytest.fail("trained again"))
    made, summary, _ = execute(small_config.model_copy(update={"runs_dir": tmp_path}), "align")
    assert made == ["align"]
    assert read_manifest(stage).fingerprint == wanted
    assert summary["stages"][-1]["counts"] == finished_run[1]["stages"][3]["counts"]
    assert (stage / "model" / "config.json").exists()


def test_the_report_and_the_candidates_of_a_real_run_are_shown(finished_run):
    folder, summary = finished_run
    text = (folder / "report.html").read_text()
    for model in summary["models"]:
        assert f"{model['accuracy']:.1%}" in text
    # Two tasks' samples and the accuracy, three of scores, five of VFT's steps and six of alignment's.
    assert text.count("<figure") == 3 + 3 + 5 + 6
    shown = TestClient(make_app(FoundRun(folder)), base_url="http://127.0.0.1").get("/", params={"order": "question"}).text
    assert (
        f"{TRAIN_QUESTIONS + HELD_OUT + NEVER_TRAINED_ON} of {TRAIN_QUESTIONS + HELD_OUT + NEVER_TRAINED_ON} questions" in shown
    )


def test_another_loss_and_a_second_round_make_what_depends_on_them_and_say_why(finished_run, small_config, groups, tmp_path):
    """References are scored where some candidates come from a file; the second round takes those of its sampler, the model of
    the first."""
    shutil.copytree(finished_run[0], tmp_path / "small")
    # They change no result; without workers, three trainings in a row are done in this process.
    resources = small_config.resources.model_copy(update={"sampling_actors": (1, 2), "training_workers": 0})
    alignment = small_config.alignment.model_copy(update={"loss": "dpo", "options": {"beta": 0.2}})
    changed = {"alignment": alignment, "resources": resources, "rounds": 2, "runs_dir": tmp_path}
    made, _, printed = execute(small_config.model_copy(update=changed), "align")
    assert made == ["reference", "align", "sample-2", "align-2"]
    assert 'alignment.loss: "bc" -> "dpo"' in printed
    folder = tmp_path / "small"
    model = AutoModelForCausalLM.from_pretrained(folder / "vft" / "model", dtype=torch.float32)
    assert_references(folder / "reference" / "scores", [g for g in groups if g.question.split == "train"], model)
    aligned = AutoModelForCausalLM.from_pretrained(folder / "align" / "model", dtype=torch.float32)
    resampled = read_parquet(folder / "sample-2" / "groups", CandidateGroup)
    assert {g.question.question_id for g in resampled} == {g.question.question_id for g in groups if g.question.split == "train"}
    for group in resampled[:6]:
        for candidate in group.candidates:
            expected = mean_log_likelihood(aligned, group.question.prompt_ids, candidate.token_ids)
            assert candidate.score == pytest.approx(expected, abs=1e-3)
    # A model that has not moved: every margin is 0.
    for stage in ("align", "align-2"):
        start = json.loads((folder / stage / "training.json").read_text())["history"][0]
        assert 0 < start["alignment_loss"] <= math.log(2) + 1e-3


def assert_references(folder, groups, model):
    """Of every candidate that may be trained on, the log-likelihood under that model by transformers' own forward."""
    found = {scores.question_id: scores.log_likelihoods for scores in read_parquet(folder, ReferenceScores)}
    checked = 0
    for group in groups:
        trained_on = [candidate for candidate in group.candidates if candidate.label != "dropped"]
        if len({candidate.rank for candidate in trained_on}) < 2:  # nothing to compare: L_VFT may run over positives
            trained_on = [candidate for candidate in trained_on if candidate.label == "positive"]
        kept = [candidate.index for candidate in trained_on]
        values = found.get(group.question.question_id, (None,) * len(group.candidates))
        assert [index for index, value in enumerate(values) if value is not None] == kept
        for candidate in group.candidates[: 1 if kept else 0]:
            if candidate.index in kept:
                expected = mean_log_likelihood(model, group.question.prompt_ids, candidate.token_ids) * len(candidate.token_ids)
                assert values[candidate.index] == pytest.approx(expected, abs=1e-2)
                checked += 1
    assert checked > len(groups) / 4


def test_another_labelling_setting_labels_the_same_candidates_anew(finished_run, small_config, groups, tmp_path):
    shutil.copytree(finished_run[0], tmp_path / "small")
    labelling = LabellingConfig(unknown_ended="dropped", false_equations="drop")
    made, _, _ = execute(small_config.model_copy(update={"runs_dir": tmp_path, "labelling": labelling}), "sample")
    assert made == ["sample"]
    before = {group.question.question_id: group for group in groups}
    after = read_parquet(tmp_path / "small" / "sample" / "groups", CandidateGroup)
    assert len(after) == len(groups)
    for group in after:
        for old, new in zip(before[group.question.question_id].candidates, group.candidates, strict=True):
            assert (old.text, old.token_ids, old.log_likelihood) == (new.text, new.token_ids, new.log_likelihood)
            assert (new.label == "negative") == (new.verdict == "wrong" and new.reason != "duplicate")
            assert new.label != "positive" or new.false_equation is None
        if new.log_likelihood is None:
            assert group.candidates[2].reason == "right answer, false equation"
