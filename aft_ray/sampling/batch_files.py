"""The batch files of vLLM (`vllm run-batch`) and OpenAI: requests for a job's training questions, and the chains that came back.

{"custom_id": "mine-train-7", "error": null, "response": {"status_code": 200, "body": {"choices": [
    {"message": {"content": "3 * 6 = 18. The answer is 18."}, "finish_reason": "stop"}, ...]}}}

A request that failed has an error, or another status than 200.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field
from transformers import AutoTokenizer

from aft_ray.config import RunConfig
from aft_ray.places import Place, atomic_file, fetched
from aft_ray.sampling.engine import request_seed
from aft_ray.tasks import make_tasks, read_questions
from aft_ray.tasks.base import Row, Text
from aft_ray.tasks.tokens import choose_shots, conversation, not_taken, plain_prompt
from schemas import FinishReason, Question


class Message(Row):
    content: str | None = None


class Choice(Row):
    """Of a chat, with a message, or of a completion, with a text."""

    message: Message = Message()
    completion: str | None = Field(None, alias="text")
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        return self.message.content or self.completion or ""

    @property
    def ended(self) -> FinishReason:
        """Whatever stopped it but the model itself has cut it off."""
        return "stop" if self.finish_reason == "stop" else "length"


class Body(Row):
    choices: list[Choice]


class Response(Row):
    body: Body


class BatchLine(Row):
    """A request that was answered."""

    custom_id: Text = Field(description="of a question, as the run names it")
    response: Response


def failure_of(line: dict[str, Any]) -> str | None:
    """Why the request of a line was not answered; None where it was."""
    response = line.get("response") or {}
    if line.get("error") is None and isinstance(response, dict) and response.get("status_code", 200) == 200:
        return None
    return f"the request failed: {json.dumps(line.get('error') or response)[:160]}"


def write_requests(config: RunConfig, model: str | None, out: Path) -> int:
    """A line for each training question, which asks for what a run would sample; returns how many there are."""
    number = 0
    with atomic_file(out) as file:
        for number, request in enumerate(requests(config, model), start=1):  # noqa: B007
            file.write(json.dumps(request, ensure_ascii=False) + "\n")
    return number


def plain_template(model: Place) -> str:
    """The chat template by which vLLM asks a model for the one message as it is, with what its tokenizer puts before a text."""
    tokenizer = AutoTokenizer.from_pretrained(fetched(model, weights=False))
    begins = tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return ("{{ bos_token }}" if begins else "") + "{{ messages[0].content }}"


def requests(config: RunConfig, model: str | None) -> Iterator[dict[str, Any]]:
    """`model`: the name that they carry, where a server asks for one. A plain prompt is a message of the user's."""
    found, tasks = read_questions(config.task, config.seed), make_tasks(config.task)
    shots = choose_shots(found.questions, config.prompt.few_shot)

    def messages(question: Question) -> list[dict[str, str]]:
        if config.prompt.chat:
            return conversation(question, shots[question.task])
        return [{"role": "user", "content": plain_prompt(question, tasks[question.task], shots[question.task])}]

    for question in not_taken(found.train, shots):
        body = {
            "messages": messages(question),
            "n": config.sampling.k,
            "temperature": config.sampling.temperature,
            "top_p": config.sampling.top_p,
            "max_completion_tokens": config.sampling.max_new_tokens,
            "seed": request_seed(config.seed, question.question_id),
        } | ({} if model is None else {"model": model})
        yield {"custom_id": question.question_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
