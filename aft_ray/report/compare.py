"""Runs side by side, as a table on the screen."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from aft_ray.evaluation.measures import Measures, comparison, measure, model_summary
from aft_ray.report.found import FoundRun
from aft_ray.report.page import p_value, points, with_interval


def print_comparison(runs: Sequence[FoundRun], console: Console) -> None:
    """Of each task that all runs were evaluated on: their last models, each against the first run's."""
    tasks = [task for task in runs[0].tasks if all(task in run.tasks for run in runs)]
    if not tasks:
        console.print("These runs have no task in common.")
    evaluations = [run.evaluations(run.models[-1]) for run in runs]
    for task in tasks:
        of_task = [{e.question_id: e for e in found if e.task == task} for found in evaluations]
        common = [name for name in in_common(runs) if all(name in found for found in of_task)]
        if common:
            console.print(task_table(task, runs, [measure([found[name] for name in common]) for found in of_task]))
        else:
            console.print(f"{task}: no question in common.")
    if tasks:
        console.print("[dim]p: paired tests over the questions in common; assessment: of each run's own candidates[/]")


def in_common(runs: Sequence[FoundRun]) -> list[str]:
    """The held-out questions that are the same in all, by text too: an id is a number in a file."""
    first, *others = [run.texts for run in runs]
    return [name for name, text in first.items() if all(other.get(name) == text for other in others)]


def task_table(task: str, runs: Sequence[FoundRun], found: Sequence[Measures]) -> Table:
    table = Table(title=f"{task}, {len(found[0].right):,} questions in common", title_justify="left")
    k = found[0].k if len({measures.k for measures in found}) == 1 else 0  # majorities of 6 and of 16 are not compared
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
    own = model_summary(run.models[-1], task, measures, run.summary["confidence"])
    compared = {} if measures is first else comparison(first, measures)

    def gain(name: str) -> str:
        value = compared.get(f"{name}_gain")
        return "" if value is None else f"{points(value)}, {p_value(compared[f'{name}_p'])}"

    sampled = [with_interval(own["majority"]["mean"], own["majority"]["ci"]), gain("majority")] if k else []
    return [
        str(run.folder),
        f"{run.config['alignment']['loss'] if len(run.models) > 1 else 'none'}, {run.summary['seed']}",
        with_interval(own["accuracy"], own["accuracy_ci"]),
        gain("accuracy"),
        *sampled,
        with_interval(own["assessment_accuracy"], own["assessment_accuracy_ci"]),
    ]
