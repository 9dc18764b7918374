"""The model card of a run: what a hub shows of its model, written from the run's own figures and settings."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # in its __init__, not in its __all__

from aft_ray.config import RunConfig, TaskConfig
from aft_ray.labelling import REWARDED
from aft_ray.report.found import FoundRun
from aft_ray.report.page import caption, headline, measures
from aft_ray.tasks import TASKS, Task
from aft_ray.tasks.files import HubSource, hub_source

TEMPLATE = Path(__file__).with_name("card.md")
SETTINGS = "aft_ray.yaml"
PATHS = ("path", "train_file", "test_file", "candidates_file")


def card(run: FoundRun, licence: str | None, base_model: str | None, adapter: bool) -> ModelCard:
    """`base_model`: its id on the hub; `adapter`: whether there is one beside the model."""
    config = RunConfig.model_validate(run.config)
    counts = {manifest.stage: manifest.counts for manifest in run.manifests}
    data = ModelCardData(
        license=licence,
        base_model=base_model,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["aft-ray", "alignment-fine-tuning", "reasoning", *(["lora"] if adapter else [])],
        datasets=sorted({found.repository for task in config.task.single if (found := on_hub(task.train_file))}) or None,
        metrics=["accuracy"],
        model_name=run.name,
        eval_results=[result for task in config.task.single if task.label in run.tasks for result in results(run, task)],
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        run=run,
        config=config,
        base=base_model or config.model.path.name,
        base_is_on_hub=base_model is not None,
        adapter=adapter,
        tasks=[(task, headline(run, task), caption(run, task), measures(run, task)) for task in run.tasks],
        sources=[(task.label, *source(task), template_of(task)) for task in config.task.single],
        counts=counts,
        trained=[
            (training.stage, counts[training.stage]["examples"], config.vft if training.stage == "vft" else config.alignment)
            for training in run.trainings
        ],
        ranked=any(REWARDED in of_stage for of_stage in counts.values()),
        fingerprints={manifest.stage: manifest.fingerprint for manifest in run.manifests},
        settings=SETTINGS,
    )


def results(run: FoundRun, task: TaskConfig) -> Iterator[EvalResult]:
    """Of the last model, as a hub's index of evaluations has them."""
    measured = run.model(run.models[-1], task.label)
    hub = on_hub(task.test_file)
    shares = {
        "accuracy": ("accuracy", "accuracy, greedy", measured["n"]),
        "assessment_accuracy": ("assessment_accuracy", "assessment accuracy", measured["assessment_questions"]),
    }
    for name, (kind, told, n) in shares.items():
        if measured[name] is not None:
            yield EvalResult(
                task_type="text-generation",
                dataset_type=hub.repository if hub else task.name,
                dataset_name=task.label,
                dataset_config=hub.config if hub else task.label,
                dataset_split=hub.split if hub else task.held_out_split,
                metric_type=kind,
                metric_name=told,
                metric_value=measured[name],
                metric_args={"questions": n, "interval": measured[f"{name}_ci"], "confidence": run.summary["confidence"]},
            )


def settings_of(run: FoundRun) -> str:
    """The run's configuration as YAML, of paths their names alone: where things lie is nobody's business."""
    config = RunConfig.model_validate(run.config)
    return yaml.safe_dump(
        _names_alone(config.model_dump(mode="json", exclude={"runs_dir", "resources", "tracking"})), sort_keys=False
    )


def _names_alone(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _names_alone(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_names_alone(inner) for inner in value]
    if key not in PATHS or not isinstance(value, str) or on_hub(Path(value)):
        return value
    return ("hf:" if value.startswith("hf:") else "") + Path(value.removeprefix("hf:")).name


def on_hub(file: Path | None) -> HubSource | None:
    """Of a dataset that was read as hf:NAME:SPLIT. NAME may also be a folder of this disk, which is not to be told."""
    if file is None or not str(file).startswith("hf:"):
        return None
    source = hub_source(str(file))
    try:
        validate_repo_id(source.repository)
    except HFValidationError:
        return None
    return None if Path(source.repository).exists() else source


def source(task: TaskConfig) -> tuple[str, str]:
    """Where the questions are from, and under which licence, as far as is known here."""
    if task.name in TASKS:
        known = TASKS[task.name]
        return known.source if known.generate is None else "AFT-Ray, which generates them", known.licence
    hub = on_hub(task.train_file or task.test_file)
    return hub.repository if hub else "the author's own", "not stated"


def template_of(task: TaskConfig) -> str:
    """The prompt, `{question}` in it."""
    return task.template or (TASKS[task.name].template if task.name in TASKS else Task.template)
