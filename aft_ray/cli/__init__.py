"""The command line: what a job file calls with its configuration, and the commands of `aft-ray`."""

from aft_ray.cli import data, runs, stages  # noqa: F401  # they make their commands known to the application
from aft_ray.cli.app import app
from aft_ray.cli.job import BAD_INPUT, DOES_NOT_FIT, INTERRUPTED, TERMINATED, load_job, parse, run_job

__all__ = ["BAD_INPUT", "DOES_NOT_FIT", "INTERRUPTED", "TERMINATED", "app", "load_job", "parse", "run_job"]
