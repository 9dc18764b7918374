"""The stream at scale, with an engine of known latency: what it adds for each question, what the driver holds, who waits.

Run as:  .venv/bin/python benchmarks/streaming.py [--at-once 10000,100000] [--paced 10000,100000] [--slots 256] [--latency 1.0]

The stream is the one of a run (Parquet -> actor -> labels -> Parquet) and so are its records, but in the place of vLLM stands an
engine that answers a request with k fixed chains after a fixed time, for a fixed number of requests at once.

at once   the engine answers at once: seconds of wall time a question, on this many CPUs
paced     the engine takes `latency` for each of `slots` requests at once: the share of slot-seconds that stood empty between the
          first question and the last answer, the last wave included

Each stream has a driver of its own. What its resident memory grew by is over what it was after a first stream of 1,000, with
counting the records as a run does; the questions themselves, which a run's driver holds, are not there.
"""

import argparse
import asyncio
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from figures import keep, table

K, TOKENS = 6, 48
WARM_UP = 1000


class SleepingEngine:
    """Answers after `latency` seconds, at most `slots` at once, in a thread of its own, as vLLM's work outside the actor's loop.

    Whenever nothing waits it writes into `told` since when, until when, and how long slots were busy.
    """

    def __init__(self, slots: int, latency: float, told: Path) -> None:
        self.free, self.latency, self.told = asyncio.Semaphore(slots), latency, told
        self.first, self.answered, self.waiting = 0.0, 0, 0
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def sample(self, prompt_ids: Any, n: int, temperature: float, top_p: float, seed: int) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.answer(n, seed), self.loop))

    async def answer(self, n: int, seed: int) -> Any:
        from schemas import Candidate

        self.first, self.waiting = self.first or time.time(), self.waiting + 1
        async with self.free:
            await asyncio.sleep(self.latency)
        self.answered, self.waiting = self.answered + 1, self.waiting - 1
        if not self.waiting:
            self.told.write_text(f"{self.first} {time.time()} {self.answered * self.latency}")
        return tuple(
            Candidate(
                index=index,
                text=f"<<{seed % 90}+{index}={seed % 90 + index}>>. The answer is {seed % 90 + index}.",
                token_ids=tuple(range(TOKENS)),
                finish_reason="stop",
                log_likelihood=-20.0,
            )
            for index in range(n)
        )


def write_questions(folder: Path, number: int) -> None:
    """Row group by row group, so that the driver does not hold them."""
    import pyarrow.parquet as pq

    from schemas import Question, arrow_schema, to_table

    folder.mkdir()
    with pq.ParquetWriter(folder / "questions.parquet", arrow_schema(Question)) as writer:
        for first in range(0, number, 10_000):
            rows = [
                Question(
                    question_id=f"{i:08}", task="gsm8k", split="train", text="?", gold="7", reference=None, prompt_ids=(1,) * 50
                )
                for i in range(first, min(number, first + 10_000))
            ]
            writer.write_table(to_table(Question, rows))


def in_own_driver(number: int, slots: int, latency: float) -> dict[str, float]:
    import ray

    from aft_ray.cluster import connect

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which Ray's workers cannot import
    with tempfile.TemporaryDirectory() as folder:
        connect(Path(folder))
        stream(WARM_UP, 10**6, 0.0)
        found = stream(number, slots, latency, memory())
        ray.shutdown()
    return found


def stream(number: int, slots: int, latency: float, base: int = 0) -> dict[str, float]:
    """One stream of so many questions; of the driver, by how many MB it then stood above `base` bytes at most."""
    from aft_ray.config import LabellingConfig, ModelConfig, ResourcesConfig, SamplingConfig
    from aft_ray.labelling import count_labels
    from aft_ray.progress import Counter
    from aft_ray.sampling import stream
    from aft_ray.sampling.attempts import Asking
    from aft_ray.sampling.commits import each_once
    from aft_ray.sampling.engine import EngineSettings
    from aft_ray.tasks import TASKS
    from schemas import CandidateGroup, iter_parquet

    settings = EngineSettings(
        model=ModelConfig(path=Path("none")),
        model_fingerprint="m",
        tasks=TASKS,
        sampling=SamplingConfig(k=K, max_prompt_tokens=256, max_new_tokens=64),
        labelling=LabellingConfig(),
        resources=ResourcesConfig(sampling_actors=(1, 1), cpus_per_sampling_actor=0.5),
        seed=0,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_questions(folder / "questions", number)
        told = folder / "told"

        class SleepingActor(stream.SamplingActor):
            def __init__(self, settings: EngineSettings, attempts: Any, counter: Any) -> None:
                self.settings = settings
                self.engine = SleepingEngine(slots, latency, told)  # type: ignore[assignment]
                self.asking = Asking(attempts, 3, stream.id_of_question, self.sample, self.give_up)

        usual, stream.SamplingActor = stream.SamplingActor, SleepingActor  # type: ignore[misc]
        ids = [f"{i:08}" for i in range(number)]  # a run's driver holds its questions, so these are not counted
        of_ids = sys.getsizeof(ids) + sum(map(sys.getsizeof, ids))
        with Most() as most:
            started = time.time()
            stream.sample_candidates(folder / "questions", folder / "groups", settings, Counter.remote())
            seconds = time.time() - started
            records = each_once(ids, iter_parquet(folder / "groups", CandidateGroup), lambda group: group.question.question_id)
            counts = count_labels(records)
        stream.SamplingActor = usual  # type: ignore[misc]
        assert (counts["groups"], counts["candidates"]) == (number, number * K), counts
        first, last, busy = map(float, told.read_text().split())
        files = len(list((folder / "groups").glob("*.parquet")))
    waiting = 1 - busy / (slots * (last - first)) if latency else 0.0
    return {"seconds": seconds, "driver_grew_mb": (most.memory - of_ids - base) / 1e6, "waiting": waiting, "files": files}


def memory() -> int:
    """Resident, of this process, in bytes."""
    return int(psutil.Process().memory_info().rss)


class Most:
    """The most memory while the block runs."""

    def __enter__(self) -> "Most":
        self.ended = threading.Event()
        self.memory = memory()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *given: Any) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.ended.wait(0.05):
            self.memory = max(self.memory, memory())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", default="10000,100000")
    parser.add_argument("--paced", default="10000,100000")
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--latency", type=float, default=1.0)
    given = parser.parse_args()
    wanted = [(int(number), 10**6, 0.0) for number in given.at_once.split(",") if number]
    wanted += [(int(number), given.slots, given.latency) for number in given.paced.split(",") if number]
    lines, figures = [], []
    for number, slots, latency in wanted:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            found = process.apply(in_own_driver, (number, slots, latency))
        print(number, found, flush=True)
        pace = [f"{latency:g}, {slots} at once", "", f"{100 * found['waiting']:.1f} %"]
        at_once = ["0", f"{1000 * found['seconds'] / number:.2f}", ""]
        grew = f"{found['driver_grew_mb']:.0f}"
        lines.append([f"{number:,}", *(pace if latency else at_once), grew, f"{found['files']:,.0f}"])
        figures.append({"questions": number, "latency": latency, "slots": slots} | found)
    heading = ["questions", "engine's seconds a question", "ms a question", "engine waits", "driver grew by, MB", "files"]
    keep("streaming", {"cpus": os.cpu_count(), "k": K, "tokens": TOKENS, "runs": figures}, table(heading, lines))


if __name__ == "__main__":
    main()
