"""The command line: what a job file calls with its configuration, and the commands of `aft-ray`."""

import argparse
import os
import runpy
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, PydanticBaseSettingsSource, SettingsConfigDict
from rich.console import Console
from upath import UPath

from aft_ray.config import (
    FieldsConfig,
    LabellingConfig,
    PromptConfig,
    RunConfig,
    SamplingConfig,
    TaskConfig,
    TaskName,
    TrainingConfig,
    load_yaml,
)

BAD_INPUT = 2
REST = {"allow_extra_args": True, "ignore_unknown_options": True}
DOES_NOT_FIT = 3
INTERRUPTED, TERMINATED = 130, 143
CHECK_SECONDS = LabellingConfig().check_seconds
MAX_PROMPT_TOKENS, MAX_TOKENS = SamplingConfig().max_prompt_tokens, TrainingConfig().max_tokens

app = typer.Typer(
    help="Alignment fine-tuning on Ray: look at data, plan and run, label chains of thought, see what came of it.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    add_completion=False,
)
RunArgument = Annotated[str, typer.Argument(help="directory of a finished run, also s3://...", show_default=False)]
TaskOption = Annotated[TaskName, typer.Option(help="how questions are read, asked and checked", show_default=False)]
AnswerOption = Annotated[str, typer.Option(help="custom: number, choice, expression, text, or your function as module:name")]
GpuName = Literal["l40s-48", "a100-40", "a100-80", "h100-80", "h200-141", "b200-180"]
SecondsOption = Annotated[float, typer.Option(help="limit of a single check", min=0.01)]


class JobSettings(BaseSettings, RunConfig):
    """Every field can be set here, as in --alignment.beta 0.2; --config FILE.yaml sets any of them from a file."""

    model_config = SettingsConfigDict(cli_avoid_json=True, cli_hide_none_type=True)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The job's own settings and the command line; never the environment, where a stray NAME or SEED may stand."""
        return (init_settings,)


def run_job(job: RunConfig, arguments: list[str] | None = None) -> None:
    """Run a job file's configuration as the command line overrides it. Exits with 2 where settings or input are wrong."""
    console = Console(file=sys.stdout)  # this one, also when Ray's output is sent elsewhere
    config = parse_or_exit(job, sys.argv[1:] if arguments is None else arguments, console)
    # Only now: --help and wrong settings need not wait for Ray, torch and transformers.
    from aft_ray.capacity import NotEnoughResourcesError
    from aft_ray.evaluation.summary import print_summary
    from aft_ray.run import Run
    from aft_ray.storage import TwoRunsError
    from aft_ray.tasks import BadInputError

    try:
        run = Run(config, console)
    except (BadInputError, NotEnoughResourcesError) as error:
        refuse(str(error), console)
    logs = run.logs
    keep_chatter(logs)
    try:
        summary = run.execute()
    except (TwoRunsError, NotEnoughResourcesError, BadInputError) as error:
        refuse(str(error), console)
    except (KeyboardInterrupt, SystemExit) as stop:  # Ray exits on SIGTERM, which is also how `ray job stop` comes
        console.print("Stopped. The same command goes on from here.")
        sys.exit(INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED)
    except Exception:
        console.print(f"Failed. Logs: {logs}. The same command goes on from the last finished stage.", soft_wrap=True)
        raise
    print_summary(summary, console)
    for name, path in (("Report", run.folder / "report.html"), ("Model", run.model), ("Logs", logs)):
        console.print(f"{name:<8} {path}", soft_wrap=True, highlight=False)


def parse_or_exit(job: RunConfig, arguments: list[str], console: Console) -> RunConfig:
    try:
        return parse(job, arguments)
    except ValidationError as error:
        refuse_settings(error, console)
    except (OSError, ValueError) as error:
        refuse(str(error), console)


def refuse_settings(error: ValidationError, console: Console) -> NoReturn:
    faults = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}, found {e['input']!r:.60}" for e in error.errors()]
    refuse("\n".join(["The settings are not valid:", *faults]), console)


def refuse(message: str, console: Console) -> NoReturn:
    console.print(message, style="red", markup=False, soft_wrap=True)
    sys.exit(BAD_INPUT)


def keep_chatter(logs: Path) -> None:
    """What Ray prints, and what C++ libraries write to descriptor 2, goes to the log; Python's errors stay on the screen."""
    logs.mkdir(parents=True, exist_ok=True)
    sys.stdout = (logs / "driver.log").open("a", buffering=1, encoding="utf-8")
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    log = os.open(logs / "driver.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    os.close(log)


def parse(job: RunConfig, arguments: list[str]) -> RunConfig:
    """The job's settings, overridden by a file named by --config, overridden by the command line."""
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config", type=Path)
    known, rest = files.parse_known_args(arguments)
    settings = job.model_dump()
    if known.config is not None:
        settings = _merged(settings, load_yaml(known.config))
    parsed = CliApp.run(JobSettings, cli_args=rest, **settings)
    return RunConfig.model_validate(parsed.model_dump())


def _merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return settings | {
        key: _merged(settings[key], value) if isinstance(value, dict) and isinstance(settings.get(key), dict) else value
        for key, value in changes.items()
    }


@app.command()
def label(
    file: Annotated[Path, typer.Argument(help="JSON lines with gold and completion", show_default=False)],
    task: TaskOption,
    out: Annotated[Path, typer.Option(help="where the labelled rows go, JSON lines", show_default=False)],
    answer: AnswerOption = "number",
    check_seconds: SecondsOption = CHECK_SECONDS,
) -> None:
    """Label completions: each row comes back with verdict (right, wrong, unknown), extracted and reason.

    Rows of questions with options hold them as choices or options. Broken rows are told by line and left out.
    """
    from aft_ray.isolated import NotLoadableError
    from aft_ray.label_file import label_file
    from aft_ray.tasks import TASKS
    from aft_ray.tasks.answers import answer_of_kind

    console = Console(stderr=True)
    if task == "mixture":
        refuse("A mixture has no answers of its own: label the rows of each task by its name.", console)
    kind = answer_of_kind(answer) if task == "custom" else TASKS[task].answer
    try:
        counts = label_file(file, out, kind, check_seconds, console)
    except OSError as error:
        refuse(f"{error.filename}: {error.strerror}", console)
    except NotLoadableError as error:
        refuse(str(error), console)
    told = ", ".join(f"{counts.get(name, 0):,} {name}" for name in ("right", "wrong", "unknown", "broken"))
    console.print(f"{out}: {told}", highlight=False, soft_wrap=True)


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(help="questions: JSON lines, Parquet, a saved dataset, or hf:NAME:SPLIT", show_default=False)
    ],
    task: TaskOption,
    test: Annotated[Path | None, typer.Option(help="held-out questions, to be looked for among the others")] = None,
    model: Annotated[
        Path | None, typer.Option(help="directory of a model: lengths and examples in its tokens", exists=True, file_okay=False)
    ] = None,
    answer: AnswerOption = "number",
    field: Annotated[list[str] | None, typer.Option(help="custom: NAME=COLUMN, as in gold=solution; may be given again")] = None,
    chat: Annotated[bool, typer.Option(help="by the model's own chat template")] = False,
    few_shot: Annotated[int, typer.Option(help="examples before each question", min=0)] = 0,
    max_prompt_tokens: Annotated[int, typer.Option(help="a longer prompt is not asked")] = MAX_PROMPT_TOKENS,
    max_tokens: Annotated[int, typer.Option(help="a longer prompt with reference is left out")] = MAX_TOKENS,
) -> None:
    """Look at questions before anything is spent on them: faults by file:line:field, lengths, doubles, golds, examples.

    The same that a run looks at before it starts.
    """
    from transformers import AutoTokenizer

    from aft_ray.data_check import Limits, check_questions, print_examples, print_report
    from aft_ray.tasks import BadInputError, make_tasks

    console = Console()
    try:
        fields = FieldsConfig.model_validate(dict(pair.partition("=")[::2] for pair in field or []))
        config = TaskConfig(name=task, train_file=file, test_file=test, answer=answer, fields=fields)
    except ValidationError as error:
        refuse_settings(error, console)
    try:
        tokenizer = None if model is None else AutoTokenizer.from_pretrained(model)
        found, reports = check_questions(config, 0, tokenizer, PromptConfig(chat=chat, few_shot=few_shot), LabellingConfig())
    except (BadInputError, OSError) as error:
        refuse(str(error), console)
    print_report(reports, Limits(max_prompt_tokens, max_tokens), found.counts, console)
    for report in reports:
        print_examples(report, make_tasks(config)[report.task], tokenizer, console)


@app.command()
def plan(
    job: Annotated[Path, typer.Argument(help="a job file (jobs/*.py, with JOB = RunConfig(...)) or a YAML", show_default=False)],
    model_config: Annotated[
        Path | None, typer.Option(help="directory with the model's config.json, where the model itself is not here")
    ] = None,
    gpu: Annotated[GpuName, typer.Option(help="what a node has")] = "h100-80",
    gpus_per_node: Annotated[int, typer.Option(min=1)] = 8,
    host_gb: Annotated[float, typer.Option(help="memory of a node's host, GB")] = 1000.0,
    price: Annotated[float | None, typer.Option(help="of a GPU, an hour")] = None,
    training_utilisation: Annotated[float, typer.Option(help="of the GPU's peak FLOPs, in training", min=0.01, max=1)] = 0.35,
    sampling_utilisation: Annotated[float, typer.Option(help="of the GPU's peak FLOPs, in sampling", min=0.001, max=1)] = 0.1,
    questions: Annotated[int | None, typer.Option(help="to train on, where the task's files are not here", min=1)] = None,
    held_out: Annotated[int | None, typer.Option(help="held out, likewise", min=1)] = None,
    prompt_tokens: Annotated[float | None, typer.Option(help="mean of a prompt, likewise", min=1)] = None,
    chain_tokens: Annotated[float | None, typer.Option(help="mean of a chain, likewise", min=1)] = None,
) -> None:
    """What a run will need: memory, machines, tokens, hours, price, and what does not fit with the nearest setting that does.

    Needs no GPU and no weights. Exits with 3 where something does not fit.
    """
    from aft_ray.planning.gpus import GPUS
    from aft_ray.planning.lengths import find_lengths
    from aft_ray.planning.plan import Machine, make_plan
    from aft_ray.planning.report import print_plan
    from aft_ray.planning.shape import ModelShape
    from aft_ray.tasks import BadInputError

    console = Console()
    try:
        config = load_job(job)
        shape = ModelShape(model_config or config.model.path)
        lengths = find_lengths(config, questions, held_out, prompt_tokens, chain_tokens)
    except ValidationError as error:
        refuse_settings(error, console)
    except (BadInputError, OSError, ValueError) as error:
        refuse(str(error), console)
    machine = Machine(GPUS[gpu], gpus_per_node, host_gb * 1e9, price, training_utilisation, sampling_utilisation)
    made = make_plan(config, shape, lengths, machine)
    print_plan(made, console)
    if not made.fits:
        sys.exit(DOES_NOT_FIT)


@app.command()
def init(
    questions: Annotated[Path, typer.Argument(help="JSON lines or Parquet with questions and gold answers", show_default=False)],
    model: Annotated[Path, typer.Option(help="directory of the model", exists=True, file_okay=False, show_default=False)],
    test: Annotated[Path | None, typer.Option(help="held-out questions; without, every fifth of the others is held out")] = None,
    out: Annotated[Path, typer.Option(help="the job file")] = Path("job.py"),
) -> None:
    """Write a job file for your questions: columns and the kind of answer are found by looking. Read it, change it, run it."""
    from aft_ray.init_job import init_job
    from aft_ray.tasks import BadInputError

    console = Console()
    if out.exists():
        refuse(f"{out} is there already: remove it, or name another by --out", console)
    try:
        task = init_job(questions, test, model, out)
    except (BadInputError, OSError) as error:
        refuse(str(error), console)
    kind = f"{task.name}, answers of kind {task.answer}" if task.name == "custom" else task.name
    console.print(f"{out}: task {kind}; trained on {task.train_file}, held out {task.test_file}", soft_wrap=True, highlight=False)
    console.print(f"Next: aft-ray check {task.train_file} --task {task.name} ..., or at once: aft-ray run {out}", soft_wrap=True)


@app.command(context_settings=REST)
def run(
    job: Annotated[
        str, typer.Argument(help="a job file (JOB = RunConfig(...)), YAML, or a run's config.json", show_default=False)
    ],
    context: typer.Context,
) -> None:
    """Run a job to its end, or go on with one: `aft-ray run jobs/quickstart.py --alignment.beta 0.1`.

    What follows the job are its settings (all of them: aft-ray run JOB -- --help). Exits with 2 where settings or input are
    wrong, 130 or 143 where it was stopped, 1 where it failed; the same command goes on from there.
    """
    from aft_ray.places import place

    console = Console()
    try:
        config = load_job(place(job))
    except ValidationError as error:
        refuse_settings(error, console)
    except (OSError, ValueError) as error:
        refuse(str(error), console)
    sys.argv[0] = os.path.realpath(job)  # whose folder Ray's workers look into for modules, as for a script's
    run_job(config, context.args)


@app.command()
def report(run: RunArgument) -> None:
    """Write report.html of a finished run anew, and print where it is."""
    from aft_ray.places import place
    from aft_ray.report.found import NoRunError
    from aft_ray.report.page import write_report

    try:
        print(write_report(place(run)))
    except NoRunError as error:
        refuse(str(error), Console())


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="directories of finished runs; the others are compared with the first")],
) -> None:
    """The last models of runs side by side, with paired tests on the questions that they have in common."""
    from aft_ray.places import place
    from aft_ray.report.compare import print_comparison
    from aft_ray.report.found import FoundRun, NoRunError

    console = Console()
    if len(runs) < 2:
        refuse("Two runs at least: aft-ray compare RUN RUN", console)
    try:
        print_comparison([FoundRun(place(run)) for run in runs], console)
    except NoRunError as error:
        refuse(str(error), console)


@app.command()
def export(
    run: RunArgument,
    kind: Annotated[
        Literal["preference", "prompt-completion", "messages"],
        typer.Option("--as", help="pairs for DPO; right chains for SFT; conversations", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="FILE.jsonl, FILE.parquet, or a directory for datasets", show_default=False)],
    split: Annotated[str, typer.Option(help="of the questions")] = "train",
) -> None:
    """Write the candidates of a run's first round as a data set that other trainers take: TRL's, OpenAI's, datasets'."""
    from aft_ray.export_candidates import export_candidates
    from aft_ray.places import place

    try:
        number = export_candidates(place(run), kind, split, out)
    except (OSError, ValueError) as error:
        refuse(str(error), Console())
    print(f"{out}: {number:,} rows")


@app.command()
def view(
    run: RunArgument,
    port: Annotated[int, typer.Option(help="on this machine", min=1, max=65535)] = 8333,
) -> None:
    """Browse the questions of a run and their chains, with their scores before and after alignment, in a browser. Ctrl-C ends it.

    Only this machine can reach it; elsewhere: ssh -L 8333:127.0.0.1:8333 HOST.
    """
    from aft_ray.places import place
    from aft_ray.report.found import FoundRun, NoRunError
    from aft_ray.report.view import HOST, make_app, serve

    console = Console()
    try:
        app_of_run = make_app(FoundRun(place(run)))
        console.print(f"http://{HOST}:{port}")
        serve(app_of_run, port)
    except NoRunError as error:
        refuse(str(error), console)


def load_job(path: Path | UPath) -> RunConfig:
    """The configuration in a job file, a YAML or a run's config.json. Raises ValueError where there is none."""
    if path.suffix in (".yaml", ".yml", ".json"):
        return RunConfig.model_validate(load_yaml(path))
    sys.path.insert(0, os.path.realpath(str(path.parent)))
    job = runpy.run_path(str(path), run_name="aft_ray_plan").get("JOB")
    if not isinstance(job, RunConfig):
        raise ValueError(f"{path}: no JOB = RunConfig(...) at its top level")
    return job
