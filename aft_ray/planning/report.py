"""The plan as people read it."""

from rich.console import Console
from rich.table import Table

from aft_ray.planning.plan import Plan, StagePlan


def print_plan(plan: Plan, console: Console) -> None:
    shape, lengths = plan.shape, plan.lengths
    console.print(f"Model      {shape.parameters / 1e9:.3g} B parameters, {shape.layers} layers, vocabulary {shape.vocabulary:,}")
    console.print(
        f"Questions  {lengths.train:,} to train ({lengths.references:,} with reference), {lengths.held_out:,} held out; "
        f"tokens: prompt {lengths.prompt:.0f}, chain {lengths.chain:.0f} on average",
        highlight=False,
    )
    console.print(memory_table(plan), work_table(plan))
    console.print("[dim]Hours leave out start-up, loading and moving data. Memory is computed, not measured.[/]", highlight=False)
    for fault in [fault for stage in plan.stages for fault in stage.faults]:
        console.print(f"[red]Does not fit[/] {fault}", highlight=False, soft_wrap=True)
    if plan.fits:
        console.print("[green]Fits.[/]")


def memory_table(plan: Plan) -> Table:
    table = Table(title="Memory of each worker, GB", title_justify="left")
    names = ("parameters", "gradients", "optimizer", "activations, cache", "buffers", "process", "together", "on its host")
    for name in ("", *names):
        table.add_column(name, justify="left" if not name else "right")
    for stage in distinct(plan.stages):
        memory = stage.memory
        moment = max(memory.activations, memory.step)  # the one is gone when the other comes
        parts = (memory.parameters, memory.gradients, memory.optimizer, moment, memory.buffers, memory.process)
        table.add_row(stage.work.name, *(f"{part / 1e9:.2f}" for part in (*parts, memory.device, memory.host)))
    return table


def distinct(stages: tuple[StagePlan, ...]) -> list[StagePlan]:
    """Without those that need the same: further rounds and evaluations."""
    found: dict[object, StagePlan] = {}
    for stage in stages:
        found.setdefault((stage.memory, stage.work.trains), stage)
    return list(found.values())


def work_table(plan: Plan) -> Table:
    table = Table(title="Work", title_justify="left")
    for name in ("", "workers", "GPUs", "nodes", "tokens", "FLOPs", "hours", "price"):
        table.add_column(name, justify="left" if not name else "right")
    for stage in plan.stages:
        work = stage.work
        row = (str(stage.workers), str(stage.gpus), str(stage.nodes), f"{work.tokens:.3g}", f"{work.flops:.2g}")
        table.add_row(work.name, *row, told(stage.hours), told(stage.price))
    hours, price = ([getattr(stage, name) for stage in plan.stages] for name in ("hours", "price"))
    table.add_row("all", "", "", "", "", f"{sum(stage.work.flops for stage in plan.stages):.2g}", total(hours), total(price))
    return table


def told(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def total(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return told(sum(known)) if len(known) == len(values) else ""
