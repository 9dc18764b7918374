"""The report of a run whose records are made by chance: what it says, that it needs no network, how it looks in a browser."""

import html
import io
import json
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from aft_ray.cli import BAD_INPUT, app
from aft_ray.config import AlignmentConfig, ModelConfig, RunConfig, TaskConfig
from aft_ray.evaluation.summary import print_summary, summarise
from aft_ray.report.found import FoundRun, leads
from aft_ray.report.page import page, write_or_tell, write_report
from schemas import Candidate, CandidateGroup, Evaluation, Question, StageManifest, read_parquet, write_parquet

TASKS = ("arithmetic", "longer")
CHANCE = {"vft": 0.4, "aft": 0.7, "aft-2": 0.8}


def chain(index, right, rng):
    return Candidate(
        index=index, text="<script>alert(1)</script>", token_ids=tuple(rng.choices(range(3, 99), k=20)), finish_reason="stop",
        log_likelihood=-20 * rng.random(), verdict="right" if right else "wrong",
    )  # fmt: skip


def evaluation(model, task, number, rng, samples=4, pairs=True):
    right = [rng.random() < CHANCE[model] for _ in range(4)]
    lead = 0.1 if model == "vft" else 0.4
    return Evaluation(
        question_id=f"{task}-{number:03}", task=task, model=model, greedy=chain(0, right[0], rng),
        positive_scores=tuple(rng.gauss(-0.3, 0.1) for _ in range(2 if pairs else 0)),
        negative_scores=tuple(rng.gauss(-0.3 - lead, 0.2) for _ in range(3 if pairs else 0)),
        samples=tuple(chain(index, value, rng) for index, value in enumerate(right[:samples])),
    )  # fmt: skip


def group(of: Evaluation, number: int, rng) -> CandidateGroup:
    """The candidates that an evaluation has scored, with scores of the sampler's own; wrong and right ones in turn."""
    labels = ["negative", "positive", "negative", "positive", "negative"]
    made = (chain(index, label == "positive", rng) for index, label in enumerate(labels))
    candidates = [c.model_copy(update={"label": label, "rank": 1}) for c, label in zip(made, labels, strict=True)]
    question = Question(
        question_id=of.question_id, task=of.task, split="test", text=f"Question {number}?", gold="1", reference="So 1."
    )
    return CandidateGroup(
        question=question, candidates=tuple(candidates), model="vft", seed=0, temperature=1.0, top_p=1.0, max_new_tokens=60
    )


def step(number, aligned):
    shares = {"assessment_accuracy": 0.6 + 0.01 * number, "under_boundary": 0.2} if aligned else {}
    return {
        "loss": 2 / number, "vft_loss": 1 / number, "alignment_loss": 1 / number if aligned else 0.0,
        "reference_score": -1 / number,
        "positive_score": -0.5 if aligned else None, "negative_score": -0.6 - 0.01 * number if aligned else None,
        "gradient_norm": 1.0, "learning_rate": 1e-4 * number, "tokens": 1000,
    } | shares  # fmt: skip


def made_run(folder: Path, name: str, seed: int, rounds=1, samples_after=4, pairs=True, loss="bc", beta=0.2) -> Path:
    """The directory of a finished run, without models."""
    rng = random.Random(seed)
    part = TaskConfig(name="arithmetic", train_questions=8)
    task = TaskConfig(name="mixture", parts=(part, part.model_copy(update={"called": "longer"})))
    alignment = AlignmentConfig(loss=loss, beta=beta)
    config = RunConfig(
        name=name, model=ModelConfig(path=folder / "base"), task=task, seed=seed, rounds=rounds, alignment=alignment
    )
    run = folder / name
    run.mkdir(parents=True)
    (run / "config.json").write_text(config.model_dump_json())
    evaluations = {
        model: [evaluation(model, t, n, rng, 4 if model == "vft" else samples_after, pairs) for t in TASKS for n in range(80)]
        for model in list(CHANCE)[: 1 + rounds]
    }
    stages = []
    for stage in ("questions", "vft", "sample", "align", *(f"evaluate-{model}" for model in evaluations)):
        (run / stage).mkdir()
        trains = stage in ("vft", "align")
        counts = {"examples": 16, "left out": 3, "steps": 12} if trains else {"questions": 160, "dropped: no answer": 3}
        use = {"gpu": 0.54, "cores": 1.2} if stage == "align" else {"cores": 0.97} if stage == "sample" else {}
        manifest = StageManifest(
            stage=stage, fingerprint="f" * 16, settings={}, inputs={}, counts=counts, seconds=2.0, use=use, versions={}
        )
        (run / stage / "manifest.json").write_text(manifest.model_dump_json())
        stages.append({"name": stage, "seconds": 2.0, "skipped": False, "counts": counts})
        if trains:
            told = {"history": [step(n, stage == "align") for n in range(1, 13)], "step_seconds": [0.5] * 12, "counts": counts}
            (run / stage / "training.json").write_text(json.dumps(told))
    for model, found in evaluations.items():
        (run / f"evaluate-{model}" / "evaluations").mkdir()
        write_parquet(run / f"evaluate-{model}" / "evaluations" / "1.parquet", Evaluation, found)
    (run / "sample" / "groups").mkdir()
    groups = [group(of, number, rng) for number, of in enumerate(evaluations["aft"])]
    write_parquet(run / "questions" / "questions.parquet", Question, [group.question for group in groups])
    for number in range(4):
        write_parquet(run / "sample" / "groups" / f"{number}.parquet", CandidateGroup, groups[number::4])
    (run / "summary.json").write_text(json.dumps(summarise(config, {"arithmetic"}, evaluations, stages)))
    return run


def reconfigured(run: Path, **sections: dict) -> Path:
    """The same run, as if it had been made with those settings."""
    config = json.loads((run / "config.json").read_text())
    for name, changes in sections.items():
        config[name] |= changes
    (run / "config.json").write_text(json.dumps(config))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = made_run(tmp_path_factory.mktemp("runs"), "by-chance", 0)
    write_report(folder)
    return folder


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@pytest.fixture(scope="module")
def tags(run) -> list[tuple[str, dict]]:
    parser = Tags()
    parser.feed((run / "report.html").read_text())
    return parser.found


def test_the_page_says_what_was_measured(run):
    text = html.unescape(re.sub(r"<[^>]+>", " ", (run / "report.html").read_text()))
    found = FoundRun(run)
    for task in TASKS:
        for model in ("vft", "aft"):
            measured = found.model(model, task)
            low, high = measured["accuracy_ci"]
            assert f"{measured['accuracy']:.1%} ({low * 100:.1f} to {high * 100:.1f})" in text
        compared = found.comparison(task)
        p = "< 0.001" if compared["accuracy_p"] < 0.001 else f"= {compared['accuracy_p']:.3f}"
        assert f"{compared['accuracy_gain'] * 100:+.1f} points, p {p}" in text
    assert "vft before alignment, aft after" in text
    assert "3 dropped: no answer" in text
    assert "2,000 tokens/s in steps" in text
    assert "GPU 54%, 1.20 cores" in text
    assert f"aft-ray run {run / 'config.json'} --name by-chance-again" in text
    assert "longer, never trained on" in text


def test_the_page_needs_no_network_and_runs_no_code(tags):
    links = [value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href", "xlink:href")]
    assert all(link.startswith("#") for link in links)
    assert not [tag for tag, _ in tags if tag in ("script", "link", "iframe", "object")]


def test_every_picture_is_told_in_words_too(tags):
    figures = [attributes for tag, attributes in tags if tag == "figure"]
    assert len(figures) == len([tag for tag, _ in tags if tag == "svg"])
    # Accuracy and samples of two tasks, three of scores, five of VFT's steps and six of alignment's.
    assert len(figures) == 3 + 3 + 5 + 6
    assert all(len(attributes["aria-label"]) > 20 for attributes in figures)


def test_pictures_take_their_ink_from_the_page(run):
    text = (run / "report.html").read_text()
    assert "var(--ink)" in text
    assert "#010203" not in text
    # What matplotlib would write by itself, which is lost on a dark ground.
    assert not re.search(r"(fill|stroke): #(000000|ffffff)", text)


@pytest.mark.parametrize(
    ("settings", "figures"),
    [
        ({"samples_after": 0}, 17),
        ({"samples_after": 2}, 17),
        ({"pairs": False}, 14),
        ({"rounds": 2}, 17),
        ({"loss": "dpo", "beta": 0.1}, 17),
        ({"beta": "auto"}, 17),
    ],
)
def test_a_run_of_any_kind_has_a_report(settings, figures, tmp_path):
    text = page(FoundRun(made_run(tmp_path, "x", 1, **settings)))
    assert text.count("<figure") == figures
    assert ("boundary, -0.2" in text) == (
        settings.get("loss", "bc") == "bc" and settings.get("beta") is None and "pairs" not in settings
    )
    assert ("majority of 4" in text) == ("samples_after" not in settings)


def test_a_gain_over_a_model_that_alignment_did_not_start_from_is_not_called_its_own(tmp_path):
    text = page(FoundRun(reconfigured(made_run(tmp_path, "x", 1), alignment={"start_from": "base"})))
    assert "before alignment" not in text
    assert "vft is the model that was sampled" in text
    assert "a gain is not alignment's alone" in text


def test_a_training_that_told_its_seconds_in_one_number_has_a_report(tmp_path):
    folder = made_run(tmp_path, "x", 1)
    told = json.loads((folder / "vft" / "training.json").read_text())
    (folder / "vft" / "training.json").write_text(json.dumps(told | {"step_seconds": 6.0}))
    assert "2,000 tokens/s in steps" in page(FoundRun(folder))


def test_what_stands_in_the_way_of_a_report_is_told_and_ends_nothing(tmp_path):
    folder = made_run(tmp_path, "x", 1)
    shutil.rmtree(folder / "evaluate-aft" / "evaluations")
    console = Console(file=io.StringIO(), width=300)
    write_or_tell(folder, console)
    assert "No report: NoRunError" in console.file.getvalue()
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("command", [["report"], ["compare", "x"]])
def test_a_broken_summary_is_told_by_its_name(command, tmp_path):
    folder = made_run(tmp_path, "x", 1)
    (folder / "summary.json").write_text('{"models": [')
    told = CliRunner().invoke(app, [command[0], *[str(tmp_path / run) for run in command[1:]], str(folder)])
    assert told.exit_code == BAD_INPUT, told.output
    assert "summary.json: cannot be read" in told.output.replace("\n", "")
    of_file = CliRunner().invoke(app, [command[0], *[str(tmp_path / run) for run in command[1:]], str(folder / "summary.json")])
    assert of_file.exit_code == BAD_INPUT, of_file.output


def test_a_lead_is_above_the_worst_right_chain():
    of = Evaluation(question_id="q", task="t", model="m", greedy=None, positive_scores=(-1.0, -2.0), negative_scores=(-1.5, -3.0))
    assert leads([of, of.model_copy(update={"positive_scores": ()})]) == [0.5, -1.0]


def test_names_from_data_are_text_on_the_page(tmp_path):
    folder = made_run(tmp_path, "x", 1)
    summary = (folder / "summary.json").read_text().replace('"longer"', '"<img src=x>"')
    (folder / "summary.json").write_text(summary)
    assert "<img" not in page(FoundRun(folder))


def test_runs_are_compared_on_the_questions_in_common(run, tmp_path):
    other = made_run(tmp_path, "other", 1)
    told = CliRunner().invoke(app, ["compare", str(run), str(other), str(run)], env={"COLUMNS": "200"})
    assert told.exit_code == 0, told.output
    assert "arithmetic, 80 questions in common" in told.output
    # Against itself a run has gained nothing.
    assert told.output.count("+0.0 points, p = 1.000") >= 2


def test_a_model_evaluated_alone_is_shown_and_compared_and_has_a_report(run, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(run, alone)
    (alone / "evaluate-vft").rename(alone / "evaluate-base")
    evaluations = {"base": read_parquet(alone / "evaluate-base" / "evaluations", Evaluation)}
    config = RunConfig.model_validate_json((alone / "config.json").read_text())
    summary = summarise(config, set(), evaluations, [{"name": "held-out"}])
    (alone / "summary.json").write_text(json.dumps(summary))
    printed = io.StringIO()
    print_summary(summary, Console(file=printed, width=100))
    assert "arithmetic, 80 held-out questions" in printed.getvalue()
    assert "gain" not in printed.getvalue()
    compared = CliRunner().invoke(app, ["compare", str(alone), str(run)], env={"COLUMNS": "200"})
    assert compared.exit_code == 0, compared.output
    assert "none, 0" in compared.output
    reported = CliRunner().invoke(app, ["report", str(alone)])
    assert reported.exit_code == 0, reported.output
    text = (alone / "report.html").read_text()
    assert "evaluated alone" in text
    assert f"--model {config.model.path}" in text
    assert all(word not in text for word in ("last against first", "sure difference", "before alignment", "→", "paired"))
    assert text.count("Scores under base") == 2, "its title, and what a screen reader reads"


def test_questions_of_one_id_and_two_texts_are_not_compared(run, tmp_path):
    other = made_run(tmp_path, "other", 1)
    questions = read_parquet(other / "questions" / "questions.parquet", Question)
    changed = [q.model_copy(update={"text": "Another?"}) if q.task == "longer" or n % 2 else q for n, q in enumerate(questions)]
    write_parquet(other / "questions" / "questions.parquet", Question, changed)
    told = CliRunner().invoke(app, ["compare", str(run), str(other)], env={"COLUMNS": "200"})
    assert told.exit_code == 0, told.output
    assert "arithmetic, 40 questions in common" in told.output
    assert "longer: no question in common" in told.output


@pytest.mark.parametrize("command", [["report"], ["compare", "{run}"]])
def test_a_directory_without_a_run_is_told(command, run, tmp_path):
    told = CliRunner().invoke(app, [part.format(run=run) for part in command] + [str(tmp_path)])
    assert told.exit_code == BAD_INPUT
    assert "no finished run" in " ".join(told.output.split())


def size_in_browser(folder: Path, page: str, width: int) -> tuple[int, int, str]:
    """How wide and high a browser makes the page in a window of that width, and what it logged."""
    size = "[shown.scrollWidth, shown.scrollHeight].join(' ')"
    script = f"onload = () => {{const shown = frames[0].document.documentElement; document.title = {size}}}"
    file = folder / "page.html"
    file.write_text(f'<iframe width={width} height=800 srcdoc="{html.escape(page)}"></iframe><script>{script}</script>')
    found = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--enable-logging=stderr", "--virtual-time-budget=2000", f"--user-data-dir={folder / 'profile'}", "--dump-dom",
         file.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    wide, high = map(int, re.search(r"<title>(\d+) (\d+)</title>", found.stdout).groups())
    return wide, high, found.stderr


needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it_without_complaint_and_without_scrolling_sideways(run, tmp_path, width):
    wide, high, log = size_in_browser(tmp_path, (run / "report.html").read_text(), width)
    assert wide <= width + 20
    assert high > 2000
    assert "CONSOLE" not in log, log
