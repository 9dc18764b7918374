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
    config: RunConfig, vft: Sequence[Evaluation], aft: Sequence[Evaluation], stages: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Both models on the same held-out questions and the same candidates."""
    before, after = measure(vft), measure(aft)
    confidence = config.evaluation.confidence
    return {
        "models": [
            model_summary("vft", config.task.name, before, confidence),
            model_summary("aft", config.task.name, after, confidence),
        ],
        "comparison": comparison(before, after),
        "stages": list(stages),
        "seed": config.seed,
        "confidence": confidence,
        "versions": versions(),
    }


def print_summary(summary: dict[str, Any], console: Console) -> None:
    first = summary["models"][0]
    title = f"{first['task']}, {first['n']} held-out questions, seed {summary['seed']}, {summary['confidence']:.0%} intervals"
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for heading in ("accuracy", "assessment", "s(right)", "s(wrong)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in summary["models"]:
        table.add_row(
            model["name"],
            _share(model["accuracy"], model["accuracy_ci"]),
            _share(model["assessment_accuracy"], model["assessment_accuracy_ci"]),
            _number(model["mean_positive_score"]),
            _number(model["mean_negative_score"]),
        )
    compared = summary["comparison"]
    table.add_section()
    table.add_row(
        "gain",
        _gain(compared["accuracy_gain"], compared["accuracy_p"]),
        _gain(compared["assessment_accuracy_gain"], compared["assessment_accuracy_p"]),
    )
    console.print(table)
    console.print(
        f"[dim]assessment: the right chain scores higher, over {first['assessment_pairs']:,} pairs of "
        f"{first['assessment_questions']} questions\ns: mean log-likelihood per token, nats; p: paired tests[/]",
        highlight=False,
    )


def _share(share: float | None, interval: Sequence[float] | None) -> str:
    if share is None:
        return "no pairs"
    return f"{share:.1%}" + (rf" \[{interval[0] * 100:.1f}, {interval[1] * 100:.1f}]" if interval else "")


def _gain(gain: float | None, p: float | None) -> str:
    return "" if gain is None or p is None else f"{gain * 100:+.1f}, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
