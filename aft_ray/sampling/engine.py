"""A vLLM engine in an actor: samples k chains of a question in one request, and scores given chains."""

import asyncio
import hashlib
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aft_ray.config import LabellingConfig, ModelConfig, ResourcesConfig, SamplingConfig
from aft_ray.places import fetched
from aft_ray.sampling.in_process import InProcessEngine
from aft_ray.sampling.watchdog import Watchdog
from aft_ray.tasks import Task
from schemas import Candidate, FinishReason

# Text and tables made token by token cost more than a small model itself: the text is decoded once, at the end.
COMPACT = {"detokenize": False, "flat_logprobs": True}
TOKENS_PER_BLOCK = 32
FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


@dataclass(frozen=True)
class EngineSettings:
    """Everything an actor needs to start its engine, and a stream to label what comes out of it."""

    model: ModelConfig
    model_fingerprint: str
    tasks: dict[str, Task]
    sampling: SamplingConfig
    labelling: LabellingConfig
    resources: ResourcesConfig
    seed: int


class Engine:
    """An engine of vLLM. Calls may overlap: it batches all requests that are under way, whoever made them.

    One that hangs, already at its start or later, ends its process: see Watchdog.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.watchdog = Watchdog(settings.resources.engine_seconds)
        folder = fetched(settings.model.path)  # from a store may take longer than an engine may
        with self.watchdog.watching():
            self._start(settings, folder)

    def _start(self, settings: EngineSettings, folder: Path) -> None:
        prepare_environment(settings.resources)
        from transformers import AutoTokenizer
        from vllm import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext

        self.settings = settings
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        on_gpu = settings.resources.gpus_per_sampling_actor > 0
        longest = longest_request(settings.sampling)
        arguments = AsyncEngineArgs(
            model=str(folder),
            dtype={"fp32": "float32", "bf16": "bfloat16"}[settings.model.precision],
            max_model_len=longest,
            tensor_parallel_size=max(1, settings.resources.gpus_per_sampling_actor),
            seed=settings.seed,
            load_format="safetensors",
            trust_remote_code=False,
            logprobs_mode="raw_logprobs",
            # What chains of a question share is kept in whole blocks, which on a CPU are 128 tokens: as long as a prompt.
            block_size=None if on_gpu else TOKENS_PER_BLOCK,
            # Compiling takes 40 s on a CPU, longer than a small run samples.
            enforce_eager=not on_gpu,
            # vLLM 0.32 on the CPU dies on a prompt that is split over two steps of a request with a seed
            # ("CPU Generator does not use offset"), so there a prompt is always computed whole.
            enable_chunked_prefill=on_gpu,
            max_num_batched_tokens=None if on_gpu else max(longest, 4096),
            disable_log_stats=True,
        )
        # As many sequences at once as offline work can use; a server runs fewer.
        context = UsageContext.LLM_CLASS
        if on_gpu:
            from vllm.v1.engine.async_llm import AsyncLLM

            self.llm: Any = AsyncLLM.from_engine_args(arguments, usage_context=context)
        else:
            self.llm = InProcessEngine(arguments, context, self.watchdog.hear)

    async def sample(
        self, prompt_ids: Sequence[int], n: int, temperature: float, top_p: float, seed: int
    ) -> tuple[Candidate, ...]:
        """n chains, with their log-likelihoods as the model gives them before temperature and top-p."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            n=n,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            max_tokens=self.settings.sampling.max_new_tokens,
            logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **COMPACT,
        )
        output = await self._run(prompt_ids, parameters)
        return tuple(self._candidate(sample) for sample in sorted(output.outputs, key=lambda sample: sample.index))

    async def greedy(self, prompt_ids: Sequence[int]) -> Candidate:
        """The chain of the most likely tokens."""
        (chain,) = await self.sample(prompt_ids, n=1, temperature=0.0, top_p=1.0, seed=0)
        return chain

    async def score(self, prompt_ids: Sequence[int], chains: Sequence[Sequence[int]]) -> tuple[float, ...]:
        """s(c) of each chain behind the prompt: per-token mean log-likelihood, nats."""
        return tuple(await asyncio.gather(*(self._score(prompt_ids, chain) for chain in chains)))

    async def _score(self, prompt_ids: Sequence[int], chain: Sequence[int]) -> float:
        from vllm import SamplingParams

        # vLLM always samples one token; only the log-likelihoods of the given ones are wanted.
        output = await self._run([*prompt_ids, *chain], SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, **COMPACT))
        given = output.prompt_logprobs[len(prompt_ids) :]
        return sum(at_place[token].logprob for at_place, token in zip(given, chain, strict=True)) / len(chain)

    async def _run(self, token_ids: Sequence[int], parameters: Any) -> Any:
        last = None
        with self.watchdog.watching():
            async for output in self.llm.generate({"prompt_token_ids": list(token_ids)}, parameters, request_id=uuid.uuid4().hex):
                last = output
        return last

    def _candidate(self, sample: Any) -> Candidate:
        return Candidate(
            index=sample.index,
            text=self.tokenizer.decode(sample.token_ids, skip_special_tokens=True),
            token_ids=tuple(sample.token_ids),
            finish_reason=FINISH_REASONS[sample.finish_reason],
            log_likelihood=no_more_than_zero(sample.cumulative_logprob),
        )


def no_more_than_zero(log_likelihood: float) -> float:
    """Rounding may leave it above. What is no number stays so, and the record refuses it: min(0.0, nan) would be 0.0."""
    return min(log_likelihood, 0.0)


def longest_request(sampling: SamplingConfig) -> int:
    """In tokens. One more than the longest chain: scoring asks for a token behind it."""
    return sampling.max_prompt_tokens + sampling.max_new_tokens + 1


def prepare_environment(resources: ResourcesConfig) -> None:
    """Before vLLM is imported. Nothing leaves the machine; on the CPU an actor keeps to one thread and a bounded cache."""
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["VLLM_HOST_IP"] = "127.0.0.1"
    if not resources.gpus_per_sampling_actor:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(resources.kv_cache_gib)
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(resources.cpus_per_sampling_actor)))
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def request_seed(run_seed: int, question_id: str) -> int:
    """Below 2**62: vLLM samples child i with seed + i, so seeds that lie side by side would share chains."""
    digest = hashlib.sha256(f"{run_seed}/{question_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2
