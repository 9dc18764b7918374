"""Commands that make a run, or a part of it: run, sample, align, eval; and requests, for candidates from elsewhere."""

import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from aft_ray.cli.app import MAKING, app
from aft_ray.cli.job import load_job, parse_or_exit, refuse, refuse_settings, run_job
from aft_ray.config import ModelConfig, RunConfig

if TYPE_CHECKING:
    from aft_ray.run import Goal

OF_A_JOB: dict[str, Any] = {
    "rich_help_panel": MAKING,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "epilog": "SETTINGS are the job's own, as in --alignment.beta 0.1; all of them: aft-ray run JOB -- --help. "
    "What was made already, by whichever command, is not made again.",
}
JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB [SETTINGS]", help="a job file (JOB = RunConfig(...)), YAML, or a run's config.json", show_default=False
    ),
]


@app.command(**OF_A_JOB)
def run(job: JobArgument, context: typer.Context) -> None:
    """Run a job to its end, or go on with one: `aft-ray run jobs/quickstart.py --alignment.beta 0.1`."""
    run_job(open_job(job), context.args)


@app.command(**OF_A_JOB)
def sample(job: JobArgument, context: typer.Context) -> None:
    """Run a job as far as labelled candidates: VFT, then k chains of each question, right and wrong ones.

    Without VFT: --sampling.sample_from base
    """
    make_part(job, context.args, "sample", ("view {run}", "export {run} --as preference --out pairs.jsonl", "align {job}"))


@app.command(**OF_A_JOB)
def align(job: JobArgument, context: typer.Context) -> None:
    """Run a job as far as the aligned model, with no evaluation.

    On candidates from elsewhere, and nothing but the training: --sampling.candidates_file FILE --sampling.only_given true
    --alignment.start_from base --alignment.beta 0.2 (docs/stages.md)
    """
    make_part(job, context.args, "align", ("eval {job}",))


@app.command("eval", **OF_A_JOB)
def evaluate(
    job: JobArgument,
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Option(help="a model from elsewhere, alone", exists=True, file_okay=False, show_default=False)
    ] = None,
) -> None:
    """Evaluate a job's models, before and after alignment, on its held-out questions; what they need is made first.

    With --model, that model alone, in a run of its own; aft-ray compare puts it beside others.
    """
    opened = open_job(job)
    if model is None:
        run_job(opened, context.args)
    else:
        config = parse_or_exit(model_alone(opened, model), context.args, Console())
        refuse_another(config)
        run_job(config, [], "evaluate-base")


@app.command(**OF_A_JOB)
def requests(
    job: JobArgument,
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="the batch file, JSON lines", show_default=False)],
    model: Annotated[str | None, typer.Option(help="the name that requests carry, where a server asks for one")] = None,
) -> None:
    """Write what a job would sample for its training questions as a batch file, for vLLM or OpenAI to answer elsewhere."""
    from aft_ray.losses import has_boundary, loss_function
    from aft_ray.preflight import check_loss, check_model
    from aft_ray.sampling.batch_files import plain_template, write_requests
    from aft_ray.tasks import BadInputError

    console = Console()
    config = parse_or_exit(open_job(job), context.args, console)
    try:
        check_model(config.model.path)
        check_loss(config.alignment)
        number = write_requests(config, model, out)
    except (BadInputError, OSError) as error:
        refuse(str(error), console)
    template = "" if config.prompt.chat else f" --chat-template '{plain_template(config.model.path)}'"
    # The boundary is found from sampled chains, and of these there are none.
    bounded = config.alignment.beta == "auto" and has_boundary(loss_function(config.alignment.loss))
    boundary = ["--alignment.beta", "0.2"] if bounded else []
    then = shlex.join(["align", job, *context.args, "--sampling.candidates_file", "chains.jsonl", *boundary])
    console.print(f"{out}: {number:,} requests of {config.sampling.k} chains each", markup=False, highlight=False, soft_wrap=True)
    told = f"vllm run-batch -i {shlex.quote(str(out))} -o chains.jsonl --model MODEL{template}"
    console.print(f"Next: {told}\n      aft-ray {then}", markup=False, highlight=False, soft_wrap=True)


def open_job(job: str) -> RunConfig:
    """Exits with 2 where it is none."""
    from aft_ray.places import place

    console = Console()
    try:
        config = load_job(place(job))
    except ValidationError as error:
        refuse_settings(error, console)
    except OSError as error:
        refuse(f"{job}: {error.strerror or error}. aft-ray init writes a job file for your questions.", console)
    except ValueError as error:
        refuse(str(error), console)
    sys.argv[0] = os.path.realpath(job)  # whose folder Ray's workers look into for modules, as for a script's
    return config


def make_part(job: str, arguments: list[str], until: "Goal", then: tuple[str, ...]) -> None:
    """And tell what may come next, with the same settings."""
    console = Console(file=sys.stdout)  # which a run sends elsewhere
    folder = run_job(open_job(job), arguments, until)
    for command in then:
        told = command.format(job=shlex.join([job, *arguments]), run=shlex.quote(str(folder)))
        console.print(f"{'Next':<10} aft-ray {told}", markup=False, highlight=False, soft_wrap=True)


def model_alone(job: RunConfig, model: Path) -> RunConfig:
    """The job by which that model is evaluated: with nothing of the job's own run but its questions and how they are asked."""
    path = model.resolve()
    own = path.parts[-3:] if path.name == "model" else path.parts[-1:]  # of a run: the run, the stage, and `model`
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(own))
    return job.model_copy(
        update={
            "name": f"{job.name}-eval-{name}",
            "model": ModelConfig(path=path, precision=job.model.precision),
            "sampling": job.sampling.model_copy(update={"candidates_file": None, "only_given": False}),
        }
    )


def refuse_another(config: RunConfig) -> None:
    """Exits with 2 where a run of that name has evaluated another model, which would be lost."""
    file = config.runs_dir / config.name / "config.json"
    before = json.loads(file.read_text())["model"]["path"] if file.is_file() else str(config.model.path)
    if str(Path(before).resolve()) != str(config.model.path):
        told = f"{file.parent} holds the evaluation of {before}. Give that of {config.model.path} a name of its own: --name NAME"
        refuse(told, Console())
