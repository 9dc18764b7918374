"""Commands on jobs and finished runs: plan, report, compare, view, publish, export."""

import socket
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError
from rich.console import Console

from aft_ray.cli.app import MAKING, READING, RunArgument, app
from aft_ray.cli.job import DOES_NOT_FIT, load_job, refuse, refuse_settings

GpuName = Literal["l40s-48", "a100-40", "a100-80", "h100-80", "h200-141", "b200-180"]


@app.command(rich_help_panel=MAKING)
def plan(
    job: Annotated[Path, typer.Argument(help="a job file (jobs/*.py, with JOB = RunConfig(...)) or a YAML", show_default=False)],
    model_config: Annotated[
        Path | None,
        typer.Option(
            help="directory with the model's config.json, where the model itself is not here", exists=True, file_okay=False
        ),
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
        machine = Machine(GPUS[gpu], gpus_per_node, host_gb * 1e9, price, training_utilisation, sampling_utilisation)
        made = make_plan(config, shape, lengths, machine)
    except ValidationError as error:
        refuse_settings(error, console)
    except (BadInputError, OSError, ValueError) as error:
        refuse(str(error), console)
    print_plan(made, console)
    if not made.fits:
        sys.exit(DOES_NOT_FIT)


@app.command(rich_help_panel=READING)
def report(run: RunArgument) -> None:
    """Write report.html of a finished run anew, and print where it is."""
    from aft_ray.places import place
    from aft_ray.report.found import NoRunError
    from aft_ray.report.page import write_report

    try:
        print(write_report(place(run)))
    except NoRunError as error:
        refuse(str(error), Console())


@app.command(rich_help_panel=READING)
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


@app.command(rich_help_panel=READING)
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
    except NoRunError as error:
        refuse(str(error), console)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            free.bind((HOST, port))
        except OSError as error:
            refuse(f"port {port}: {error.strerror}; another one by --port", console)
    console.print(f"http://{HOST}:{port}")
    serve(app_of_run, port)


@app.command(rich_help_panel=READING)
def publish(
    run: RunArgument,
    out: Annotated[Path, typer.Argument(help="the directory to make", show_default=False)],
    licence: Annotated[str | None, typer.Option("--license", help="for the card, by the hub's names, as apache-2.0")] = None,
    base_model: Annotated[str | None, typer.Option(help="the base model's ORG/NAME on the hub, for the card")] = None,
    push: Annotated[str | None, typer.Option(help="ORG/NAME to upload it to, as the user of `hf auth login`")] = None,
    public: Annotated[bool, typer.Option("--public", help="a repository that --push makes is for all to see")] = False,
) -> None:
    """Make a directory for a model hub of a run's model: weights, tokenizer, settings, a model card with the run's figures."""
    from aft_ray import publish as publishing
    from aft_ray.places import place
    from aft_ray.report.found import NoRunError

    console = Console()
    try:
        publishing.publish(place(run), out, licence, base_model)
        print(f"{out}: read its README.md" + ("" if push else f"; upload it by: hf upload ORG/NAME {out} --private"))
        if push:
            print(publishing.push(out, push, public))
    except (NoRunError, ValidationError, OSError, ValueError) as error:
        refuse(str(error), console)


@app.command(rich_help_panel=READING)
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
    from aft_ray.report.found import NoRunError

    try:
        number = export_candidates(place(run), kind, split, out)
    except (NoRunError, OSError, ValueError) as error:
        refuse(str(error), Console())
    print(f"{out}: {number:,} rows")
