"""Sampling k chains a question: our stream with one actor, a bare vLLM engine, ray.data.llm, transformers.generate.

Run as:  .venv/bin/python benchmarks/sampling.py MODEL GSM8K/test.jsonl [--questions 48] [--rounds 3] [--ways ours,vllm] [--gpu]

MODEL is a Hugging Face directory (the figures: SmolLM2-135M, fp32; with --gpu, on one GPU and in bf16, the Llama of gpu.py).
Generated tokens a second, end of sequence ignored so that
all generate equally many, from the moment when the engine stands to the last record; each way in turn, in a process of its own.
What a stream costs once (the first tasks that label and write, the end of the pool) weighs less the more questions there are, so
figures are kept by their number: run again with another, they stand beside each other.

ours          questions in Parquet -> sampling, labelling -> records in Parquet; one actor
vllm          vllm.LLM.generate of the same requests (n = k), the same engine settings
vllm by rows  the same with each question k times
ray.data.llm  each question k times, which is how it is asked there, Parquet to Parquet, nothing labelled; the same settings, but
              blocks of vLLM's own size, which on a CPU are as long as a prompt and share none of it; begun, at the latest,
              when the earliest of its requests was asked: when a row came out of the engine less what the engine took
ray.data.llm 32  the same with our blocks of 32
transformers  generate with num_return_sequences = k, in batches of 32 questions
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from figures import HERE, keep, spread, table

K, PROMPT_TOKENS = 6, 256


@dataclass(frozen=True)
class Case:
    model: Path
    data: Path
    questions: int
    gpu: bool

    @property
    def new_tokens(self) -> int:
        return 256 if self.gpu else 64


def settings_of(case: Case) -> Any:
    from aft_ray.config import LabellingConfig, ModelConfig, ResourcesConfig, SamplingConfig
    from aft_ray.sampling.engine import EngineSettings
    from aft_ray.tasks import TASKS

    return EngineSettings(
        model=ModelConfig(path=case.model, precision="bf16" if case.gpu else "fp32"),
        model_fingerprint="m",
        tasks=TASKS,
        sampling=SamplingConfig(k=K, max_prompt_tokens=PROMPT_TOKENS, max_new_tokens=case.new_tokens),
        labelling=LabellingConfig(),
        resources=ResourcesConfig(sampling_actors=(1, 1), gpus_per_sampling_actor=int(case.gpu)),
        seed=0,
    )


def prompts(case: Case) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(case.model)
    rows = [json.loads(line) for line in case.data.read_text().splitlines()]
    found = [tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"] for row in rows]
    return [ids for ids in found if len(ids) <= PROMPT_TOKENS][: case.questions]


def ours(case: Case) -> tuple[int, float]:
    """The stream as a run has it. When the engine stands and when the last chain is done, the actor says."""
    import ray

    from aft_ray.cluster import connect
    from aft_ray.progress import Counter
    from aft_ray.sampling import stream
    from schemas import CandidateGroup, Question, read_parquet, write_parquet

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        questions = [
            Question(question_id=str(i), task="gsm8k", split="train", text="q", gold="1", reference=None, prompt_ids=tuple(ids))
            for i, ids in enumerate(prompts(case))
        ]
        (folder / "questions").mkdir()
        write_parquet(folder / "questions" / "questions.parquet", Question, questions)
        stands = folder / "stands"

        class TimedActor(stream.SamplingActor):
            def __init__(self, settings: Any, attempts: Any, counter: Any) -> None:
                super().__init__(settings, attempts, counter)
                run = self.engine._run

                async def without_end(ids: Any, parameters: Any) -> Any:
                    parameters.ignore_eos = True
                    return await run(ids, parameters)

                self.engine._run = without_end  # type: ignore[method-assign]
                stands.write_text(str(time.time()))

        stream.SamplingActor = TimedActor  # type: ignore[misc]
        connect(folder)
        stream.sample_candidates(folder / "questions", folder / "groups", settings_of(case), Counter.remote())
        ended = time.time()
        found = read_parquet(folder / "groups", CandidateGroup)
        tokens = sum(len(candidate.token_ids) for group in found for candidate in group.candidates)
        ray.shutdown()
        return tokens, ended - float(stands.read_text())


def engine_arguments(settings: Any) -> dict[str, Any]:
    """Those of our engine."""
    from aft_ray.sampling import engine

    engine.prepare_environment(settings.resources)

    taken: dict[str, Any] = {}

    def take(arguments: Any, context: Any, *_: Any) -> None:
        taken.update(arguments=arguments, context=context)

    if settings.resources.gpus_per_sampling_actor:
        from vllm.v1.engine.async_llm import AsyncLLM

        AsyncLLM.from_engine_args = lambda arguments, usage_context: take(arguments, usage_context)
    else:
        engine.InProcessEngine = take  # type: ignore[misc,assignment]
    engine.Engine(settings)
    most = taken["arguments"].create_engine_config(taken["context"]).scheduler_config.max_num_seqs
    return {name: value for name, value in vars(taken["arguments"]).items() if name in ARGUMENTS} | {"max_num_seqs": most}


def bare(case: Case, copies: int = 1) -> tuple[int, float]:
    arguments = engine_arguments(settings_of(case))
    import torch
    import vllm

    from aft_ray.sampling.engine import COMPACT

    llm = vllm.LLM(**arguments)
    assert case.gpu or torch.get_num_threads() == 1, "ours has one thread"
    parameters = [
        vllm.SamplingParams(
            n=K // copies, temperature=1.0, max_tokens=case.new_tokens, logprobs=0, ignore_eos=True, seed=10**6 * i, **COMPACT
        )
        for i in range(case.questions * copies)
    ]
    asked = [{"prompt_token_ids": ids} for ids in prompts(case) for _ in range(copies)]
    started = time.time()
    outputs = llm.generate(asked, parameters, use_tqdm=False)
    return sum(len(sample.token_ids) for output in outputs for sample in output.outputs), time.time() - started


ARGUMENTS = (
    "model", "dtype", "max_model_len", "seed", "load_format", "logprobs_mode", "enforce_eager", "enable_chunked_prefill",
    "max_num_batched_tokens", "block_size", "disable_log_stats",
)  # fmt: skip


def k_rows(case: Case) -> tuple[int, float]:
    return bare(case, copies=K)


def by_ray_data_llm(case: Case, our_blocks: bool = False) -> tuple[int, float]:
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from aft_ray.cluster import connect

    arguments = engine_arguments(settings_of(case))
    del arguments["model"]
    if not our_blocks:
        del arguments["block_size"]
    parameters = {
        "n": 1,
        "temperature": 1.0,
        "max_tokens": case.new_tokens,
        "ignore_eos": True,
        "detokenize": False,
        "logprobs": 0,
    }
    config = vLLMEngineProcessorConfig(
        model_source=str(case.model),
        engine_kwargs=arguments,
        concurrency=(1, 1),
        batch_size=16 * K,
        max_concurrent_batches=16,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        placement_group_config={"bundles": [{"CPU": 1, "GPU": 1} if case.gpu else {"CPU": 1}]},
        log_engine_metrics=False,
        runtime_env={"env_vars": {name: value for name, value in os.environ.items() if name.startswith(("VLLM_", "OMP_"))}},
    )

    def before(row: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": "", "tokenized_prompt": row["ids"], "sampling_params": {**parameters, "seed": row["seed"]}}

    def after(row: dict[str, Any]) -> dict[str, Any]:
        return {"generated": list(row["generated_tokens"]), "asked": time.time() - float(row["time_taken_llm"])}

    with tempfile.TemporaryDirectory() as name:
        connect(Path(name))  # before the processor is built, which else connects to any Ray it finds
        processor = build_processor(config, preprocess=before, postprocess=after)
        rows = [{"ids": list(ids), "seed": seed} for seed, ids in enumerate(i for i in prompts(case) for _ in range(K))]
        pq.write_table(pa.Table.from_pylist(rows), f"{name}/rows.parquet")
        asked = ray.data.read_parquet(f"{name}/rows.parquet").repartition(target_num_rows_per_block=16 * K)
        processor(asked).write_parquet(f"{name}/chains")
        ended = time.time()
        found = pq.read_table(f"{name}/chains").to_pylist()
        ray.shutdown()
    return sum(len(row["generated"]) for row in found), ended - min(row["asked"] for row in found)


def by_transformers(case: Case) -> tuple[int, float]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert not case.gpu, "on a CPU only"
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(case.model)
    loaded = AutoModelForCausalLM.from_pretrained(case.model, dtype=torch.float32)
    asked, tokens = prompts(case), 0
    started = time.time()
    for first in range(0, case.questions, 32):
        batch = tokenizer.pad({"input_ids": asked[first : first + 32]}, padding_side="left", return_tensors="pt")
        made = loaded.generate(
            **batch,
            do_sample=True,
            top_k=0,
            num_return_sequences=K,
            min_new_tokens=case.new_tokens,
            max_new_tokens=case.new_tokens,
        )
        tokens += made[:, batch["input_ids"].shape[1] :].numel()
    return tokens, time.time() - started


WAYS = {
    "ours": ours,
    "vllm": bare,
    "vllm by rows": k_rows,
    "ray.data.llm": by_ray_data_llm,
    "ray.data.llm 32": partial(by_ray_data_llm, our_blocks=True),
    "transformers": by_transformers,
}


def measure(way: str, case: Case) -> float:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch comes, as an actor of ours has it
    tokens, seconds = WAYS[way](case)
    assert tokens == case.questions * K * case.new_tokens, f"{way} gave {tokens} tokens"
    return tokens / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--questions", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--gpu", action="store_true", help="on one GPU, in bf16; not transformers")
    given = parser.parse_args()
    case = Case(given.model.absolute(), given.data.absolute(), given.questions, given.gpu)
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[float]] = {way: [] for way in given.ways.split(",")}
    for number in range(given.rounds):
        for way in found:
            with ProcessPoolExecutor(1, context) as process:
                found[way].append(process.submit(measure, way, case).result())
            print(number, way, round(found[way][-1], 1), flush=True)
        report("sampling_gpu" if case.gpu else "sampling", case.questions, found)


def report(name: str, questions: int, found: dict[str, list[float]]) -> None:
    """Beside the figures for other numbers of questions."""
    path = HERE / "results" / f"{name}.json"
    figures = json.loads(path.read_text())["figures"] if path.exists() else {}
    figures[str(questions)] = found
    lines = []
    for number, speeds_of in sorted(figures.items(), key=lambda item: int(item[0])):
        for way, speeds in speeds_of.items():
            ratios = [mine / theirs for mine, theirs in zip(speeds_of["ours"], speeds, strict=True)]
            lines.append([number, way, spread(speeds, 0), "" if way == "ours" else f"{spread(ratios)} x"])
    keep(name, figures, table(["questions", "way", "tokens / s", "ours / it"], lines))


if __name__ == "__main__":
    main()
