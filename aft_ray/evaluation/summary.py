"""The summary of a run: what was measured, as data and as a table on the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from aft_ray.config import RunConfig
from aft_ray.evaluation.measures import comparison, measure, model_summary
from aft_ray.storage import versions
from schemas import Evaluation


def summarise(
    config: RunConfig, trained: set[str], evaluations: Mapping[str, Sequence[Evaluation]], stages: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """All models on the same held-out questions and the same candidates, task by task, each compared with the first.

    `evaluations`: by the model's name, the one that was sampled first; `trained`: tasks that were trained on.
    """
    models, comparisons = [], []
    confidence = config.evaluation.confidence
    for task in [single.label for single in config.task.single]:
        measures = {name: measure([e for e in of_model if e.task == task]) for name, of_model in evaluations.items()}
        if not any(found.right for found in measures.values()):
            continue
        first, *others = measures
        models += [model_summary(name, task, m, confidence) | {"trained_on": task in trained} for name, m in measures.items()]
        comparisons += [{"task": task, "model": name} | comparison(measures[first], measures[name]) for name in others]
    return {
        "models": models,
        "comparisons": comparisons,
        "stages": list(stages),
        "seed": config.seed,
        "confidence": confidence,
        "versions": versions(),
    }


def print_summary(summary: dict[str, Any], console: Console) -> None:
    for task in dict.fromkeys(model["task"] for model in summary["models"]):
        models = [model for model in summary["models"] if model["task"] == task]
        compared = next((found for found in reversed(summary["comparisons"]) if found["task"] == task), None)
        console.print(task_table([models[0], models[-1]] if compared else models, compared, summary))
        if len(models) > 2:
            console.print(rounds_table(models))
        console.print(
            f"[dim]assessment: the right chain scores higher, over {models[0]['assessment_pairs']:,} pairs of "
            f"{models[0]['assessment_questions']} questions[/]",
            highlight=False,
        )
    console.print(
        "[dim]s: mean log-likelihood per token, nats; repetition: 4-grams that repeat, unended: chains cut off (greedy ones); "
        "p: paired tests[/]",
        highlight=False,
    )


def rounds_table(models: Sequence[dict[str, Any]]) -> Table:
    """A row a round."""
    k = str(min(model["k"] for model in models))
    table = Table(title="by round", title_justify="left")
    for heading in ("model", "accuracy", *((f"maj@{k}", f"pass@{k}") if k != "0" else ()), "assessment"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for model in models:
        sampled = (model["majority"]["mean"], model["pass_at_k"][k]["mean"]) if k != "0" else ()
        shares = (model["accuracy"], *sampled, model["assessment_accuracy"])
        table.add_row(model["name"], *(_share(value, None) for value in shares))
    return table


def task_table(models: Sequence[dict[str, Any]], compared: dict[str, Any] | None, summary: dict[str, Any]) -> Table:
    """A row a measure; before, after, and the gain. A model that nothing is compared with has its column alone."""
    origin = ", never trained on" if compared and not models[0]["trained_on"] else ""
    what = f"{models[0]['task']}{origin}, {models[0]['n']} held-out questions"
    table = Table(title=f"{what}, seed {summary['seed']}, {summary['confidence']:.0%} intervals", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in (*(model["name"] for model in models), *(("gain",) if compared else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    k = min(model["k"] for model in models)

    def row(name: str, cells: Sequence[str], gain: str = "") -> None:
        gained = _gain(compared[f"{gain}_gain"], compared[f"{gain}_p"]) if gain and compared else ""
        table.add_row(name, *cells, *((gained,) if compared else ()))

    row("accuracy", [_share(m["accuracy"], m["accuracy_ci"]) for m in models], "accuracy")
    if k > 0:
        row(f"maj@{k}", [_share(m["majority"]["mean"], m["majority"]["ci"]) for m in models], "majority")
        passed = [m["pass_at_k"][str(k)] for m in models]
        row(f"pass@{k}", [_share(value["mean"], value["ci"]) for value in passed], "pass_at_k")
    assessed = [_share(m["assessment_accuracy"], m["assessment_accuracy_ci"]) for m in models]
    row("assessment", assessed, "assessment_accuracy")
    row("s(right)", [_number(m["mean_positive_score"]) for m in models])
    row("s(wrong)", [_number(m["mean_negative_score"]) for m in models])
    row("repetition", [_share(m["repeated_4_grams"]["mean"], m["repeated_4_grams"]["ci"]) for m in models])
    row("unended", [_share(m["endless"]["mean"], m["endless"]["ci"]) for m in models])
    return table


def _share(share: float | None, interval: Sequence[float] | None) -> str:
    if share is None:
        return "none"
    return f"{share:.1%}" + (rf" \[{interval[0] * 100:.1f}, {interval[1] * 100:.1f}]" if interval else "")


def _gain(gain: float | None, p: float | None) -> str:
    return "" if gain is None or p is None else f"{gain * 100:+.1f}, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
