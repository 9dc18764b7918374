"""What a run has left in its directory, read for those who show it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from aft_ray.losses import LOSSES, has_boundary, loss_function
from aft_ray.places import Place, files_below
from aft_ray.storage import read_manifest
from aft_ray.training.job import TOLD
from schemas import Evaluation, Question, StageManifest, iter_parquet

SUMMARY = "summary.json"


class NoRunError(Exception):
    """There is no finished run in that directory."""


@dataclass(frozen=True)
class Training:
    """Of a training stage, step by step: seconds, and what `batch_measures` says of it, with learning rate and tokens."""

    stage: str
    seconds: list[float]
    history: list[dict[str, float | None]]

    def values(self, name: str) -> list[float | None]:
        return [step.get(name) for step in self.history]

    @cached_property
    def tokens_per_second(self) -> list[float | None]:
        return [None if t is None else t / s for t, s in zip(self.values("tokens"), self.seconds, strict=True)]


def read_training(stage: Place) -> Training | None:
    """Of a stage that is done; None where it trained nothing."""
    try:
        told = json.loads((stage / TOLD).read_text())
    except FileNotFoundError:
        return None
    seconds, history = told["step_seconds"], told["history"]
    if isinstance(seconds, float):  # of a training before its steps told theirs
        seconds = [seconds / max(1, len(history))] * len(history)
    return Training(stage.name, seconds, history)


@dataclass(frozen=True)
class FoundRun:
    """A finished run. Raises NoRunError where a file of it is missing or broken."""

    folder: Place

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_text())
        except FileNotFoundError as error:
            raise NoRunError(f"{self.folder}: no finished run ({name} is missing)") from error
        except (OSError, ValueError) as error:
            raise NoRunError(f"{self.folder / name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
        return found

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._read("config.json")

    @cached_property
    def summary(self) -> dict[str, Any]:
        return self._read(SUMMARY)

    @property
    def evaluated(self) -> bool:
        """Whether it has come to its end; it may have stopped at its candidates."""
        return (self.folder / SUMMARY).exists()

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @cached_property
    def stages(self) -> list[str]:
        return [stage["name"] for stage in self.summary["stages"]]

    @cached_property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(model["task"] for model in self.summary["models"]))

    @cached_property
    def models(self) -> list[str]:
        """The one that was sampled first."""
        return list(dict.fromkeys(model["name"] for model in self.summary["models"]))

    @property
    def alone(self) -> bool:
        """Whether one model was evaluated, and none to compare it with."""
        return len(self.models) == 1

    @property
    def starts_from_first(self) -> bool:
        """Whether alignment started from the first model, so that what lies between the first and the last is its work alone."""
        return bool(self.models[0] == self.config["alignment"]["start_from"])

    @property
    def sampling_stages(self) -> list[str]:
        """Those that hold the candidates of the first round.

        Held-out questions may have been sampled apart; what lies there may also be of an earlier run, configured otherwise.
        """
        return [stage for stage in ("sample", "held-out") if stage == "sample" or (self.evaluated and stage in self.stages)]

    def model(self, name: str, task: str) -> dict[str, Any]:
        """What was measured of it on that task."""
        return next(model for model in self.summary["models"] if (model["name"], model["task"]) == (name, task))

    def comparison(self, task: str) -> dict[str, Any] | None:
        """Of the last model with the first; None of one that was evaluated alone."""
        return next((compared for compared in reversed(self.summary["comparisons"]) if compared["task"] == task), None)

    @cached_property
    def manifests(self) -> list[StageManifest]:
        found = (read_manifest(self.folder / stage) for stage in self.stages)
        return [manifest for manifest in found if manifest is not None]

    @cached_property
    def trainings(self) -> list[Training]:
        found = (read_training(self.folder / manifest.stage) for manifest in self.manifests)
        return [training for training in found if training is not None]

    def evaluations(self, model: str) -> list[Evaluation]:
        """In the order of their questions, so that those of two models stand beside each other."""
        return sorted(self.iter_evaluations(model), key=lambda evaluation: evaluation.question_id)

    def iter_evaluations(self, model: str) -> Iterator[Evaluation]:
        folder = self.folder / f"evaluate-{model}" / "evaluations"
        if not files_below(folder):
            raise NoRunError(f"{self.folder}: no finished run (evaluate-{model} is missing)")
        yield from iter_parquet(folder, Evaluation)

    @cached_property
    def texts(self) -> dict[str, str]:
        """Of the held-out questions, by their ids, which are only numbers in a file."""
        questions = iter_parquet(self.folder / "questions" / "questions.parquet", Question)
        return {question.question_id: question.text for question in questions if question.split != "train"}

    @cached_property
    def beta(self) -> float | None:
        """How far below its question's worst positive the boundary lies; None: the loss has none, or one from samples."""
        loss, beta = self.config["alignment"]["loss"], self.config["alignment"]["beta"]
        bounded = loss in LOSSES and has_boundary(loss_function(loss))
        return float(beta) if bounded and beta != "auto" else None


def scores(evaluations: list[Evaluation]) -> tuple[list[float], list[float]]:
    """s(c) of all positives and of all negatives."""
    return (
        list(chain.from_iterable(evaluation.positive_scores for evaluation in evaluations)),
        list(chain.from_iterable(evaluation.negative_scores for evaluation in evaluations)),
    )


def leads(evaluations: list[Evaluation]) -> list[float]:
    """Of every negative of a question that has a positive, how far it lies above the question's worst positive, nats a token."""
    return [
        negative - min(evaluation.positive_scores)
        for evaluation in evaluations
        if evaluation.positive_scores
        for negative in evaluation.negative_scores
    ]
