"""vLLM's engine in a thread of this process, for a model on the CPU.

vLLM's own asynchronous engine starts a second process: on a GPU, so that the model never waits for Python. On a CPU there is
nothing to win by it, the second import takes longer than a small model samples, and where this process is killed the second
one outlives it.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from queue import SimpleQueue
from typing import Any


class EngineDeadError(RuntimeError):
    """A step of the engine failed; it answers no more. (Of the same name as vLLM's own.)"""


class InProcessEngine:
    """As AsyncLLM: `generate` may be called many times at once, and all requests that are under way are batched."""

    def __init__(self, arguments: Any, usage_context: Any, stepped: Callable[[], None]) -> None:
        """`stepped` is called after every step, in the engine's thread."""
        from vllm.v1.engine.llm_engine import LLMEngine

        self.stepped = stepped
        self.engine = LLMEngine.from_engine_args(arguments, usage_context=usage_context)
        self.asked: SimpleQueue[tuple[Any, Any, str]] = SimpleQueue()
        self.answers: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]]] = {}
        self.dead: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    async def generate(self, prompt: Any, parameters: Any, request_id: str) -> AsyncIterator[Any]:
        """The whole output, once. Raises what vLLM raises of a request that it refuses; EngineDeadError."""
        if self.dead is not None:
            raise EngineDeadError(repr(self.dead))
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self.answers[request_id] = loop, answer
        self.asked.put((prompt, parameters, request_id))
        yield await answer

    def _run(self) -> None:
        try:
            while True:
                self._take_requests()
                for output in self.engine.step():
                    if output.finished:
                        self._answer(output.request_id, output)
                self.stepped()
        except BaseException as error:  # whatever it is, nobody may wait for ever
            self.dead = error
            for request_id in list(self.answers):
                self._answer(request_id, EngineDeadError(repr(error)))

    def _take_requests(self) -> None:
        """All that wait; where there is nothing to do, waits for one."""
        while not self.asked.empty() or not self.engine.has_unfinished_requests():
            prompt, parameters, request_id = self.asked.get()
            try:
                self.engine.add_request(request_id, prompt, parameters)
            except ValueError as error:  # this request is at fault, and no other
                self._answer(request_id, error)

    def _answer(self, request_id: str, output: Any) -> None:
        loop, answer = self.answers.pop(request_id)

        def give() -> None:
            if answer.cancelled():
                return
            if isinstance(output, BaseException):
                answer.set_exception(output)
            else:
                answer.set_result(output)

        loop.call_soon_threadsafe(give)
