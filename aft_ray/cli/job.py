"""From a job's configuration and the command line to a run: what a job file calls, and `aft-ray run`."""

import argparse
import os
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, PydanticBaseSettingsSource, SettingsConfigDict
from rich.console import Console
from upath import UPath

from aft_ray.config import RunConfig, load_yaml
from aft_ray.places import Place

if TYPE_CHECKING:
    from aft_ray.run import Goal

BAD_INPUT, DOES_NOT_FIT = 2, 3
INTERRUPTED, TERMINATED = 130, 143


class JobSettings(BaseSettings, RunConfig):
    """Every field can be set here, as in --alignment.beta 0.2; --config FILE.yaml sets any of them from a file."""

    model_config = SettingsConfigDict(cli_avoid_json=True, cli_hide_none_type=True)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The job's own settings and the command line; never the environment, where a stray NAME or SEED may stand."""
        return (init_settings,)


def run_job(job: RunConfig, arguments: list[str] | None = None, until: "Goal | None" = None) -> Place:
    """Run a job file's configuration as the command line overrides it, or only a part of it; returns the run's directory.

    Exits with 2 where settings or input are wrong.
    """
    console = Console(file=sys.stdout)  # this one, also when Ray's output is sent elsewhere
    config = parse_or_exit(job, sys.argv[1:] if arguments is None else arguments, console)
    # Only now: --help and wrong settings need not wait for Ray, torch and transformers.
    from aft_ray.capacity import NotEnoughResourcesError
    from aft_ray.evaluation.summary import print_summary
    from aft_ray.run import Run
    from aft_ray.storage import TwoRunsError
    from aft_ray.tasks import BadInputError

    try:
        run = Run(config, console, until)
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
    if summary["models"]:
        print_summary(summary, console)
    made: dict[Goal | None, dict[str, Any]] = {
        "sample": {"Candidates": run.folder / "sample" / "groups"},
        "align": {"Model": run.model},
        "evaluate-base": {"Report": run.folder / "report.html"},
        None: {"Report": run.folder / "report.html", "Model": run.model},
    }
    for name, path in (made[until] | {"Logs": logs}).items():
        console.print(f"{name:<10} {path}", soft_wrap=True, highlight=False)
    return run.folder


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
    """The job's settings, overridden by a file named by --config, overridden by the command line.

    Of a task by another name nothing is the job's: how many questions it takes of its own is no word on others.
    """
    known, rest = _known(arguments, "--config")
    changes = {} if known is None else load_yaml(Path(known))
    other_task = _known(rest, "--task.name")[0] or (changes.get("task") or {}).get("name")
    settings = job.model_dump()
    if other_task not in (None, job.task.name):
        settings["task"] = {"name": other_task}
    settings = _merged(settings, changes)
    parsed = CliApp.run(JobSettings, cli_args=rest, **settings)
    return RunConfig.model_validate(parsed.model_dump())


def _known(arguments: list[str], option: str) -> tuple[str | None, list[str]]:
    """What the option says, and the arguments without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option, dest="told")
    known, rest = parser.parse_known_args(arguments)
    return known.told, rest


def _merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return settings | {
        key: _merged(settings[key], value) if isinstance(value, dict) and isinstance(settings.get(key), dict) else value
        for key, value in changes.items()
    }


def load_job(path: Path | UPath) -> RunConfig:
    """The configuration in a job file, a YAML or a run's config.json. Raises ValueError where there is none."""
    if path.is_dir():
        raise ValueError(f"{path}: a directory; a run's job is its config.json")
    if path.suffix in (".yaml", ".yml", ".json"):
        return RunConfig.model_validate(load_yaml(path))
    sys.path.insert(0, os.path.realpath(str(path.parent)))
    job = runpy.run_path(str(path), run_name="aft_ray_plan").get("JOB")
    if not isinstance(job, RunConfig):
        raise ValueError(f"{path}: no JOB = RunConfig(...) at its top level")
    return job
