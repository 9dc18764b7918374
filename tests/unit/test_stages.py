"""Which stages a run is made of, as it is configured and as far as it is wanted, and what each of them depends on."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from aft_ray.capacity import NotEnoughResourcesError
from aft_ray.cli.stages import model_alone
from aft_ray.config import AlignmentConfig, LabellingConfig, ModelConfig, RunConfig, SamplingConfig, TaskConfig
from aft_ray.isolated import shared
from aft_ray.run import Run
from aft_ray.stages import Stage, ensure, fingerprints
from aft_ray.tasks import BadInputError, read_questions
from schemas import StageManifest

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
    whole = fingerprints(run(None, **settings).stages())
    for part in ("sample", "align"):
        assert fingerprints(run(part, **settings).stages()).items() < whole.items()


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
    before, after = (fingerprints(run(**of).stages()) for of in (settings, settings | change))
    assert {name for name in before if before[name] == after.get(name)} == set(same.split())


@pytest.mark.parametrize(
    ("until", "settings", "asked"),
    [
        ("sample", {}, "training_workers sampling_actors"),
        ("sample", {"sample_from": "base"}, "sampling_actors"),
        ("sample", {"given": TRAIN, "alignment": BASE}, ""),
        ("align", {"given": TRAIN, "alignment": BASE}, "training_workers"),
        (None, {"given": TRAIN, "alignment": BASE}, "training_workers sampling_actors"),
    ],
)
def test_of_a_cluster_is_asked_what_some_stage_to_come_needs(until, settings, asked, run):
    assert " ".join(demand.setting for demand in run(until, **settings).demands) == asked


def test_what_is_done_asks_for_nothing(run):
    """A cluster may then be one that could not have done it."""
    done = run("align")
    for name in ("questions", "vft", "sample"):
        (done.folder / name).mkdir(parents=True)
        wanted = fingerprints(done.stages())[name]
        manifest = StageManifest(stage=name, fingerprint=wanted, settings={}, inputs={}, counts={}, seconds=1, versions={})
        (done.folder / name / "manifest.json").write_text(manifest.model_dump_json())
    assert [demand.setting for demand in done.demands] == ["training_workers"]


def test_only_questions_that_came_with_candidates_are_asked_in_later_rounds(run):
    one, more = (run(given=number, only_given=True, alignment=BASE, rounds=2) for number in (1, 2))
    assert [question.question_id for question in one.rounds.asked_in("sample-2")] == [one.rounds.train[0].question_id]
    assert len(run(given=1, rounds=2).rounds.asked_in("sample-2")) == TRAIN
    before, after = ({stage.name: stage.settings for stage in of.stages()}["sample-2"] for of in (one, more))
    assert before != after


def test_what_the_file_of_candidates_is_called_changes_nothing(run, tmp_path):
    before = run(given=2, rounds=2)
    moved = (tmp_path / "candidates.jsonl").rename(tmp_path / "others.jsonl")
    sampling = before.config.sampling.model_copy(update={"candidates_file": moved})
    after = Run(before.config.model_copy(update={"sampling": sampling}), Console(quiet=True))
    assert fingerprints(after.stages()) == fingerprints(before.stages())


def test_where_files_of_questions_lie_and_how_training_is_divided_changes_nothing(run, tmp_path):
    """A folder may be moved; after a failure for want of memory training goes on with smaller micro-batches."""

    def made(folder, **settings):
        folder.mkdir(exist_ok=True)
        for name in ("train", "test"):
            row = {"question": f"What is 7, {name}?", "gold": "7", "reference": "The answer is 7."}
            (folder / f"{name}.jsonl").write_text(json.dumps(row))
        single = TaskConfig(name="custom", train_file=folder / "train.jsonl", test_file=folder / "test.jsonl")
        found = []
        for task in (single, TaskConfig(name="mixture", parts=(single.model_copy(update={"called": "a"}),))):
            config = run(task=task, alignment=settings).config
            vft = config.vft.model_copy(update=settings)
            found.append(fingerprints(Run(config.model_copy(update={"vft": vft}), Console(quiet=True)).stages()))
        return found

    before = made(tmp_path / "before")
    smaller = {"tokens_per_micro_batch": 512, "steps_per_checkpoint": 5, "minutes_per_checkpoint": 1.0}
    assert made(tmp_path / "after", **smaller) == before
    (changed, _) = made(tmp_path / "after", learning_rate=1e-3)
    assert {name for name in changed if changed[name] == before[0][name]} == {"questions"}


def test_a_function_of_the_user_s_that_is_written_anew_is_another(run, tmp_path, monkeypatch):
    """The stage that it decides is made anew: of a check or a reward the labels, of a loss the training."""
    monkeypatch.syspath_prepend(tmp_path)
    shared(LabellingConfig().check_seconds).close()  # a process that knows of that path
    own, questions = tmp_path / "own_functions.py", {name: tmp_path / f"{name}.jsonl" for name in ("train", "test")}
    for name, file in questions.items():
        row = {"question": f"What is 7, {name}?", "gold": "7", "reference": "The answer is 7."}
        file.write_text(json.dumps(row))

    def settings(**changed) -> dict[str, dict]:
        before = run().config
        files = {f"{name}_file": file for name, file in questions.items()}
        task = TaskConfig(name="custom", answer=changed.get("answer", "text"), **files)
        labelling = before.labelling.model_copy(update={"reward": changed.get("reward")})
        alignment = before.alignment.model_copy(update={"loss": changed.get("loss", "bc")})
        update = {"task": task, "labelling": labelling, "alignment": alignment}
        made = Run(before.model_copy(update=update), Console(quiet=True))
        return {stage.name: stage.settings for stage in made.stages()}

    for kind, stage, name in (("loss", "align", "code"), ("reward", "sample", "labelling"), ("answer", "sample", "labelling")):
        found = []
        for version in (1, 1, 2):
            own.write_text(f"VERSION = {version}\ndef own(*given): return True\n")
            found.append(settings(**{kind: "own_functions:own"}))
        assert found[0] == found[1]
        assert found[1][stage].pop(name) != found[2][stage].pop(name)
        assert found[1] == found[2], "and nothing else"


def test_settings_that_look_like_markup_are_told_as_they_are(tmp_path):
    made, manifests = [], {}
    for template in ("[INST] {question}", "[INST] {question} [/INST]"):
        out = io.StringIO()
        stage = Stage("questions", {"template": template}, (), lambda folder: made.append(folder) or {"[/b]": 1})
        ensure(tmp_path, stage, manifests, {}, Console(file=out, width=200))
    assert len(made) == 2
    assert "[INST] {question} [/INST]" in out.getvalue()
    assert "1 [/b]" in out.getvalue()


def test_an_interrupted_stage_goes_on_where_only_what_it_is_renewed_by_has_changed(tmp_path):
    found = []

    def stage(k, labels, ends=True):
        def make(folder):
            found.append(sorted(file.name for file in folder.iterdir()))
            (folder / f"{len(found)}").touch()
            if not ends:
                raise RuntimeError
            return {}

        return Stage(
            "sample", {"k": k, "labelling": labels}, (), make, lambda folder: found.append("renewed") or {}, ("labelling",)
        )

    def start(*settings, **more):
        ensure(tmp_path, stage(*settings, **more), {}, {}, Console(quiet=True))

    with pytest.raises(RuntimeError):
        start(2, "old", ends=False)
    start(2, "new")
    assert found == [[], ["1"]], "what it had made is there"
    start(2, "newer")
    assert found[2:] == ["renewed"]
    with pytest.raises(RuntimeError):
        start(4, "newer", ends=False)
    start(8, "newer")
    assert found[3:] == [[], []], "made with other settings"


def test_figures_of_a_run_before_are_gone_as_soon_as_one_with_other_settings_begins(run, monkeypatch):
    """Also where only a part of it is made."""
    monkeypatch.setattr(Run, "execute_stages", lambda self, tracking: {})
    done = run()
    for stage in done.stages():
        (done.folder / stage.name).mkdir(parents=True)
        manifest = StageManifest(
            stage=stage.name, fingerprint=fingerprints(done.stages())[stage.name], settings={}, inputs={}, counts={}, seconds=1,
            versions={},
        )  # fmt: skip
        (done.folder / stage.name / "manifest.json").write_text(manifest.model_dump_json())
    told = [done.folder / "summary.json", done.folder / "report.html"]
    for file in told:
        file.write_text("of this run")
    for part in (None, "sample", "align"):
        run(part).execute()
        assert all(file.exists() for file in told)
    run("align", alignment={"loss": "dpo"}).execute()
    assert not any(file.exists() for file in told)


@pytest.mark.parametrize("settings", [{"sample_from": "base", "alignment": BASE}, {"given": TRAIN, "alignment": BASE}])
def test_figures_of_a_run_without_vft_stay_while_a_part_of_it_is_looked_at(settings, run, monkeypatch):
    monkeypatch.setattr(Run, "execute_stages", lambda self, tracking: {})
    done = run(**settings)
    for name, wanted in fingerprints(done.stages()).items():
        (done.folder / name).mkdir(parents=True)
        manifest = StageManifest(stage=name, fingerprint=wanted, settings={}, inputs={}, counts={}, seconds=1, versions={})
        (done.folder / name / "manifest.json").write_text(manifest.model_dump_json())
    (done.folder / "summary.json").write_text("of this run")
    for part in (None, "sample", "align"):
        run(part, **settings).execute()
        assert (done.folder / "summary.json").exists()


def test_this_machine_is_asked_for_what_a_part_takes_and_no_more(run, tiny_llama, monkeypatch):
    """A model is evaluated where it could not be trained."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = run().config
    config = config.model_copy(update={"resources": config.resources.model_copy(update={"training_workers": 999})})
    Run(model_alone(config, tiny_llama), Console(quiet=True), "evaluate-base")
    with pytest.raises(NotEnoughResourcesError, match="training_workers: 999 x 1 CPU"):
        Run(config, Console(quiet=True))


def test_a_model_alone_is_asked_held_out_questions_only(run, tiny_llama, tmp_path):
    alone = Run(model_alone(run(given=2).config, tiny_llama), Console(quiet=True), "evaluate-base")
    assert names(alone) == "questions held-out evaluate-base"
    assert {question.split for question in alone.questions} == {"test"}
    assert alone.folder == tmp_path / "runs" / "x-eval-tiny_llama"
    names_of_others = {model_alone(alone.config, tmp_path / run / "align" / "model").name for run in ("one", "other")}
    assert names_of_others == {"x-eval-tiny_llama-eval-one-align-model", "x-eval-tiny_llama-eval-other-align-model"}


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


def test_a_run_without_references_is_refused_before_anything_is_touched_unless_it_goes_without_vft(run, tmp_path):
    without = TASK.model_copy(update={"references": 0})
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "summary.json").write_text("figures")
    with pytest.raises(BadInputError, match=r"go without VFT by sampling\.sample_from and alignment\.start_from: base"):
        run(task=without)
    assert (tmp_path / "runs" / "x" / "summary.json").read_text() == "figures"
    assert "vft" not in names(run(task=without, sample_from="base", alignment=BASE))
    assert "vft" not in names(run("sample", task=without, sample_from="base"))
