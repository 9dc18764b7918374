"""The application that the commands belong to, and the options that several of them have."""

from typing import Annotated

import typer

from aft_ray.config import TaskName

app = typer.Typer(
    help="Alignment fine-tuning on Ray: look at data, plan and run, label chains of thought, see what came of it.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
RunArgument = Annotated[str, typer.Argument(help="directory of a finished run, also s3://...", show_default=False)]
TaskOption = Annotated[TaskName, typer.Option(help="how questions are read, asked and checked", show_default=False)]
AnswerOption = Annotated[str, typer.Option(help="custom: number, choice, expression, text, or your function as module:name")]
SecondsOption = Annotated[float, typer.Option(help="limit of a single check", min=0.01)]
