"""Engines that die, hang, or do not start, and the questions that make them: in real actors with real engines of vLLM.

A fault is put into the actor that a stream starts; which question it strikes at, and how often it has struck, is in files.
"""

import json
import os
import re
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from transformers import AutoTokenizer

from aft_ray.config import LabellingConfig, ModelConfig, ResourcesConfig, SamplingConfig
from aft_ray.labelling import count_labels
from aft_ray.progress import Counter
from aft_ray.sampling import stream
from aft_ray.sampling.attempts import STARTS
from aft_ray.sampling.dead_letters import keep_dead_letters
from aft_ray.sampling.engine import Engine, EngineSettings
from aft_ray.tasks import TASKS
from aft_ray.tasks.arithmetic import generate
from schemas import CandidateGroup, Question, read_parquet, write_parquet
from tests.conftest import WITHIN, tokenized

pytestmark = [pytest.mark.usefixtures("ray_session"), WITHIN]
QUESTIONS, ENGINE_SECONDS, MOST_TOKENS = 40, 40.0, 120


def faulty(usual: type, folder: Path, strikes) -> type:
    """An actor whose engine comes to `strikes(kind, prompt, note)` at its start and at each question's sampling.

    It has asked Ray for a GPU, as those of a cluster do; its engine does without.
    """

    class FaultyActor(usual):
        def __init__(self, settings, *given, **named):
            start = Engine._start

            def start_or_not(engine, *given):
                strikes("start", (), lambda kind: note(folder, kind))
                start(engine, *given)

            Engine._start = start_or_not
            on_cpu = settings.resources.model_copy(update={"gpus_per_sampling_actor": 0})
            super().__init__(replace(settings, resources=on_cpu), *given, **named)
            sample = self.engine.sample

            async def sample_or_not(prompt_ids, *more, **others):
                with self.engine.watchdog.watching():
                    strikes("sample", tuple(prompt_ids), lambda kind: note(folder, kind))
                return await sample(prompt_ids, *more, **others)

            self.engine.sample = sample_or_not

    return FaultyActor


def note(folder: Path, kind: str) -> int:
    """Writes down that a fault struck; the number of times before."""
    before = len(list(folder.glob(f"{kind}-*")))
    (folder / f"{kind}-{before}-{os.getpid()}").touch()
    return before


@pytest.fixture
def sampled(tiny_llama, tmp_path, monkeypatch):
    """A function that samples with a fault: the questions, the groups by question, how often each kind of fault struck.

    Beside that fault one prompt is too long, which costs its own question and no attempt.
    """
    questions = tokenized(generate("train", QUESTIONS, 0, 1), AutoTokenizer.from_pretrained(tiny_llama))
    questions[-1] = questions[-1].model_copy(update={"prompt_ids": (5,) * (MOST_TOKENS + 1)})
    (tmp_path / "questions").mkdir()
    write_parquet(tmp_path / "questions" / "questions.parquet", Question, questions)
    settings = EngineSettings(
        model=ModelConfig(path=tiny_llama, precision="fp32"),
        model_fingerprint="tiny",
        tasks=TASKS,
        labelling=LabellingConfig(),
        sampling=SamplingConfig(k=2, max_prompt_tokens=MOST_TOKENS, max_new_tokens=20),
        resources=ResourcesConfig(sampling_actors=(1, 1), gpus_per_sampling_actor=1, attempts=3, engine_seconds=ENGINE_SECONDS),
        seed=0,
    )
    (tmp_path / "struck").mkdir()

    def sample(make_strikes, **resources):
        changed = replace(settings, resources=settings.resources.model_copy(update=resources))
        strikes = make_strikes(questions)
        monkeypatch.setattr(stream, "SamplingActor", faulty(stream.SamplingActor, tmp_path / "struck", strikes))
        stream.sample_candidates(tmp_path / "questions", tmp_path / "groups", changed, Counter.remote())
        groups = read_parquet(tmp_path / "groups", CandidateGroup)
        assert sorted(g.question.question_id for g in groups) == sorted(q.question_id for q in questions)
        found = {group.question.question_id: group for group in groups}
        too_long = found.pop(questions[-1].question_id)
        told = f"a prompt of {MOST_TOKENS + 1} tokens, over max_prompt_tokens = {MOST_TOKENS}"
        assert (too_long.candidates, too_long.failure.reason, too_long.failure.attempts) == ((), told, 0)
        return questions, found, tmp_path / "struck"

    return sample


def test_questions_that_kill_every_engine_or_always_fail_are_given_up_and_cost_nothing_else(sampled, tmp_path):
    def poison(questions):
        deadly, always, once = (questions[place].prompt_ids for place in (5, 3, 7))

        def strikes(kind, prompt, note):
            if kind == "sample" and prompt == deadly:
                note("death")
                os._exit(1)
            if kind == "sample" and (prompt == always or (prompt == once and note("once") == 0)):
                raise ValueError("no such token")

        return strikes

    questions, groups, struck = sampled(poison)
    assert len(list(struck.glob("death-*"))) == 3
    assert len(list(struck.glob("once-*"))) > 1
    killed, failed = groups.pop(questions[5].question_id), groups.pop(questions[3].question_id)
    assert (killed.candidates, killed.failure.reason, killed.failure.attempts) == ((), "the engine died of it", 3)
    assert (failed.candidates, failed.failure.reason, failed.failure.attempts) == ((), "ValueError: no such token", 3)
    assert all(group.failure is None and len(group.candidates) == 2 for group in groups.values())
    assert count_labels(keep_dead_letters(tmp_path, [killed, failed, *groups.values()]))["dead letters"] == 2
    first, second = map(json.loads, (tmp_path / "dead_letters.jsonl").read_text().splitlines())
    assert first == {"question_id": killed.question.question_id, "task": "arithmetic"} | killed.failure.model_dump()
    assert second["question_id"] == failed.question.question_id


@pytest.mark.chaos
def test_an_engine_that_hangs_is_replaced_within_its_bound(sampled):
    def hang(questions):
        first = questions[0].prompt_ids

        def strikes(kind, prompt, note):
            if kind == "sample" and prompt == first and note("hang") == 0:
                time.sleep(10**6)  # holds the actor's only thread, as an engine in a deadlock does

        return strikes

    started = time.monotonic()
    _, groups, struck = sampled(hang)
    assert time.monotonic() - started < 2 * ENGINE_SECONDS + 120
    assert len(list(struck.glob("hang-*"))) == 2
    assert all(len(group.candidates) == 2 for group in groups.values())


@pytest.mark.chaos
def test_an_engine_that_never_starts_ends_the_stage_with_the_reason(sampled):
    def never(questions):
        def strikes(kind, prompt, note):
            if kind == "start":
                if note("start") == 0:
                    os._exit(1)
                raise RuntimeError("no memory")

        return strikes

    started = time.monotonic()
    with pytest.raises(
        Exception, match="ended its process at each of 3 starts; the last time: RuntimeError: no memory"
    ) as caught:
        sampled(never)
    assert time.monotonic() - started < 180
    logs = Path(ray.nodes()[0]["ObjectStoreSocketName"]).parent.parent / "logs"
    printed = [path.read_text() for path in logs.glob(re.findall(r"logs/ray/(worker-\S+\*) of node \S+", str(caught.value))[-1])]
    assert any("in start_or_not" in text for text in printed)
    assert "in start_or_not" in str(caught.value), "and told, for the machine may be gone"


@pytest.mark.chaos
def test_where_one_engine_never_starts_the_other_does_all(sampled, tmp_path):
    """As on a machine with a broken GPU."""

    def broken(questions):
        def strikes(kind, prompt, note):
            if kind != "start":
                return
            actor, first = ray.get_runtime_context().get_actor_id(), tmp_path / "first"
            with suppress(FileExistsError), first.open("x") as file:
                file.write(actor)
            if first.read_text() == actor:
                note("start")
                raise RuntimeError("a broken GPU")

        return strikes

    _, groups, struck = sampled(broken, sampling_actors=(2, 2), gpus_per_sampling_actor=0, cpus_per_sampling_actor=0.5)
    assert len(list(struck.glob("start-*"))) == STARTS
    assert all(len(group.candidates) == 2 for group in groups.values())


@pytest.mark.chaos
def test_an_engine_that_does_not_start_once_costs_nothing(sampled):
    def once(questions):
        def strikes(kind, prompt, note):
            if kind == "start" and note("start") == 0:
                os._exit(1)

        return strikes

    _, groups, struck = sampled(once)
    assert len(list(struck.glob("start-*"))) == 2
    assert all(len(group.candidates) == 2 for group in groups.values())
