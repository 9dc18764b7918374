"""The streams over the pool of engines: Parquet -> vLLM actors -> labels -> Parquet, all at once, block by block.

A question with all its candidates is one row from end to end, so a block is written with whole questions or not at all.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.actor import ActorHandle

from aft_ray.capacity import holds, nodes, sampling_demand
from aft_ray.cluster import beside_the_driver
from aft_ray.config import SamplingConfig
from aft_ray.heartbeat import keep_beating
from aft_ray.labelling import check_candidate, label_group
from aft_ray.places import Place, for_ray_data, make_folder
from aft_ray.sampling.attempts import Asking, Attempts, start_or_end
from aft_ray.sampling.commits import check_whole, commit, committed, forget_given_up, left_to_do, without
from aft_ray.sampling.engine import Engine, EngineSettings, no_more_than_zero, request_seed
from schemas import Candidate, CandidateGroup, Evaluation, Failure, Question, count_rows, from_table, to_table

# Many blocks under way keep an engine full across their borders, with enough left to share out evenly at the end. Small ones lose
# little with an actor; of many questions larger ones cost less, each block being three tasks of Ray's. A block's chains
# are in a worker's memory all at once, as Python's numbers.
ROWS_PER_BLOCK = (16, 256)
TOKENS_OF_BLOCK = 2**20
BLOCKS_IN_FLIGHT, BLOCKS_PER_ACTOR = 16, 64
# One task reads a whole file, and waits most of the time for the engines. With a whole CPU of the two that a laptop has it would
# leave none to label and write: of a million questions nothing would be committed before the last was read.
CPUS_TO_READ, CPUS_TO_WRITE = 0.25, 0.5


class SamplingActor:
    """Question -> CandidateGroup, not yet labelled: one request a question, with n = k.

    Of a held-out question also the greedy chain, and the candidates' scores as an evaluation has them: so the model that
    samples is evaluated with no engine but this one.
    """

    def __init__(self, settings: EngineSettings, attempts: ActorHandle[Any], counter: ActorHandle[Any]) -> None:
        self.settings = settings
        self.engine = start_or_end(attempts, lambda: Engine(settings))
        self.asking = Asking(attempts, settings.resources.attempts, id_of_question, self.sample, self.give_up)
        say_that_it_stands(self.asking.actor, counter, settings)

    async def __call__(self, table: pa.Table) -> AsyncIterator[pa.Table]:
        yield to_table(CandidateGroup, await self.asking.ask_all(from_table(Question, table)))

    async def sample(self, question: Question) -> CandidateGroup:
        config, prompt = self.settings.sampling, question.prompt_ids
        if len(prompt) > config.max_prompt_tokens:
            return self.give_up(question, too_long(prompt, config))
        group = self.group(question)
        candidates = await self.engine.sample(prompt, config.k, config.temperature, config.top_p, group.seed)
        if question.split == "train":
            return group.model_copy(update={"candidates": candidates})
        greedy, scores = await asyncio.gather(
            self.engine.greedy(prompt), self.engine.score(prompt, [candidate.token_ids for candidate in candidates])
        )
        scored = [
            candidate.model_copy(update={"log_likelihood": no_more_than_zero(score * len(candidate.token_ids))})
            for candidate, score in zip(candidates, scores, strict=True)
        ]
        return group.model_copy(update={"candidates": tuple(scored), "greedy": greedy})

    def give_up(self, question: Question, failure: Failure) -> CandidateGroup:
        return self.group(question).model_copy(update={"failure": failure})

    def group(self, question: Question) -> CandidateGroup:
        """With no candidates yet."""
        config = self.settings.sampling
        return CandidateGroup(
            question=question,
            candidates=(),
            model=self.settings.model_fingerprint,
            seed=request_seed(self.settings.seed, question.question_id),
            temperature=config.temperature,
            top_p=config.top_p,
            max_new_tokens=config.max_new_tokens,
        )


class EvaluationActor:
    """Labelled CandidateGroup -> Evaluation: the model's own greedy chain, its scores of the given candidates, k samples."""

    def __init__(self, settings: EngineSettings, attempts: ActorHandle[Any], counter: ActorHandle[Any], sampled: bool) -> None:
        self.settings = settings
        self.sampled = sampled
        self.engine = start_or_end(attempts, lambda: Engine(settings))
        self.asking = Asking(attempts, settings.resources.attempts, id_of_group, self.evaluate, self.give_up)
        say_that_it_stands(self.asking.actor, counter, settings)

    async def __call__(self, table: pa.Table) -> AsyncIterator[pa.Table]:
        yield to_table(Evaluation, await self.asking.ask_all(from_table(CandidateGroup, table)))

    async def evaluate(self, group: CandidateGroup) -> Evaluation:
        question = group.question
        prompt = question.prompt_ids
        if len(prompt) > self.settings.sampling.max_prompt_tokens:
            return self.give_up(group, too_long(prompt, self.settings.sampling))
        positives = [c.token_ids for c in group.candidates if c.label == "positive"]
        negatives = [c.token_ids for c in group.candidates if c.label == "negative"]
        # Assessment compares pairs: where there is no pair there is nothing to score.
        chains = [*positives, *negatives] if positives and negatives else []
        greedy, scores, samples = await asyncio.gather(
            self.engine.greedy(prompt), self.engine.score(prompt, chains), self.samples(group)
        )
        # In a thread: a check that hangs must not keep the engine from its other questions.
        checked = await asyncio.to_thread(self.check, (greedy, *samples), question)
        return Evaluation(
            question_id=question.question_id,
            task=question.task,
            model=self.settings.model_fingerprint,
            greedy=checked[0],
            positive_scores=scores[: len(positives)],
            negative_scores=scores[len(positives) :],
            samples=tuple(checked[1:]),
        )

    def give_up(self, group: CandidateGroup, failure: Failure) -> Evaluation:
        return Evaluation(
            question_id=group.question.question_id,
            task=group.question.task,
            model=self.settings.model_fingerprint,
            greedy=None,
            positive_scores=(),
            negative_scores=(),
            failure=failure,
        )

    async def samples(self, group: CandidateGroup) -> tuple[Candidate, ...]:
        """As many, with the same temperature and seed, as the group has of the model that sampled it."""
        if not self.sampled or not group.candidates:
            return ()
        return await self.engine.sample(
            group.question.prompt_ids, len(group.candidates), group.temperature, group.top_p, group.seed
        )

    def check(self, chains: Sequence[Candidate], question: Question) -> list[Candidate]:
        task = self.settings.tasks[question.task]
        return [check_candidate(chain, question, task, self.settings.labelling) for chain in chains]


def say_that_it_stands(actor: str | None, counter: ActorHandle[Any], settings: EngineSettings) -> None:
    gpu = 0 if settings.resources.gpus_per_sampling_actor else None
    keep_beating(lambda use: counter.beat.remote(actor, use), gpu)


def too_long(prompt_ids: Sequence[int], config: SamplingConfig) -> Failure:
    told = f"a prompt of {len(prompt_ids)} tokens, over max_prompt_tokens = {config.max_prompt_tokens}"
    return Failure(reason=told, attempts=0)


def id_of_question(question: Question) -> str:
    return question.question_id


def id_of_group(group: CandidateGroup) -> str:
    return group.question.question_id


def sample_candidates(
    questions: Place,
    out: Place,
    settings: EngineSettings,
    counter: ActorHandle[Any],
    but: frozenset[str] = frozenset(),
) -> None:
    """Sample and label k candidates for every question of a Parquet file; CandidateGroups as Parquet files in `out`.

    Questions that are in `out` already are left alone, and those in `but`.
    """
    number, done = left_to_do(questions, out, but)
    if not number:
        return
    groups = _through_pool(questions, lambda table: without(table, done), number, SamplingActor, settings, counter)
    _label_into(groups, out, settings, counter)


def label_candidates(
    groups: Place, out: Place, settings: EngineSettings, counter: ActorHandle[Any], but: frozenset[str] = frozenset()
) -> None:
    """Label, or label anew, the CandidateGroups of Parquet files that are not in `out` already, but those of some questions.

    Raises ValueError with the name of a file that a disk has changed.
    """
    check_whole(groups)
    done = pa.concat_arrays([committed(out), pa.array(sorted(but), pa.string())])
    rows = _rows(groups, lambda table: without(table, done), rows_per_block(count_rows(groups), settings), strict=True)
    _label_into(rows, out, settings, counter)


def rows_per_block(number: int, settings: EngineSettings) -> int:
    """Of `number` rows, as many as leave every actor enough blocks, and a worker enough memory."""
    smallest, largest = ROWS_PER_BLOCK
    of_actor = number // (settings.resources.sampling_actors[1] * BLOCKS_PER_ACTOR)
    fit = TOKENS_OF_BLOCK // (settings.sampling.k * settings.sampling.max_new_tokens)
    return max(smallest, min(largest, of_actor, fit))


def _rows(records: Place, wanted: Callable[[pa.Table], pa.Table], size: int, strict: bool = False) -> ray.data.Dataset:
    """Those that are wanted, in blocks of `size` rows.

    Where no actor takes blocks one by one they must be made `strict`, or all of a file come to one task and are written at its
    end.
    """
    path, filesystem = for_ray_data(records)
    rows = ray.data.read_parquet(path, filesystem=filesystem, num_cpus=CPUS_TO_READ)
    rows = rows.map_batches(wanted, batch_format="pyarrow", batch_size=None, num_cpus=CPUS_TO_READ)
    rows = rows.repartition(target_num_rows_per_block=size, strict=strict)
    # It takes no num_cpus, and is done in the task that reads only where it has the same.
    rows._logical_plan.dag.ray_remote_args["num_cpus"] = CPUS_TO_READ  # type: ignore[attr-defined]
    return rows


def _label_into(groups: ray.data.Dataset, out: Place, settings: EngineSettings, counter: ActorHandle[Any]) -> None:
    def label(table: pa.Table) -> pa.Table:
        labelled = [
            label_group(group, settings.tasks[group.question.task], settings.labelling)
            for group in from_table(CandidateGroup, table)
        ]
        verdicts = [candidate.verdict for group in labelled for candidate in group.candidates]
        counter.add.remote(len(labelled), checked=len(verdicts), right=verdicts.count("right"))
        return to_table(CandidateGroup, labelled)

    _write_blocks(groups, label, out)


def evaluate_model(
    groups: Place, out: Place, settings: EngineSettings, counter: ActorHandle[Any], sampled: bool, held_out: int
) -> None:
    """Evaluate a model on the `held_out` held-out questions of labelled groups, but those in `out` already; Evaluations there."""
    done = committed(out)

    def wanted(table: pa.Table) -> pa.Table:
        table = without(table, done)
        return table.filter(pc.not_equal(pc.struct_field(table["question"], "split"), "train"))

    def count(table: pa.Table) -> pa.Table:
        verdicts = pc.struct_field(table["greedy"], "verdict").drop_null().to_pylist()
        counter.add.remote(len(table), checked=len(verdicts), right=verdicts.count("right"))
        return table

    number = held_out - len(done)
    if not number:
        return
    evaluations = _through_pool(groups, wanted, number, EvaluationActor, settings, counter, sampled=sampled)
    _write_blocks(evaluations, count, out)


def _write_blocks(blocks: ray.data.Dataset, work: Callable[[pa.Table], pa.Table], out: Place) -> None:
    """Each block, as `work` makes it, in a file of its own. Where the stream fails, who was given up will be asked again.

    Ray Data's own write_parquet holds on to a reference a block until its end, and so to what Ray keeps of how that block came
    to be: 50 KB of the driver's memory each, which for a million questions is a gigabyte.
    """
    folder, stream = make_folder(out), uuid.uuid4().hex

    def write(table: pa.Table) -> pa.Table:
        made = work(table)
        if len(made):
            commit(made, folder, stream)
        return pa.table({"rows": [len(made)]})

    written = blocks.map_batches(write, batch_format="pyarrow", batch_size=None, num_cpus=CPUS_TO_WRITE)
    try:
        for _ in written.iter_batches(batch_size=None):
            pass
    except Exception:
        # Where nothing works any more those given up last are to blame for nothing.
        forget_given_up(folder)
        raise


def engines_at_first(blocks: int, settings: EngineSettings) -> int:
    """As many as have work and room: grown one after the other, most of a node would wait while the first one starts."""
    smallest, largest = settings.resources.sampling_actors
    busy, there = min(largest, -(-blocks // BLOCKS_IN_FLIGHT)), nodes()
    demand = sampling_demand(settings.resources)
    fit = [engines for engines in range(smallest, busy + 1) if holds(there, replace(demand, number=engines).bundles)]
    return max(fit, default=smallest)


def _through_pool(
    records: Place,
    wanted: Callable[[pa.Table], pa.Table],
    number: int,
    actor: Callable[..., Any],
    settings: EngineSettings,
    counter: ActorHandle[Any],
    **options: Any,
) -> ray.data.Dataset:
    """What an actor makes of those records that are wanted, `number` of them.

    Ray Data takes no actor with a GPU without a batch size: a block, as it would be on a CPU anyway.
    """
    smallest, largest = settings.resources.sampling_actors
    size = rows_per_block(number, settings)
    attempts = ray.remote(num_cpus=0)(Attempts).options(scheduling_strategy=beside_the_driver()).remote()
    gpus = settings.resources.gpus_per_sampling_actor
    return _rows(records, wanted, size).map_batches(
        actor,
        fn_constructor_kwargs={"settings": settings, "attempts": attempts, "counter": counter} | options,
        batch_format="pyarrow",
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(
            min_size=smallest,
            max_size=largest,
            initial_size=engines_at_first(-(-number // size), settings),
            max_tasks_in_flight_per_actor=BLOCKS_IN_FLIGHT,
            max_concurrent_calls_per_actor=BLOCKS_IN_FLIGHT,
        ),
        num_cpus=settings.resources.cpus_per_sampling_actor,
        num_gpus=gpus or None,
    )
