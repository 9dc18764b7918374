"""The summary of a run: what was measured, as data and as a table on the screen."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from aft_ray.config import RunConfig
from aft_ray.evaluation.measures import comparison, measure, model_summary
from aft_ray.storage import versions
from schemas import Evaluation


def summarise(
    config: RunConfig,
    trained: set[str],
    vft: Sequence[Evaluation],
    aft: Sequence[Evaluation],
    stages: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Both models on the same held-out questions and the same candidates, task by task; `trained`: tasks that were trained on."""
    models, comparisons = [], []
    confidence = config.evaluation.confidence
    for task in [single.label for single in config.task.single]:
        before, after = (measure([e for e in evaluations if e.task == task]) for evaluations in (vft, aft))
        if not before.right:
            continue
        for name, measures in (("vft", before), ("aft", after)):
            models.append(model_summary(name, task, measures, confidence) | {"trained_on": task in trained})
        comparisons.append({"task": task} | comparison(before, after))
    return {
        "models": models,
        "comparisons": comparisons,
        "stages": list(stages),
        "seed": config.seed,
        "confidence": confidence,
        "versions": versions(),
    }


def print_summary(summary: dict[str, Any], console: Console) -> None:
    for compared in summary["comparisons"]:
        models = [model for model in summary["models"] if model["task"] == compared["task"]]
        console.print(task_table(models, compared, summary))
        console.print(
            f"[dim]assessment: the right chain scores higher, over {models[0]['assessment_pairs']:,} pairs of "
            f"{models[0]['assessment_questions']} questions[/]",
            highlight=False,
        )
    console.print("[dim]s: mean log-likelihood per token, nats; p: paired tests[/]", highlight=False)


def task_table(models: Sequence[dict[str, Any]], compared: dict[str, Any], summary: dict[str, Any]) -> Table:
    """Before and after on one task."""
    origin = "" if models[0]["trained_on"] else ", never trained on"
    what = f"{compared['task']}{origin}, {models[0]['n']} held-out questions"
    table = Table(title=f"{what}, seed {summary['seed']}, {summary['confidence']:.0%} intervals", title_justify="left")
    table.add_column("model")
    for heading in ("accuracy", "assessment", "s(right)", "s(wrong)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in models:
        table.add_row(
            model["name"],
            _share(model["accuracy"], model["accuracy_ci"]),
            _share(model["assessment_accuracy"], model["assessment_accuracy_ci"]),
            _number(model["mean_positive_score"]),
            _number(model["mean_negative_score"]),
        )
    table.add_section()
    table.add_row(
        "gain",
        _gain(compared["accuracy_gain"], compared["accuracy_p"]),
        _gain(compared["assessment_accuracy_gain"], compared["assessment_accuracy_p"]),
    )
    return table


def _share(share: float | None, interval: Sequence[float] | None) -> str:
    if share is None:
        return "no pairs"
    return f"{share:.1%}" + (rf" \[{interval[0] * 100:.1f}, {interval[1] * 100:.1f}]" if interval else "")


def _gain(gain: float | None, p: float | None) -> str:
    return "" if gain is None or p is None else f"{gain * 100:+.1f}, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
