"""The study: every loss on the same candidate groups, at a learning rate that the same small search found, over several seeds.

Run as:  .venv/bin/python benchmarks/study.py [--folder runs/study] [--parts main,losses] [--write-only]

Hours on 2 cores. Stopped and started again it goes on: each trained model is one line in benchmarks/results/study.jsonl, the VFT
models and their samples stay in the folder. When it ends, or with --write-only, it writes docs/study.md and its pictures.

A model is one process: DeepSpeed in it as in a run with `training_workers: 0`, then a vLLM engine.
"""

import argparse
import asyncio
import json
import logging
import multiprocessing
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import AutoTokenizer

from aft_ray.config import AlignmentConfig, ModelConfig, ResourcesConfig, RunConfig, SamplingConfig
from aft_ray.losses import LOSSES, loss_function, needs_reference
from aft_ray.places import write_atomically
from schemas import CandidateGroup, Question, read_parquet, write_parquet

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

RESULTS = ROOT / "benchmarks" / "results" / "study.jsonl"
PROCESSES = 2
SEEDS, FEWER_SEEDS = range(5), range(3)
TRAIN, REFERENCES = 800, 400
VALIDATION, TEST, ASSESSED, SAMPLED = 500, 1000, 400, 300
K, LARGEST_K, KS = 6, 32, (2, 16, 32)
RATES = (5e-5, 2e-4, 8e-4)
WIDENED = 2
BETAS = (0.05, 0.2, 0.5, 1.0)
NOISE = (0.3, 0.15)
AFT = ("unconstrained", "dc", "bc")
RANKING = tuple(f"{name}_ranking" for name in AFT)
OTHERS = tuple(name for name in LOSSES if name not in (*AFT, *RANKING, "rft"))
ORDERED = (*RANKING, "rrhf", "rrhf_dc", "rrhf_bc", "pro", "pro_dc", "pro_bc")


@dataclass(frozen=True)
class Arm:
    """A model to train and measure."""

    part: str
    loss: str
    seed: int
    rate: float
    beta: float | str = 0.2
    k: int = K
    noise: float = 0.0
    covers: str = "reference+positives"
    rule: str = "quantile"
    candidates: str = "sampled"

    @property
    def name(self) -> str:
        return "-".join(str(value).replace("+", "_") for value in asdict(self).values())


def searches(rows: list[dict[str, Any]]) -> Iterator[Arm]:
    """The three rates; where the best of a loss lies at an end, one more beyond it, four times as far, at most twice."""
    for loss in (*AFT, "rft", *OTHERS):
        tried = {row["rate"]: row["accuracy"] for row in rows if (row["part"], row["loss"]) == ("search", loss)}
        yield from (Arm("search", loss, 0, rate) for rate in sorted({*RATES, *tried}))
        if set(RATES) <= set(tried) and len(tried) < len(RATES) + WIDENED:
            best = max(tried, key=lambda rate: (tried[rate], rate))
            beyond = {min(tried): best / 4, max(tried): best * 4}.get(best)
            if beyond is not None:
                yield Arm("search", loss, 0, beyond)


def arms(rates: dict[str, float]) -> Iterator[Arm]:
    """All that is trained once the search has found the learning rates."""

    def of(part: str, loss: str, seeds: Iterable[int], **more: Any) -> Iterator[Arm]:
        rate = rates[loss.removesuffix("_ranking")]
        return (Arm(part, loss, seed, rate, **more) for seed in seeds)

    for seed in SEEDS:
        yield Arm("main", "vft", seed, 0.0)
        for loss in ("rft", "unconstrained", "dc"):
            yield from of("main", loss, [seed])
        for beta in (*BETAS, "auto"):
            yield from of("main", "bc", [seed], beta=beta)
    for loss in OTHERS:
        yield from of("losses", loss, FEWER_SEEDS)
    for loss in AFT:
        for rate in RATES:
            if rate != rates[loss]:  # else it is among the main ones
                yield from (Arm("rates", loss, seed, rate) for seed in FEWER_SEEDS)
    for rule in ("question", "noise"):
        yield from of("boundary", "bc", FEWER_SEEDS, beta="auto", rule=rule)
    for loss in AFT:
        yield from of("reference_only", loss, FEWER_SEEDS, covers="reference")
    for loss in ORDERED:
        yield from of("ranking", loss, FEWER_SEEDS, candidates="graded", covers="reference")
    for loss in ("rft", "bc"):
        for k in KS:
            yield from of("k", loss, (0, 1), k=k)
    for noise in NOISE:  # the larger share first: it says most
        for loss in ("rft", "unconstrained", "dc", "bc", "dpo", "simpo"):
            yield from of("noise", loss, (0, 1), noise=noise)


# What all models of a seed share: the VFT model, its samples, their reference log-likelihoods.


def seed_config(seed: int, folder: Path) -> RunConfig:
    from jobs.quickstart import JOB

    task = JOB.task.model_copy(update={"train_questions": TRAIN, "references": REFERENCES, "test_questions": ASSESSED})
    sampling = JOB.sampling.model_copy(update={"k": LARGEST_K if seed in (0, 1) else K})
    update = {"name": f"seed-{seed}", "seed": seed, "runs_dir": folder, "task": task, "sampling": sampling}
    return JOB.model_copy(update=update)


def prepare_seed(seed: int, folder: Path, console: Console) -> Path:
    """VFT and sampling by a run's own stages; then references, which need only be computed once."""
    import ray

    from aft_ray.cluster import connect
    from aft_ray.run import Run
    from aft_ray.stages import ensure
    from aft_ray.training.trainer import score_references

    run = Run(seed_config(seed, folder), console)
    run.folder.mkdir(parents=True, exist_ok=True)
    manifests: dict[str, Any] = {}
    for stage in run.stages()[:3]:
        manifests[stage.name], _ = ensure(run.folder, stage, manifests, {}, console)
    out = run.folder / "references"
    if not (out / "done").exists():
        write_graded(run.folder, seed)
        out.mkdir(exist_ok=True)
        connect(run.folder)
        samples, model = run.folder / "sample" / "groups", run.folder / "vft" / "model"
        score_references(run.training_job(run.config.alignment, model, samples, out, None))
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        write_atomically(out / "done", manifests["sample"].fingerprint)
    ray.shutdown()
    return run.folder


def write_graded(folder: Path, seed: int) -> None:
    """Groups for ranking, of the training questions that have a reference."""
    from study_candidates import graded

    tokenizer = AutoTokenizer.from_pretrained(folder / "vft" / "model")
    questions = [q for q in read_parquet(folder / "questions", Question) if q.split == "train" and q.reference is not None]
    others = questions[1:] + questions[:1]
    groups = [graded(question, other, tokenizer, seed) for question, other in zip(questions, others, strict=True)]
    (folder / "graded").mkdir(exist_ok=True)
    write_parquet(folder / "graded" / "groups.parquet", CandidateGroup, groups)


# One model.


def run_arm(arm: Arm, folder: Path) -> dict[str, Any]:
    """Train and measure. In a process of its own."""
    logging.disable(logging.WARNING)
    import study_candidates

    from aft_ray.training.job import TrainingJob
    from aft_ray.training.trainer import run_training

    seed_folder, out = folder / f"seed-{arm.seed}", folder / "arms" / arm.name
    shutil.rmtree(out, ignore_errors=True)
    (out / "records").mkdir(parents=True)
    source = seed_folder / ("sample/groups" if arm.candidates == "sampled" else "graded")
    groups = [group for group in read_parquet(source, CandidateGroup) if group.question.split == "train"]
    groups = [study_candidates.with_noise(study_candidates.first(group, arm.k), arm.noise, arm.seed) for group in groups]
    write_parquet(out / "records" / "groups.parquet", CandidateGroup, groups)
    study_candidates.use_rule(arm.rule)
    settings = AlignmentConfig(
        loss="rft" if arm.loss == "vft" else arm.loss,
        beta=arm.beta,
        vft_covers=arm.covers,
        learning_rate=arm.rate or 1e-4,
        epochs=2,
        questions_per_step=16,
    )
    started = time.monotonic()
    model, history = seed_folder / "vft" / "model", []
    if arm.loss != "vft":
        run_training(
            TrainingJob(
                model=ModelConfig(path=model, precision="fp32"),
                training=settings,
                resources=ResourcesConfig(training_workers=0, zero_stage=0),
                seed=arm.seed,
                task_weights={},
                records=out / "records",
                out=out,
                counter=None,
                references=seed_folder / "references" if needs_reference(loss_function(arm.loss)) else None,
            )
        )
        model, history = out / "model", json.loads((out / "training.json").read_text())["history"]
    trained = time.monotonic() - started
    result = measure_model(model, seed_folder, arm)
    keep = ("loss", "alignment_loss", "reference_score", "positive_score", "negative_score", "assessment_accuracy")
    shutil.rmtree(out)
    return (
        asdict(arm)
        | {"sample": fingerprint_of(seed_folder)}
        | result
        | {"seconds": {"training": round(trained), "all": round(time.monotonic() - started)}}
        | {"history": {name: [_rounded(row[name]) for row in history] for name in keep}}
    )


def fingerprint_of(seed_folder: Path) -> str:
    return (seed_folder / "references" / "done").read_text()


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def measure_model(model: Path, seed_folder: Path, arm: Arm) -> dict[str, Any]:
    """Greedy answers on validation or test; on held-out groups the scores of the VFT model's samples; samples of its own."""
    import study_candidates

    from aft_ray.config import LabellingConfig
    from aft_ray.sampling.engine import Engine, EngineSettings
    from aft_ray.sampling.stream import EvaluationActor
    from aft_ray.tasks import TASKS
    from aft_ray.tasks.arithmetic import generate

    class Alone(EvaluationActor):
        """Without Ray, whose other actors would ask its questions if it failed."""

        def __init__(self, settings: EngineSettings) -> None:
            self.settings, self.engine, self.sampled = settings, Engine(settings), False

    actor = Alone(
        EngineSettings(
            model=ModelConfig(path=model, precision="fp32"),
            model_fingerprint=arm.name,
            tasks=TASKS,
            sampling=SamplingConfig(k=K, max_prompt_tokens=100, max_new_tokens=80),
            labelling=LabellingConfig(),
            resources=ResourcesConfig(),
            seed=arm.seed,
        )
    )
    split, number = ("validation", VALIDATION) if arm.part == "search" else ("test", TEST)
    from jobs.quickstart import JOB

    asked = study_candidates.ask(generate(split, number, 0, JOB.task.difficulty), model)
    groups = [g for g in read_parquet(seed_folder / "sample" / "groups", CandidateGroup) if g.question.split != "train"]
    groups = [study_candidates.first(group, K) for group in sorted(groups, key=lambda g: g.question.question_id)]

    async def all_of(groups: list[CandidateGroup], sampled: bool) -> list[Any]:
        actor.sampled = sampled
        return await asyncio.gather(*(actor.evaluate(group) for group in groups))

    async def work() -> tuple[list[Any], list[Any]]:
        greedy = await all_of(asked, False)
        if arm.part == "search":
            return greedy, []
        sampled = arm.part in ("main", "losses")
        return greedy, await all_of(groups[:SAMPLED], sampled) + await all_of(groups[SAMPLED:], False)

    greedy, assessed = asyncio.run(work())
    return study_candidates.measures(greedy, assessed)


# The whole.


def finished() -> list[dict[str, Any]]:
    """The last row of each model: one trained anew, on other samples, stands behind the one of before."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return list({tuple(row[field.name] for field in fields(Arm)): row for row in rows}.values())


def is_done(arm: Arm, folder: Path, rows: list[dict[str, Any]]) -> bool:
    """Whether its line is there, of the same samples."""
    wanted = asdict(arm) | {"sample": fingerprint_of(folder / f"seed-{arm.seed}")}
    return any(all(row[key] == value for key, value in wanted.items()) for row in rows)


def run_all(wanted: list[Arm], folder: Path, console: Console) -> None:
    rows = finished()
    left = [arm for arm in wanted if not is_done(arm, folder, rows)]
    console.print(f"{len(wanted) - len(left)} of {len(wanted)} models are there")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context, max_tasks_per_child=1) as pool:
        futures = {pool.submit(run_arm, arm, folder): arm for arm in left}
        for number, future in enumerate(as_completed(futures), start=1):
            try:
                row = future.result()
            except Exception as error:
                console.print(f"{futures[future].name} failed: {error!r:.300}")
                continue
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a") as results:
                results.write(json.dumps(row) + "\n")
            told = f"{row['accuracy']:.1%}, {row['seconds']['all']} s"
            console.print(f"{number}/{len(left)} {futures[future].name} {told}", highlight=False, soft_wrap=True)


def found_rates() -> dict[str, float]:
    """The learning rate of each loss that answered most of the validation questions right."""
    found: dict[str, tuple[float, float]] = {}
    for row in finished():
        if row["part"] == "search":
            found[row["loss"]] = max(found.get(row["loss"], (-1.0, 0.0)), (row["accuracy"], row["rate"]))
    return {loss: rate for loss, (_, rate) in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "study", help="where models and samples are kept")
    parser.add_argument("--parts", help="only these, as in main,losses")
    parser.add_argument("--write-only", action="store_true", help="write docs/study.md from the results that are there")
    given = parser.parse_args()
    console = Console()
    if not given.write_only:
        for seed in SEEDS:
            prepare_seed(seed, given.folder.absolute(), console)
        for _ in range(1 + WIDENED):
            run_all(list(searches(finished())), given.folder.absolute(), console)
        chosen = [arm for arm in arms(found_rates()) if given.parts is None or arm.part in given.parts.split(",")]
        run_all(chosen, given.folder.absolute(), console)
    from study_report import write

    write(finished())


if __name__ == "__main__":
    main()
