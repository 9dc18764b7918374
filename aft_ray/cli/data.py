"""Commands on the user's own files: init, check, label."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from aft_ray.cli.app import FILES, AnswerOption, SecondsOption, TaskOption, app
from aft_ray.cli.job import refuse, refuse_settings
from aft_ray.config import FieldsConfig, LabellingConfig, PromptConfig, SamplingConfig, TaskConfig, TaskName, TrainingConfig

CHECK_SECONDS = LabellingConfig().check_seconds
ANSWER = "number"
MAX_PROMPT_TOKENS, MAX_TOKENS = SamplingConfig().max_prompt_tokens, TrainingConfig().max_tokens


@app.command(rich_help_panel=FILES)
def init(
    questions: Annotated[
        Path, typer.Argument(help="with gold answers: JSON lines, Parquet, a saved dataset, or hf:NAME:SPLIT", show_default=False)
    ],
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
        written = init_job(questions, test, model, out)
    except (BadInputError, OSError) as error:
        refuse(str(error), console)
    task = written.task
    kind = f"{task.name}, answers of kind {task.answer}" if task.name == "custom" else task.name
    told = f"{out}: task {kind}; trained on {task.train_file}, held out {task.test_file}"
    console.print(told, soft_wrap=True, highlight=False, markup=False)
    if not written.vft:
        told = "No training question has a reference: the job goes without VFT, by sampling.sample_from and alignment.start_from"
        console.print(told, soft_wrap=True, highlight=False)
    run = shlex.join(["aft-ray", "run", str(out)])
    console.print(f"Next: {check_command(task, model)}\nOr at once: {run}", soft_wrap=True, highlight=False, markup=False)


def check_command(task: TaskConfig, model: Path) -> str:
    """What shows the questions of a job to their user, to be pasted into a shell."""
    words = ["aft-ray", "check", str(task.train_file), "--test", str(task.test_file), "--model", str(model), "--task", task.name]
    if task.name == "custom":
        words += ["--answer", task.answer]
        for name, column in task.fields.model_dump(exclude_defaults=True).items():
            words += ["--field", f"{name}={column}"]
    return shlex.join(words)


@app.command(rich_help_panel=FILES)
def check(
    file: Annotated[
        Path, typer.Argument(help="questions: JSON lines, Parquet, a saved dataset, or hf:NAME:SPLIT", show_default=False)
    ],
    task: TaskOption,
    test: Annotated[Path | None, typer.Option(help="held-out questions, to be looked for among the others")] = None,
    model: Annotated[
        Path | None, typer.Option(help="directory of a model: lengths and examples in its tokens", exists=True, file_okay=False)
    ] = None,
    answer: AnswerOption = ANSWER,
    field: Annotated[list[str] | None, typer.Option(help="custom: NAME=COLUMN, as in gold=solution; may be given again")] = None,
    chat: Annotated[bool, typer.Option(help="by the model's own chat template")] = False,
    few_shot: Annotated[int, typer.Option(help="examples before each question", min=0)] = 0,
    max_prompt_tokens: Annotated[int, typer.Option(help="a longer prompt is not asked")] = MAX_PROMPT_TOKENS,
    max_tokens: Annotated[int, typer.Option(help="a longer prompt with reference is left out")] = MAX_TOKENS,
) -> None:
    """Look at questions before anything is spent on them: faults by file:line:field, lengths, doubles, golds, examples.

    The same that a run looks at before it starts.
    """
    from aft_ray.data_check import Limits, check_questions, print_examples, print_report, read_tokenizer
    from aft_ray.tasks import TASKS, BadInputError, make_tasks

    console = Console()
    if task in TASKS and TASKS[task].generate is not None:
        refuse(f"Task {task} makes its questions from a seed and reads no file: {file} would not be looked at.", console)
    limits = Limits(max_prompt_tokens, max_tokens)
    if model is None and (chat or few_shot or limits != Limits(MAX_PROMPT_TOKENS, MAX_TOKENS)):
        refuse("--chat, --few-shot and limits in tokens need --model: without its tokenizer there is no prompt.", console)
    check_custom(task, answer, bool(field), console)
    try:
        fields = FieldsConfig.model_validate(dict(pair.partition("=")[::2] for pair in field or []))
        config = TaskConfig(name=task, train_file=file, test_file=test, answer=answer, fields=fields)
    except ValidationError as error:
        refuse_settings(error, console)
    try:
        tokenizer = None if model is None else read_tokenizer(model)
        found, reports = check_questions(config, 0, tokenizer, PromptConfig(chat=chat, few_shot=few_shot), LabellingConfig())
    except (BadInputError, OSError) as error:
        refuse(str(error), console)
    print_report(reports, limits, found.counts, console)
    for report in reports:
        print_examples(report, make_tasks(config)[report.task], tokenizer, console)


def check_custom(task: TaskName, answer: str, fields: bool, console: Console) -> None:
    """Refuses what only a custom task heeds."""
    if task != "custom" and (fields or answer != ANSWER):
        refuse(f"--answer and --field are for --task custom: task {task} has answers and columns of its own.", console)


@app.command(rich_help_panel=FILES)
def label(
    file: Annotated[Path, typer.Argument(help="JSON lines with gold and completion", show_default=False)],
    task: TaskOption,
    out: Annotated[Path, typer.Option(help="where the labelled rows go, JSON lines", show_default=False)],
    answer: AnswerOption = ANSWER,
    check_seconds: SecondsOption = CHECK_SECONDS,
) -> None:
    """Label completions: each row comes back with verdict (right, wrong, unknown), extracted and reason.

    Rows of questions with options hold them as choices or options. Broken rows are told by line and left out.
    """
    from aft_ray.isolated import NotLoadableError
    from aft_ray.label_file import label_file
    from aft_ray.tasks import TASKS, BadInputError
    from aft_ray.tasks.answers import answer_of_kind

    console = Console(stderr=True)
    if task == "mixture":
        refuse("A mixture has no answers of its own: label the rows of each task by its name.", console)
    check_custom(task, answer, False, console)
    kind = answer_of_kind(answer) if task == "custom" else TASKS[task].answer
    try:
        counts = label_file(file, out, kind, check_seconds, console)
    except OSError as error:
        refuse(f"{error.filename or out}: {error.strerror}", console)
    except (NotLoadableError, BadInputError) as error:
        refuse(str(error), console)
    told = ", ".join(f"{counts.get(name, 0):,} {name}" for name in ("right", "wrong", "unknown", "broken"))
    console.print(f"{out}: {told}", highlight=False, soft_wrap=True)
