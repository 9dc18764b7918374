"""Runs side by side, as a table on the screen."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from aft_ray.evaluation.measures import Measures, comparison, measure
from aft_ray.report.found import FoundRun
from aft_ray.report.page import p_value, points, with_interval
from schemas import Evaluation


def print_comparison(runs: Sequence[FoundRun], console: Console) -> None:
    """Of each task that all runs were evaluated on: their last models, each against the first run's."""
    tasks = [task for task in runs[0].tasks if all(task in run.tasks for run in runs)]
    if not tasks:
        console.print("These runs have no task in common.")
    evaluations = [run.evaluations(run.models[-1]) for run in runs]
    for task in tasks:
        console.print(task_table(task, runs, [[e for e in found if e.task == task] for found in evaluations]))
    if tasks:
        console.print("[dim]p: paired tests over the questions in common; assessment: of each run's own candidates[/]")


def task_table(task: str, runs: Sequence[FoundRun], evaluations: Sequence[Sequence[Evaluation]]) -> Table:
    common = set.intersection(*({evaluation.question_id for evaluation in found} for found in evaluations))
    found = [measure([e for e in of_run if e.question_id in common]) for of_run in evaluations]
    table = Table(title=f"{task}, {len(common):,} questions in common", title_justify="left")
    k = min(measures.k for measures in found)
    for name in (
        "run",
        "loss, seed",
        "accuracy",
        "against the first",
        *((f"maj@{k}", "against the first") if k else ()),
        "assessment",
    ):
        table.add_column(name, justify="left" if name in ("run", "loss, seed") else "right")
    for run, measures in zip(runs, found, strict=True):
        table.add_row(*row(run, task, found[0], measures, k))
    return table


def row(run: FoundRun, task: str, first: Measures, measures: Measures, k: int) -> list[str]:
    own = run.model(run.models[-1], task)
    compared = {} if measures is first else comparison(first, measures)

    def gain(name: str) -> str:
        value = compared.get(f"{name}_gain")
        return "" if value is None else f"{points(value)}, {p_value(compared[f'{name}_p'])}"

    sampled = [with_interval(own["majority"]["mean"], own["majority"]["ci"]), gain("majority")] if k else []
    return [
        str(run.folder),
        f"{run.config['alignment']['loss']}, {run.summary['seed']}",
        with_interval(own["accuracy"], own["accuracy_ci"]),
        gain("accuracy"),
        *sampled,
        with_interval(own["assessment_accuracy"], own["assessment_accuracy_ci"]),
    ]
