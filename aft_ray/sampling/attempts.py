"""Which question does an engine die of? Those that it had in hand are asked again apart from all others, at last each alone.

So a question that kills every engine costs its attempts and nothing else: then it is given up, with the reason. A death of the
whole node, as where a spot machine is taken away, is no question's fault. Where nothing is answered any more, questions are not
to blame: then the stage stops.
"""

import asyncio
import os
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
from aiorwlock import RWLock
from ray.actor import ActorHandle

from aft_ray.isolated import NotLoadableError
from schemas import Failure

Q = TypeVar("Q")
R = TypeVar("R")
E = TypeVar("E")
FEWEST_TOGETHER, PARTS = 8, 8
"""Questions that may be to blame, asked at a time before the last attempt: so many, or that part of what a block has of them."""
STARTS, LIVES, GIVEN_UP_ON_END = 3, 8, 32
"""Of an engine that does not start; that starts and dies with nothing answered; of questions, with none answered between."""
SECONDS_BETWEEN_LOOKS, SECONDS_WITHOUT_OTHERS, SECONDS_OF_A_START = 30.0, 600.0, 7200.0
"""Of one that waits while others work: how long none may have had work; how long another may at most be starting."""
BYTES_TOLD = 3000


class EngineDoesNotStartError(RuntimeError):
    """Every start of an actor's engine failed, or it died each time before it had answered anything."""


class NothingIsAnsweredError(RuntimeError):
    """One question after the other was given up."""


def alive_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


class Attempts:
    """What is in hand, by question, and how engines fare: an actor beside the driver, so that it outlives those of the pool."""

    def __init__(self, alive: Callable[[], set[str]] = alive_nodes, now: Callable[[], float] = time.monotonic) -> None:
        self.alive, self.now = alive, now
        self.begun: dict[str, list[tuple[str, str]]] = {}
        self.started_at: dict[str, float] = {}
        self.starts: dict[str, list[str]] = {}
        self.lives: dict[str, list[str]] = {}
        self.standing: set[str] = set()
        self.hopeless: set[str] = set()
        self.why_not: dict[str, str] = {}
        self.given_up = 0

    def begin(self, question_ids: Sequence[str], node: str, actor: str) -> list[int]:
        """Of each, how many attempts have ended in a death. Those without are in that actor's hand from now on, on that node."""
        deaths = [self._deaths(question_id) for question_id in question_ids]
        self.begin_again([name for name, number in zip(question_ids, deaths, strict=True) if not number], node, actor)
        return deaths

    def begin_again(self, question_ids: Sequence[str], node: str, actor: str) -> None:
        for question_id in question_ids:
            self.begun.setdefault(question_id, []).append((node, actor))

    def end(self, question_ids: Sequence[str], given_up: int, actor: str) -> int:
        """They are answered, all but so many; the actor's engine works. How many were given up since one was last answered."""
        for question_id in question_ids:
            self.begun.pop(question_id, None)
        if question_ids:
            self.lives.pop(actor, None)
            self.given_up = self.given_up + given_up if given_up == len(question_ids) else 0
        return self.given_up

    def start(self, actor: str, node: str) -> str | None:
        """Before that actor's engine is started there. Why it should not be, where it has been too often for nothing."""
        alive = self.alive()
        self.standing.discard(actor)
        starts, lives = ([of for of in counted.get(actor, []) if of in alive] for counted in (self.starts, self.lives))
        too_often = None
        if len(starts) >= STARTS:
            too_often = f"an engine ended its process at each of {STARTS} starts"
        elif len(lives) >= LIVES:
            too_often = f"an engine started {LIVES} times and died each time before it had answered a question"
        if too_often is not None:
            self.hopeless.add(actor)
            return f"{too_often}; {self.why_not.get(actor, 'why, is in logs/ray/worker-*.err')}"
        self.hopeless.discard(actor)
        self.started_at[actor] = self.now()
        self.starts[actor], self.lives[actor] = [*starts, node], [*lives, node]
        return None

    def stands(self, actor: str) -> None:
        self.starts.pop(actor, None)
        self.standing.add(actor)

    def some_may_stand(self) -> bool:
        """Whether engines work, or are being started that have not failed too often."""
        return bool((self.starts.keys() | self.standing) - self.hopeless)

    def others_work(self, actor: str) -> bool:
        """Whether some other has questions in hand, or is being started. (One that the pool has let go has neither for long.)"""
        busy = {begun[-1][1] for begun in self.begun.values() if begun} & self.standing
        since = self.now() - SECONDS_OF_A_START
        starting = {of for of in self.starts.keys() - self.hopeless if self.started_at[of] > since}
        return bool((busy | starting) - {actor})

    def does_not_start(self, actor: str, reason: str) -> None:
        self.why_not[actor] = reason

    def _deaths(self, question_id: str) -> int:
        begun = self.begun.get(question_id)
        if not begun:
            return 0
        alive = self.alive()
        self.begun[question_id] = [(node, actor) for node, actor in begun if node in alive]
        return len(self.begun[question_id])


class Asking(Generic[Q, R]):
    """Asks questions of this actor's engine. `ask` may raise; `give_up` makes the record of a question with a Failure."""

    def __init__(
        self,
        attempts: ActorHandle[Any],
        limit: int,
        id_of: Callable[[Q], str],
        ask: Callable[[Q], Awaitable[R]],
        give_up: Callable[[Q, Failure], R],
    ) -> None:
        self.attempts, self.limit, self.id_of, self.ask, self.give_up = attempts, limit, id_of, ask, give_up
        self.turns = RWLock()
        context = ray.get_runtime_context()
        self.node, self.actor = context.get_node_id(), context.get_actor_id()

    async def ask_all(self, questions: Sequence[Q]) -> list[R]:
        """A record of each, in order. Raises NothingIsAnsweredError."""
        ids = [self.id_of(question) for question in questions]
        async with self.turns.reader:
            deaths = await self.attempts.begin.remote(ids, self.node, self.actor)
            unsuspected = [question for question, number in zip(questions, deaths, strict=True) if not number]
            found = await self.ask_together(unsuspected)
        for number in range(1, self.limit):
            suspects = [question for question, of_it in zip(questions, deaths, strict=True) if of_it == number]
            together = 1 if number == self.limit - 1 else max(FEWEST_TOGETHER, len(suspects) // PARTS)
            for first in range(0, len(suspects), together):
                some = suspects[first : first + together]
                async with self.turns.writer:
                    await self.attempts.begin_again.remote([self.id_of(question) for question in some], self.node, self.actor)
                    found |= await self.ask_together(some)
        for question, number in zip(questions, deaths, strict=True):
            if number >= self.limit:
                failure = Failure(reason="the engine died of it", attempts=number)
                found[self.id_of(question)] = self.give_up(question, failure)
                await self.end([self.id_of(question)], [failure])
        return [found[question_id] for question_id in ids]

    async def ask_together(self, questions: Sequence[Q]) -> dict[str, R]:
        answers = await asyncio.gather(*(self.ask_until_answered(question) for question in questions))
        ids = [self.id_of(question) for question in questions]
        await self.end(ids, [failure for _, failure in answers if failure is not None])
        return {question_id: record for question_id, (record, _) in zip(ids, answers, strict=True)}

    async def end(self, question_ids: Sequence[str], failures: Sequence[Failure]) -> None:
        on_end = await self.attempts.end.remote(question_ids, len(failures), self.actor)
        if on_end >= GIVEN_UP_ON_END:
            told = f"{on_end} questions on end were given up, none answered"
            raise NothingIsAnsweredError(f"{told}. The last: {failures[-1].reason}")

    async def ask_until_answered(self, question: Q) -> tuple[R, Failure | None]:
        """Its record, and why it was given up, if it was."""
        for attempt in range(1, self.limit + 1):
            try:
                return await self.ask(question), None
            except NotLoadableError:  # no question's fault
                raise
            except Exception as error:
                if type(error).__name__ == "EngineDeadError":  # vLLM's; it ends the engine, Ray then starts this actor anew
                    print(f"The engine is dead: {error!r}", flush=True)
                    os._exit(1)
                failure = Failure(reason=f"{type(error).__name__}: {error}"[:500], attempts=attempt)
        return self.give_up(question, failure), failure


def start_or_end(attempts: ActorHandle[Any], start: Callable[[], E]) -> E:
    """An engine, of this actor. One that fails to start ends the process, so that Ray starts another, elsewhere perhaps.

    Where that has come to nothing too often, the machine may be to blame. While others work or start, this one then waits, so
    that nothing else takes the place; raises EngineDoesNotStartError where none does, or all have long done what was theirs:
    what this one had in hand when it died Ray gives to nobody else.
    """
    context = ray.get_runtime_context()
    actor, worked = context.get_actor_id(), time.monotonic()
    why_not: Any
    while why_not := ray.get(attempts.start.remote(actor, context.get_node_id())):
        if ray.get(attempts.others_work.remote(actor)):
            worked = time.monotonic()
        if not ray.get(attempts.some_may_stand.remote()) or time.monotonic() - worked > SECONDS_WITHOUT_OTHERS:
            raise EngineDoesNotStartError(why_not)
        print(f"Not started again while others work: {why_not}", flush=True)
        time.sleep(SECONDS_BETWEEN_LOOKS)
    try:
        engine = start()
        ray.get(attempts.stands.remote(actor))
        return engine
    except Exception as error:
        traceback.print_exc()
        # vLLM's own error often only says that one of its processes has ended; why, that process has printed.
        printed = f"logs/ray/worker-{context.get_worker_id()}-* of node {ray.util.get_node_ip_address()}"
        told = f"the last time: {type(error).__name__}: {error}"[:2000]
        ray.get(attempts.does_not_start.remote(actor, f"{told}\nAll that it printed is in {printed}; at last:\n{last_printed()}"))
        os._exit(1)


def last_printed() -> str:
    """By this process and those that it started: the end of the file to which Ray sends it. The machine may be gone tomorrow."""
    printed = Path("/proc/self/fd/2")
    if not printed.is_file():
        return ""
    with printed.open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - BYTES_TOLD))
        return stream.read().decode(errors="replace")
