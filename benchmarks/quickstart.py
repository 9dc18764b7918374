"""Where the time of the whole quickstart goes: training and sampling proper, and all the rest (start-up, loading, moving data).

Run as:  .venv/bin/python benchmarks/quickstart.py [--rounds 3]

From the start of the process to the summary, in a new directory. Proper are, of training, its optimizer steps (rank 0's clock);
of sampling and evaluating, the time in which any actor has a question in hand.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from figures import keep, spread, table

sys.path.insert(0, str(Path(__file__).parent.parent))
MODELS, STREAMS = ("vft", "align"), ("sample", "evaluate-aft")


def timed(actor: type[Any], told: Path) -> type[Any]:
    """The same actor, which writes down since when and until when it had questions in hand."""

    class TimedActor(actor):  # type: ignore[misc]
        async def __call__(self, rows: Any) -> Any:
            started = time.time()
            async for answered in super().__call__(rows):
                yield answered
            name = f"{id(self)}-{started}-{time.time()}"
            (told / name).touch()

    return TimedActor


def busy_seconds(told: Path) -> float:
    """Of the union of all intervals."""
    spans = sorted(tuple(map(float, file.name.split("-")[1:])) for file in told.iterdir())
    total, reached = 0.0, 0.0
    for first, last in spans:
        total += max(0.0, last - max(first, reached))
        reached = max(reached, last)
    return total


def measure(_: int) -> dict[str, Any]:
    import json

    from rich.console import Console

    from aft_ray.run import Run
    from aft_ray.sampling import stream
    from jobs.quickstart import JOB

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told = {stage: folder / "told" / stage for stage in STREAMS}
        for of_stage in told.values():
            of_stage.mkdir(parents=True)
        stream.SamplingActor = timed(stream.SamplingActor, told["sample"])  # type: ignore[misc]
        stream.EvaluationActor = timed(stream.EvaluationActor, told["evaluate-aft"])  # type: ignore[misc]
        run = Run(JOB.model_copy(update={"runs_dir": folder}), Console())
        stages = {stage["name"]: stage["seconds"] for stage in run.execute()["stages"]}
        whole = time.time() - psutil.Process().create_time()
        proper = {name: sum(json.loads((run.folder / name / "training.json").read_text())["step_seconds"]) for name in MODELS}
        return {"whole": whole, "stages": stages, "proper": proper | {name: busy_seconds(told[name]) for name in STREAMS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    context, found = multiprocessing.get_context("spawn"), []
    for number in range(given.rounds):
        with context.Pool(1) as process:
            found.append(process.apply(measure, (number,)))
        print(found[-1], flush=True)
    lines = []
    for stage in found[0]["stages"]:
        seconds = [result["stages"][stage] for result in found]
        proper = [result["proper"].get(stage, 0.0) for result in found]
        lines.append([stage, f"{statistics.median(seconds):.1f}", f"{statistics.median(proper):.1f}"])
    whole, proper = [result["whole"] for result in found], [sum(result["proper"].values()) for result in found]
    lines.append(["all, from the start of the process", f"{statistics.median(whole):.1f}", f"{statistics.median(proper):.1f}"])
    rest = [100 * (1 - mine / all_of) for mine, all_of in zip(proper, whole, strict=True)]
    lines.append(["share of the rest", "", f"{spread(rest, 0)} %"])
    keep("quickstart", found, table(["stage", "seconds", "of them proper"], lines))


if __name__ == "__main__":
    main()
