"""TensorBoard, MLflow and Weights & Biases: in each of them one run for a run of ours, over all its stages and restarts.

They are spoken to by the driver alone, so workers need neither their packages nor their credentials. How each is set up, its own
environment variables say (docs/tracking.md).
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from pydantic import BaseModel, TypeAdapter
from rich.console import Console

from aft_ray.config import RunConfig, TrackingConfig
from aft_ray.places import Place, make_folder, write_atomically
from aft_ray.progress import SECONDS_BETWEEN_LINES, Look, Measures
from aft_ray.report.found import read_training
from aft_ray.tasks import BadInputError

PACKAGES = {
    "tensorboard": ("tensorboardX", "tensorboardX"),
    "mlflow": ("mlflow", "mlflow-skinny sqlalchemy alembic"),
    "wandb": ("wandb", "'wandb>=0.31'"),
}
"""Of each tracker: the module, and what pip is asked for."""
SECONDS_TO_END = 60.0
MLFLOW_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
"""Where the environment says nothing else: a minute for a request. By itself MLflow tries for a quarter of an hour."""
TOLD_FILE = "told.json"
Row = tuple[int, dict[str, float]]
"""A step, or the number of questions done, and what is known then."""


class Tracker(Protocol):
    """Made as `Tracker(name, config, folder, begun)`; `begun` is the `id` of the run that goes on, None for a new one."""

    id: str

    def log(self, stage: str, rows: Sequence[Row]) -> None: ...

    def end(self, succeeded: bool) -> None: ...


class TensorBoard:
    """Each start of the driver writes a file of its own; TensorBoard reads all in the folder as one run."""

    def __init__(self, name: str, config: dict[str, Any], folder: Path, begun: str | None) -> None:
        from tensorboardX import SummaryWriter

        self.id = name
        # By itself it would write over the file of a start within the same second.
        self.writer = SummaryWriter(str(folder), filename_suffix=f".{time.time_ns()}")
        if begun is None:
            self.writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```", 0)

    def log(self, stage: str, rows: Sequence[Row]) -> None:
        for step, values in rows:
            for name, value in values.items():
                self.writer.add_scalar(f"{stage}/{name}", value, step)
        self.writer.flush()

    def end(self, succeeded: bool) -> None:
        self.writer.close()


class MLflow:
    def __init__(self, name: str, config: dict[str, Any], folder: Path, begun: str | None) -> None:
        for setting, value in MLFLOW_PATIENCE.items():
            os.environ.setdefault(setting, value)
        import mlflow
        from mlflow.entities import Param

        run = mlflow.start_run(run_id=begun, run_name=name)
        self.id: str = run.info.run_id
        self.client = mlflow.MlflowClient()
        # Told with the first measures: where that fails the run's id is known already, and the next start tells them.
        self.params = [Param(path, str(value)) for path, value in flat(config) if path not in run.data.params]

    def log(self, stage: str, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(f"{stage}/{name}", value, now, step) for step, values in rows for name, value in values.items()]
        self.client.log_batch(self.id, metrics, self.params)  # by its id: the active run is that of a thread
        self.params = []

    def end(self, succeeded: bool) -> None:
        import mlflow

        mlflow.end_run("FINISHED" if succeeded else "FAILED")


class WandB:
    def __init__(self, name: str, config: dict[str, Any], folder: Path, begun: str | None) -> None:
        import wandb

        online = wandb.setup().settings.mode not in ("offline", "dryrun", "disabled")
        if online and not wandb.login(prompt=False, verify=False):  # else it would ask on the terminal, and wait for ever
            raise ValueError("no key: set WANDB_API_KEY, or run `wandb login`, or set WANDB_MODE=offline")
        # A network that is gone keeps no run from ending: what was not sent is on the disk, for `wandb sync`.
        settings = wandb.Settings(console="off", quiet=True, finish_timeout=SECONDS_TO_END)
        self.run = wandb.init(id=begun, resume="allow", name=name, config=None if begun else config, settings=settings)
        self.id: str = self.run.id
        self.stages: set[str] = set()

    def log(self, stage: str, rows: Sequence[Row]) -> None:
        if stage not in self.stages:  # each counts its own steps
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self.stages.add(stage)
        for step, values in rows:
            self.run.log({f"{stage}/step": step} | {f"{stage}/{name}": value for name, value in values.items()})

    def end(self, succeeded: bool) -> None:
        self.run.finish(exit_code=0 if succeeded else 1)


TRACKERS: dict[str, Callable[[str, dict[str, Any], Path, str | None], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


class Told(BaseModel):
    """What a tracker has been told: its own id of the run, and how far it is in each stage."""

    id: str
    steps: dict[str, int] = {}


ALL_TOLD = TypeAdapter(dict[str, Told])


class Tracking:
    """`with Tracking(...) as tracking:` begins, or goes on with, the run in each tracker that `config.tracking` names.

    What they have been told is kept in the run's directory, so that steps done again are not told again. One that fails never
    ends a run: a line says so, and it is left out until the stage has ended; one that cannot even begin, until the next start.
    """

    def __init__(self, config: RunConfig, folder: Place, local: Path, fingerprint: str, console: Console) -> None:
        """`fingerprint`: of all that decides the results. With another one it is another run to the trackers.

        `local`: where the run has its files on a disk of this machine.
        """
        self.config, self.console = config, console
        self.folder, self.local = folder / "tracking" / fingerprint, local / "tracking" / fingerprint
        self.file = self.folder / TOLD_FILE
        self.told: dict[str, Told] = {}
        self.trackers: dict[str, Tracker] = {}
        self.failed: dict[str, Tracker] = {}
        self.waiting: dict[str, list[Row]] = {}
        """By stage."""
        self.sent = time.monotonic()

    def __enter__(self) -> "Tracking":
        for name in self.config.tracking.to:
            with self._never_ending_the_run(name, "is not told of this start"):
                self._begin(name)
        return self

    def _begin(self, name: str) -> None:
        make_folder(self.local)
        make_folder(self.folder)
        if self.file.exists():
            try:
                self.told = ALL_TOLD.validate_json(self.file.read_text())
            except ValueError as error:
                raise ValueError(f"{self.file} cannot be read: remove it, and each tracker begins a new run") from error
        begun = self.told[name].id if name in self.told else None
        tracker = TRACKERS[name](self.config.name, self.config.model_dump(mode="json"), self.local, begun)
        self.trackers[name] = tracker
        self.told.setdefault(name, Told(id=tracker.id))
        self._keep()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name, tracker in (self.trackers | self.failed).items():
            with self._never_ending_the_run(name, "is not told of the end"):
                tracker.end(kind is None)

    def __call__(self, stage: str, look: Look, last: bool) -> None:
        """Listens to the progress of every stage: each step of a training, else how things stand every so often."""
        waiting = self.waiting.setdefault(stage, [])
        waiting += [(step, known(measures)) for step, measures in look.steps]
        if last or time.monotonic() - self.sent >= SECONDS_BETWEEN_LINES:
            if look.done and not look.latest:
                stands = {"rate": look.rate, "acceptance": look.acceptance, "pool_size": look.engines}
                waiting.append((look.done, known(stands)))
            for name, rows in self.waiting.items():
                self.log(name, rows)
            self.waiting, self.sent = {}, time.monotonic()

    def log_training(self, stage: Place) -> None:
        """Of a stage that is done: steps from before the trackers were there, or made while one failed."""
        self.trackers, self.failed = self.trackers | self.failed, {}
        training = read_training(stage) if self.trackers else None
        if training is not None:
            steps = zip(training.history, training.tokens_per_second, strict=True)
            rows = [(n, known(step | {"tokens_per_second": speed})) for n, (step, speed) in enumerate(steps, start=1)]
            self.log(stage.name, rows)

    def log_summary(self, summary: dict[str, Any]) -> None:
        figures: Measures = {}
        for model in summary["models"]:
            of_model = {name: model[name] for name in ("accuracy", "assessment_accuracy")} | {
                "majority": model["majority"]["mean"]
            }
            figures |= {f"{model['task']}/{model['name']}/{name}": value for name, value in of_model.items()}
        self.log("results", [(0, known(figures))])

    def log(self, stage: str, rows: Sequence[Row]) -> None:
        for name, tracker in list(self.trackers.items()):
            with self._never_ending_the_run(name, f"is told no more until {stage} is done"):
                steps = self.told[name].steps
                new = list(beyond(steps.get(stage, -1), rows))
                if new:
                    tracker.log(stage, new)
                    steps[stage] = new[-1][0]
                    self._keep()

    def _keep(self) -> None:
        write_atomically(self.file, ALL_TOLD.dump_json(self.told, indent=2).decode() + "\n")

    @contextmanager
    def _never_ending_the_run(self, name: str, so: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a library of any kind
            if name in self.trackers:
                self.failed[name] = self.trackers.pop(name)
            why = f"{type(error).__name__}: {error}"[:500]
            told = f"tracking: {name} {so}: {why}"
            if name in self.told:
                run = self.told[name].id
                told += f"\nWas its run {run} deleted there? Then remove {name} from {self.file}, and a new one begins."
            self.console.print(told, style="yellow", markup=False, highlight=False)


def check_installed(config: TrackingConfig) -> None:
    """Raises BadInputError where the package of a tracker is missing."""
    faults = []
    for name in config.to:
        module, packages = PACKAGES[name]
        found = find_spec(module)
        if found is None or found.origin is None:  # a folder of that name, such as wandb makes, is no package
            faults.append(f"tracking.to: {name} needs a package that is not installed: pip install {packages}")
    if faults:
        raise BadInputError(faults)


def beyond(step: int, rows: Iterable[Row]) -> Iterator[Row]:
    """Those of ever greater steps: a training that goes on from a checkpoint makes some again, with the same result."""
    for row in rows:
        if row[0] > step:
            step = row[0]
            yield row


def known(measures: Measures) -> dict[str, float]:
    return {name: float(value) for name, value in measures.items() if value is not None}


def flat(settings: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting by its path, as on the command line."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value
