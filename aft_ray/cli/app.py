"""The application that the commands belong to, and the options that several of them have."""

from typing import Annotated

import typer

from aft_ray.config import TaskName

app = typer.Typer(
    help="Alignment fine-tuning on Ray: look at data, plan and run, label chains of thought, see what came of it.",
    epilog="Exit codes: 0 done, 1 failed, 2 settings or input are wrong, 3 what was planned does not fit, 130 stopped by Ctrl-C, "
    "143 by SIGTERM. A run that was stopped or has failed goes on by the same command.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
FILES, MAKING, READING = "Your own files", "Runs, whole or in part", "What came of a run"
RunArgument = Annotated[str, typer.Argument(help="directory of a finished run, also s3://...", show_default=False)]
TaskOption = Annotated[TaskName, typer.Option(help="how questions are read, asked and checked", show_default=False)]
AnswerOption = Annotated[str, typer.Option(help="custom: number, choice, expression, text, or your function as module:name")]
SecondsOption = Annotated[float, typer.Option(help="limit of a single check", min=0.01)]
