"""Which stages a run is made of, as it is configured and as far as it is wanted, and what each of them depends on."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from aft_ray.cli.stages import model_alone
from aft_ray.config import AlignmentConfig, ModelConfig, RunConfig, SamplingConfig, TaskConfig
from aft_ray.run import Run
from aft_ray.storage import fingerprint
from aft_ray.tasks import BadInputError, read_questions

TRAIN = 4
TASK = TaskConfig(name="arithmetic", difficulty=1, train_questions=TRAIN, test_questions=3)


def candidates(folder: Path, number: int, answer: int = 1) -> Path:
    file = folder / "candidates.jsonl"
    ids = [question.question_id for question in read_questions(TASK, 0).train[:number]]
    file.write_text("\n".join(json.dumps({"question_id": name, "candidates": [f"The answer is {answer}."]}) for name in ids))
    return file


@pytest.fixture
def run(tmp_path, tiny_llama):
    """(until, settings of the run, its alignment's, its sampling's) -> the run."""

    def made(until=None, alignment=None, given=None, precision="fp32", task=TASK, answer=1, rounds=1, **sampling):
        file = None if given is None else candidates(tmp_path, given, answer)
        config = RunConfig(
            name="x",
            runs_dir=tmp_path / "runs",
            model=ModelConfig(path=tiny_llama, precision=precision),
            task=task,
            sampling=SamplingConfig(k=2, max_prompt_tokens=100, max_new_tokens=60, candidates_file=file, **sampling),
            alignment=AlignmentConfig(beta=0.2, **alignment or {}),
            rounds=rounds,
        )
        return Run(config, Console(quiet=True), until)

    return made


def names(run: Run) -> str:
    return " ".join(stage.name for stage in run.stages())


def fingerprints(run: Run) -> dict[str, str]:
    found: dict[str, str] = {}
    for stage in run.stages():
        found[stage.name] = fingerprint(stage.settings, {name: found[name] for name in stage.inputs})
    return found


BASE, DPO = {"start_from": "base"}, {"start_from": "base", "loss": "dpo"}


@pytest.mark.parametrize(
    ("settings", "sample", "align", "whole"),
    [
        ({}, "vft sample", "vft sample align", "vft sample align evaluate-vft evaluate-aft"),
        ({"alignment": BASE}, "vft sample", "vft sample align", "vft sample align evaluate-vft evaluate-aft"),
        ({"sample_from": "base"}, "sample", "vft sample align", "vft sample align evaluate-base evaluate-aft"),
        ({"sample_from": "base", "alignment": BASE}, "sample", "sample align", "sample align evaluate-base evaluate-aft"),
        ({"given": 2}, "vft sample", "vft sample align", "vft sample align evaluate-vft evaluate-aft"),
        ({"given": TRAIN}, "sample", "vft sample align", "vft sample held-out align evaluate-vft evaluate-aft"),
        ({"given": TRAIN, "alignment": BASE}, "sample", "sample align", "sample held-out align evaluate-base evaluate-aft"),
        (
            {"given": 2, "only_given": True, "alignment": BASE},
            "sample",
            "sample align",
            "sample held-out align evaluate-base evaluate-aft",
        ),
        (
            {"given": TRAIN, "alignment": DPO},
            "sample",
            "sample reference align",
            "sample held-out reference align evaluate-base evaluate-aft",
        ),
        ({"sample_from": "base", "alignment": DPO}, "sample", "sample align", "sample align evaluate-base evaluate-aft"),
        (
            {"rounds": 2},
            "vft sample",
            "vft sample align sample-2 align-2",
            "vft sample align evaluate-vft evaluate-aft sample-2 align-2 evaluate-aft-2",
        ),
    ],
)
def test_what_is_made_for_what_is_wanted(settings, sample, align, whole, run):
    assert names(run("sample", **settings)) == f"questions {sample}"
    assert names(run("align", **settings)) == f"questions {align}"
    assert names(run(None, **settings)) == f"questions {whole}"


@pytest.mark.parametrize("settings", [{}, {"sample_from": "base"}, {"given": TRAIN, "alignment": BASE}, {"rounds": 2}])
def test_a_whole_run_goes_on_from_each_part(settings, run):
    whole = fingerprints(run(None, **settings))
    for part in ("sample", "align"):
        assert fingerprints(run(part, **settings)).items() < whole.items()


@pytest.mark.parametrize(
    ("settings", "change", "same"),
    [
        ({"sample_from": "base", "alignment": BASE}, {"precision": "bf16"}, "questions"),
        ({"sample_from": "base"}, {"precision": "bf16"}, "questions"),
        ({"given": TRAIN, "alignment": BASE}, {"precision": "bf16"}, "questions sample"),
        ({"given": TRAIN, "alignment": BASE}, {"answer": 2}, "questions held-out evaluate-base"),
        ({}, {"sample_from": "base"}, "questions vft"),
        ({"given": 2, "alignment": BASE}, {"only_given": True}, "questions"),
    ],
)
def test_a_stage_is_made_anew_where_what_it_comes_from_has_changed(settings, change, same, run):
    """A precision stands for another base model."""
    before, after = fingerprints(run(**settings)), fingerprints(run(**settings | change))
    assert {name for name in before if before[name] == after.get(name)} == set(same.split())


def test_a_model_alone_is_asked_held_out_questions_only(run, tiny_llama, tmp_path):
    alone = Run(model_alone(run(given=2).config, tiny_llama), Console(quiet=True), "evaluate-base")
    assert names(alone) == "questions held-out evaluate-base"
    assert {question.split for question in alone.questions} == {"test"}
    assert alone.folder == tmp_path / "runs" / "x-eval-tiny_llama"


def test_a_part_needs_no_other_questions_than_its_own(run):
    train, held_out = (TASK.model_copy(update={name: 0}) for name in ("test_questions", "train_questions"))
    assert names(run("align", task=train)) == "questions vft sample align"
    for part, task, told in ((None, train, "both"), (None, held_out, "both"), ("sample", held_out, "training questions")):
        with pytest.raises(BadInputError, match=f"this needs {told}"):
            run(part, task=task)


def test_vft_without_references_is_refused_with_what_would_do(run, tmp_path):
    rows = [{"question": f"{n} + 1?", "gold": n + 1} for n in range(4)]
    for name, part in (("train", rows[:2]), ("test", rows[2:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    task = TaskConfig(name="custom", train_file=tmp_path / "train.jsonl", test_file=tmp_path / "test.jsonl")
    with pytest.raises(BadInputError, match=r"go without VFT by sampling\.sample_from"):
        run("sample", task=task).execute()
    assert names(run("sample", task=task, sample_from="base")) == "questions sample"
