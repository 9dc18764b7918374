"""Which question does an engine die of? Those that it had in hand are asked again apart from all others, at last each alone.

So a question that kills every engine costs its attempts and nothing else: then it is given up, with the reason. A death of the
whole node, as where a spot machine is taken away, is no question's fault.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import ray
from aiorwlock import RWLock
from ray.actor import ActorHandle

from schemas import Failure

Q = TypeVar("Q")
R = TypeVar("R")
TOGETHER = 8
"""Questions that may be to blame, asked at a time, before the last attempt."""
STARTS = 3


class EngineDoesNotStartError(RuntimeError):
    """Every start of an actor's engine ended its process."""


@ray.remote(num_cpus=0)
class Attempts:
    """What is in hand, by question: lives beside the driver, so that it outlives the actors."""

    def __init__(self) -> None:
        self.begun: dict[str, list[str]] = {}
        self.starts: Counter[str] = Counter()

    def begin(self, question_ids: Sequence[str], node: str) -> list[int]:
        """Of each, how many attempts have ended in a death. Those without are in hand from now on, on that node."""
        deaths = [self._deaths(question_id) for question_id in question_ids]
        self.begin_again([name for name, number in zip(question_ids, deaths, strict=True) if not number], node)
        return deaths

    def begin_again(self, question_ids: Sequence[str], node: str) -> None:
        for question_id in question_ids:
            self.begun.setdefault(question_id, []).append(node)

    def end(self, question_ids: Sequence[str]) -> None:
        for question_id in question_ids:
            self.begun.pop(question_id, None)

    def start(self, actor: str) -> int:
        """How often that actor's engine has been started, this time included, since it last stood."""
        self.starts[actor] += 1
        return self.starts[actor]

    def stands(self, actor: str) -> None:
        del self.starts[actor]

    def _deaths(self, question_id: str) -> int:
        begun = self.begun.get(question_id)
        if not begun:
            return 0
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        self.begun[question_id] = [node for node in begun if node in alive]
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
        self.node = ray.get_runtime_context().get_node_id()

    async def ask_all(self, questions: Sequence[Q]) -> list[R]:
        """A record of each, in order."""
        ids = [self.id_of(question) for question in questions]
        async with self.turns.reader:
            deaths = await self.attempts.begin.remote(ids, self.node)
            unsuspected = [question for question, number in zip(questions, deaths, strict=True) if not number]
            found = await self.ask_together(unsuspected)
        for number in range(1, self.limit):
            suspects = [question for question, of_it in zip(questions, deaths, strict=True) if of_it == number]
            together = 1 if number == self.limit - 1 else TOGETHER
            for first in range(0, len(suspects), together):
                some = suspects[first : first + together]
                async with self.turns.writer:
                    await self.attempts.begin_again.remote([self.id_of(question) for question in some], self.node)
                    found |= await self.ask_together(some)
        for question, number in zip(questions, deaths, strict=True):
            if number >= self.limit:
                found[self.id_of(question)] = self.give_up(question, Failure(reason="the engine died of it", attempts=number))
        return [found[question_id] for question_id in ids]

    async def ask_together(self, questions: Sequence[Q]) -> dict[str, R]:
        records = await asyncio.gather(*(self.ask_until_answered(question) for question in questions))
        found = dict(zip((self.id_of(question) for question in questions), records, strict=True))
        await self.attempts.end.remote(list(found))
        return found

    async def ask_until_answered(self, question: Q) -> R:
        for attempt in range(1, self.limit + 1):
            try:
                return await self.ask(question)
            except Exception as error:
                if type(error).__name__ == "EngineDeadError":  # vLLM's; it ends the engine, Ray then starts this actor anew
                    print(f"The engine is dead: {error!r}", flush=True)
                    os._exit(1)
                failure = Failure(reason=f"{type(error).__name__}: {error}"[:500], attempts=attempt)
        return self.give_up(question, failure)


def count_start(attempts: ActorHandle[Any]) -> None:
    """Before an actor starts its engine. Raises EngineDoesNotStartError where that has ended its process too often."""
    actor = ray.get_runtime_context().get_actor_id()
    started: Any = ray.get(attempts.start.remote(actor))
    if started > STARTS:
        raise EngineDoesNotStartError(f"an engine ended its process at each of {STARTS} starts; why, is in logs/ray/worker-*.err")


def tell_that_it_stands(attempts: ActorHandle[Any]) -> None:
    ray.get(attempts.stands.remote(ray.get_runtime_context().get_actor_id()))
