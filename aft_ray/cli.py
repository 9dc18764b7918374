"""From the command line to a run: what a job file calls with its configuration."""

import argparse
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, PydanticBaseSettingsSource, SettingsConfigDict
from rich.console import Console

from aft_ray.config import RunConfig, load_yaml

BAD_INPUT = 2


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
    """Run a job file's configuration as the command line overrides it; exits with 2 where settings or input are wrong."""
    console = Console()
    try:
        config = parse(job, sys.argv[1:] if arguments is None else arguments)
        # Only now: --help and wrong settings need not wait for Ray, torch and transformers.
        from aft_ray.evaluation.summary import print_summary
        from aft_ray.run import Run
        from aft_ray.tasks import BadInputError
    except ValidationError as error:
        faults = [
            f"  {'.'.join(map(str, fault['loc']))}: {fault['msg']}, found {fault['input']!r:.60}" for fault in error.errors()
        ]
        console.print("The settings are not valid:", *faults, sep="\n", style="red", markup=False)
        sys.exit(BAD_INPUT)
    except (OSError, ValueError) as error:
        console.print(str(error), style="red", markup=False)
        sys.exit(BAD_INPUT)
    try:
        run = Run(config, console)
    except BadInputError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(BAD_INPUT)
    print_summary(run.execute(), console)
    console.print(
        f"Model: {run.folder / 'align' / 'model'}\nSummary: {run.folder / 'summary.json'}", soft_wrap=True, highlight=False
    )


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
