"""What `aft-ray plan` says of memory against what processes really hold.

Run as:  .venv/bin/python benchmarks/planning.py MODEL GSM8K/train.jsonl [--layers 16]

quickstart    the job of that name with fewer questions and epochs: a training worker and an actor of each stage
MODEL         (the figures: SmolLM2-135M, fp32) two workers train it on references, under ZeRO-2 and ZeRO-3
a load        each of two ranks loads a Llama of random weights under ZeRO-3; 16 layers have 1.24 B parameters

Held is the most resident memory of any process of the kind, looked at twenty times a second; of the load, what it adds.
Planned is with the longest question that is really there, not with the longest that the settings allow.
"""

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from figures import keep, table
from loading import LAYERS_OF_1B, RANKS, make_model
from loading import measure as measure_load

sys.path.insert(0, str(Path(__file__).parent.parent))
TITLES = {"worker": r"RayTrainWorker", "actor": r"MapWorker\(MapBatches\((Sampling|Evaluation)Actor"}
SMALL = {"train_questions": 200, "references": 100, "test_questions": 50}
QUESTIONS, PER_STEP, BUDGET = 64, 16, 1024


class Held:
    """The most that any process with that in its title holds, by what `now()` says goes on, while the block runs."""

    def __init__(self, now: Callable[[], str | None]) -> None:
        self.now, self.most, self.ended = now, dict[tuple[str, str], int](), threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Held":
        self.thread.start()
        return self

    def __exit__(self, *given: Any) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        known: dict[int, str] = {}
        while not self.ended.wait(0.05):
            stage = self.now()
            for process in psutil.process_iter():
                try:
                    if process.pid not in known or not known[process.pid]:
                        title = " ".join(process.cmdline())
                        known[process.pid] = next((kind for kind, of in TITLES.items() if re.search(of, title)), "")
                    if stage and known[process.pid]:
                        key = stage, known[process.pid]
                        self.most[key] = max(self.most.get(key, 0), process.memory_info().rss)
                except psutil.Error:
                    continue


def quickstart(_: Any) -> list[tuple[str, float, float]]:
    """What, planned, held."""
    from rich.console import Console

    from aft_ray.planning.memory import sampling_memory, training_memory
    from aft_ray.planning.shape import ModelShape
    from aft_ray.run import Run
    from aft_ray.training.examples import alignment_examples, vft_examples
    from jobs.quickstart import JOB
    from schemas import CandidateGroup, Question, read_parquet

    with tempfile.TemporaryDirectory() as name:
        few = {"vft": JOB.vft.model_copy(update={"epochs": 2}), "alignment": JOB.alignment.model_copy(update={"epochs": 1})}
        task = JOB.task.model_copy(update=SMALL)
        job = JOB.model_copy(update={"runs_dir": Path(name), "task": task} | few)
        run = Run(job, Console())

        def now() -> str | None:
            return next((stage for stage in ("vft", "sample", "align") if list(run.folder.glob(f".{stage}-*"))), None)

        with Held(now) as held:
            run.execute()
        shape, precision = ModelShape(job.model.path), job.model.precision
        references = vft_examples(read_parquet(run.folder / "questions", Question))
        groups = alignment_examples(read_parquet(run.folder / "sample" / "groups", CandidateGroup), True)
    planned = {
        ("vft", "worker"): training_memory(shape, job.vft, job.resources, precision, longest(references)),
        ("sample", "actor"): sampling_memory(shape, job.resources, precision, 0.0),
        ("align", "worker"): training_memory(shape, job.alignment, job.resources, precision, longest(groups)),
    }
    return [(f"quickstart: {stage}", memory.device, held.most[stage, kind]) for (stage, kind), memory in planned.items()]


def longest(examples: list[Any]) -> Any:
    return max(examples, key=lambda example: example.length)


def training(model: Path, data: Path, zero_stage: int) -> list[tuple[str, float, float]]:
    import ray
    from transformers import AutoTokenizer

    from aft_ray.cluster import connect
    from aft_ray.config import ModelConfig, PromptConfig, ResourcesConfig, TaskConfig, TrainingConfig
    from aft_ray.planning.memory import training_memory
    from aft_ray.planning.shape import ModelShape
    from aft_ray.tasks import make_tasks, read_questions
    from aft_ray.tasks.tokens import tokenize_questions
    from aft_ray.training.examples import vft_examples
    from aft_ray.training.job import TrainingJob
    from aft_ray.training.trainer import run_training
    from schemas import Question, write_parquet

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [json.loads(line) for line in data.read_text().splitlines()[: QUESTIONS + 1]]
        for file, some in (("train", rows[:-1]), ("test", rows[-1:])):
            (folder / f"{file}.jsonl").write_text("\n".join(map(json.dumps, some)))
        task = TaskConfig(name="gsm8k", train_file=folder / "train.jsonl", test_file=folder / "test.jsonl")
        tokenizer = AutoTokenizer.from_pretrained(model)
        questions = tokenize_questions(read_questions(task, 0).questions, make_tasks(task), tokenizer, PromptConfig())
        (folder / "questions").mkdir()
        write_parquet(folder / "questions" / "questions.parquet", Question, questions)
        (folder / "out").mkdir()
        resources = ResourcesConfig(training_workers=2, zero_stage=zero_stage)
        settings = TrainingConfig(epochs=1, questions_per_step=PER_STEP, tokens_per_micro_batch=BUDGET)
        config = ModelConfig(path=model, precision="fp32")
        job = TrainingJob(config, settings, resources, 0, {}, folder / "questions", folder / "out", None)
        connect(folder / "ray")
        with Held(lambda: "training") as held:
            run_training(job)
        ray.shutdown()
    planned = training_memory(ModelShape(model), settings, resources, "fp32", longest(vft_examples(questions)))
    return [(f"{model.name}, 2 workers, ZeRO-{zero_stage}", planned.device, held.most["training", "worker"])]


def load(layers: int) -> list[tuple[str, float, float]]:
    from aft_ray.planning.memory import loaded_at_once
    from aft_ray.planning.shape import ModelShape

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model"
        with multiprocessing.get_context("spawn").Pool(1) as process:
            process.apply(make_model, (path, layers))
        held = max(rank["load"] for rank in measure_load("ours", path, Path(name) / "out").values())
        shape = ModelShape(path)
    planned = 4.0 * loaded_at_once(shape, RANKS)
    return [(f"load of {shape.parameters / 1e9:.2f} B parameters on {RANKS} ranks, ZeRO-3", planned, held)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--layers", type=int, default=LAYERS_OF_1B)
    given = parser.parse_args()
    cases: list[tuple[Any, tuple[Any, ...]]] = [
        (quickstart, (None,)),
        *((training, (given.model.absolute(), given.data.absolute(), stage)) for stage in (2, 3)),
    ]
    found = []
    for case, arguments in cases:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            found += process.apply(case, arguments)
        print(*found[-3:], sep="\n", flush=True)
    found += load(given.layers)  # starts processes itself, which those of a pool may not
    lines = [[what, f"{planned / 1e9:.2f}", f"{held / 1e9:.2f}", f"{planned / held:.2f} x"] for what, planned, held in found]
    figures = [{"what": what, "planned": planned, "held": held} for what, planned, held in found]
    keep("planning", figures, table(["what", "planned, GB", "held, GB", "planned / held"], lines))


if __name__ == "__main__":
    main()
