"""On a GPU: training a Llama of 1.24 B parameters in bf16, its head, and the memory that the plan says.

Run as:  .venv/bin/python benchmarks/gpu.py TOKENIZER GSM8K/train.jsonl [--rounds 3] [--profile FILE]

The model has random weights and the shape of Llama-3.2-1B (vocabulary 128,256). Groups as in training.py, of questions with k
chains; a step is one optimizer step on as many questions as have about 65,000 tokens. Every way in turn in one process, after two
steps that warm up and compile. Ratios are within a round; memory is PyTorch's peak.

ours    a run's own step: packs of several questions under FlexAttention, log-likelihood head, BC, DeepSpeed, whose optimizer
        keeps weights and moments in fp32; passes of at most 16,384 tokens
padded  every chain a row behind its prompt, padded to the longest, SDPA, whole logits; at most 8,192 tokens a pass; torch's
        AdamW on bf16 alone, which is less work than ours does
vft, padded vft   both on questions with their references

Utilisation as in training.py: the FLOPs that the questions need, over those of a bf16 matrix product of 8192 x 8192,
measured here.
"""

import argparse
import contextlib
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from figures import keep, spread, table
from head import SHAPES
from training import BETA, flops, groups, role_of, tokenized

from aft_ray.training.engine import ALLOCATORS

QUESTIONS = {6: 72, 16: 28, 1: 320}
"""A step's, by k."""
STEPS, WARM_UP = 3, 2
BUDGET, PADDED_BUDGET = 16_384, 8_192
GPU = torch.device("cuda")


def make_model(path: Path, tokenizer: Path) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8}
    config = LlamaConfig(**shape, num_hidden_layers=16, vocab_size=128_256, tie_word_embeddings=True, dtype=torch.bfloat16)
    with GPU:
        model = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(path)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(path)


def job_of(path: Path, k: int) -> Any:
    from aft_ray.config import AlignmentConfig, ModelConfig, ResourcesConfig, TrainingConfig
    from aft_ray.training.job import TrainingJob

    settings: dict[str, Any] = {"learning_rate": 1e-6, "tokens_per_micro_batch": BUDGET}
    training = TrainingConfig(**settings) if k == 1 else AlignmentConfig(loss="bc", beta=BETA, **settings)
    resources = ResourcesConfig(training_workers=0, zero_stage=1, gpus_per_training_worker=1)
    return TrainingJob(ModelConfig(path=path, precision="bf16"), training, resources, 0, {}, path, path, None)


def ours(path: Path, k: int, first: Any) -> Callable[[Any], Any]:
    """The step of a run."""
    from aft_ray.training.engine import prepare_environment, start_engine
    from aft_ray.training.layout import choose_layout
    from aft_ray.training.worker import global_loss, train_step

    job = job_of(path, k)
    prepare_environment(job.resources)
    engine, loss = start_engine(job, 10), global_loss(job.training)
    assert choose_layout(engine, first, job.training.max_tokens) == "pack"
    return lambda batch: train_step(engine, loss, batch, job, "pack")


def examples_of(path: Path, batch: list[dict[str, Any]]) -> list[Any]:
    from aft_ray.training.batches import Chain, Example

    return [
        Example(str(number), prompt, tuple(Chain(c, role_of(i, len(chains))) for i, c in enumerate(chains)))
        for number, (prompt, chains) in enumerate(tokenized(path, batch))
    ]


def padded(path: Path) -> Callable[[Any], Any]:
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModelForCausalLM

    from aft_ray.training.division import share_out
    from aft_ray.training.passes import joined

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, attn_implementation="sdpa").to(GPU).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step(batch: list[Any]) -> None:
        covered = sum(len(example.chains[0].token_ids) for example in batch)
        (share,) = share_out(batch, 1, PADDED_BUDGET, "plain")
        for examples in share.micro_batches + [[joined(parts)] for parts in share.split]:
            rows = [(example.prompt_ids, chain.token_ids) for example in examples for chain in example.chains]
            ids = pad_sequence([torch.tensor([*prompt, *chain]) for prompt, chain in rows], batch_first=True).to(GPU)
            place = torch.arange(ids.shape[1], device=GPU)
            start, length = (
                torch.tensor(list(sizes), device=GPU) for sizes in zip(*[(len(p), len(c)) for p, c in rows], strict=True)
            )
            real = place < (start + length)[:, None]
            of_chain = (real & (place >= start[:, None]))[:, 1:]
            logits = model(input_ids=ids, attention_mask=real.long(), use_cache=False).logits[:, :-1]
            log_likelihood = logits.float().log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2) * of_chain
            if len(batch[0].chains) == 1:
                (-log_likelihood.sum() / covered).backward()
                continue
            total = log_likelihood.new_zeros(())
            for scores in (log_likelihood.sum(1) / length).split([len(example.chains) for example in examples]):
                positive, negative = scores[: len(scores) // 2], scores[len(scores) // 2 :]
                boundary = positive.min().detach() - BETA
                terms = negative[:, None] - positive, 2 * boundary - positive.detach() - negative[:, None]
                value = torch.stack(terms).flatten()
                total = total + torch.cat([value.new_zeros(1), value]).logsumexp(0) / len(batch)
            total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def matmul_rate() -> float:
    """FLOPs a second of bf16, the median of some."""
    left, right = (torch.randn(8192, 8192, device=GPU, dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / statistics.median(seconds_of(lambda: left @ right) for _ in range(12))


def seconds_of(work: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def forget() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def train(way: str, path: Path, steps: list[Any], k: int, profile: Path | None) -> dict[str, float]:
    batches = [examples_of(path, batch) for batch in steps]
    forget()
    step = ours(path, k, batches[0][0]) if way == "ours" else padded(path)
    warm = [seconds_of(lambda batch=batch: step(batch)) for batch in batches[:WARM_UP]]
    between = torch.cuda.memory_allocated() / 1e9
    seconds = [seconds_of(lambda batch=batch: step(batch)) for batch in batches[WARM_UP:]]
    needed = sum(flops(path, batch) for batch in steps[WARM_UP:])
    free, total = torch.cuda.mem_get_info()
    found = {
        "questions_per_second": QUESTIONS[k] * STEPS / sum(seconds),
        "utilisation": needed / sum(seconds) / matmul_rate(),
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
        "context_gb": (total - free - torch.cuda.memory_reserved()) / 1e9,
        "between_steps_gb": between,
        "first_step_seconds": warm[0],
    }
    if way == "ours":
        if profile is not None:
            write_profile(profile.with_suffix(f".{k}.txt"), lambda: step(batches[-1]))
        import deepspeed

        deepspeed.comm.destroy_process_group()
    return found


def planned(path: Path, k: int, steps: list[Any]) -> float:
    """GB, without what a process itself takes on a GPU, which PyTorch does not count."""
    from aft_ray.planning.memory import training_memory
    from aft_ray.planning.shape import ModelShape

    longest = max((example for batch in steps for example in examples_of(path, batch)), key=lambda example: example.length)
    job = job_of(path, k)
    memory = training_memory(ModelShape(path), job.training, job.resources, "bf16", longest)
    return (memory.device - memory.process) / 1e9


def write_profile(path: Path, work: Callable[[], Any]) -> None:
    with torch.profiler.profile() as profile:
        print("profiled step:", seconds_of(work))
    path.write_text(
        profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=80)
        + profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=80)
    )


def head(way: str, shape: tuple[int, int], tokens: int) -> dict[str, float]:
    """Seconds and peak memory of a forward and backward, bf16."""
    from aft_ray.training.head import LogLikelihoodHead

    forget()
    output = torch.nn.Linear(shape[1], shape[0], bias=False, device=GPU, dtype=torch.bfloat16)
    hidden = torch.randn(tokens, shape[1], device=GPU, dtype=torch.bfloat16, requires_grad=True)
    targets, gradient = torch.randint(0, shape[0], (tokens,), device=GPU), torch.rand(tokens, device=GPU)
    ours = LogLikelihoodHead(output)

    def work() -> None:
        output.weight.grad = hidden.grad = None
        if way == "ours":
            ours(hidden, targets).backward(gradient)
        else:
            logits = output(hidden).float()
            (logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)).backward(gradient)

    before = torch.cuda.memory_allocated()
    seconds = [seconds_of(work) for _ in range(12)][2:]
    return {"seconds": statistics.median(seconds), "peak_gb": (torch.cuda.max_memory_allocated() - before) / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ks", default="6,16,1")
    parser.add_argument("--profile", type=Path)
    given = parser.parse_args()
    os.environ |= ALLOCATORS
    cells = [(way, int(k)) for k in given.ks.split(",") for way in ("ours", "padded")]
    found: dict[tuple[str, int], list[dict[str, float]]] = {cell: [] for cell in cells}
    heads: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        make_model(path, given.tokenizer)
        steps = {k: groups(given.data, k, STEPS + WARM_UP, QUESTIONS[k]) for _, k in cells}
        # Traces the model, before Liger's kernels take the place of its functions.
        plans = {k: planned(path, k, steps[k]) for k in steps}
        for number in range(given.rounds):
            for way, k in cells:
                result = train(way, path, steps[k], k, given.profile if number == 0 else None)
                found[way, k].append(result)
                print(number, way, k, json.dumps({key: round(value, 3) for key, value in result.items()}), flush=True)
            for model, shape in SHAPES.items():
                for way in ("ours", "whole logits"):
                    heads.setdefault((model, way), []).append(head(way, shape, 8192))
                    print(number, model, way, heads[model, way][-1], flush=True)
            with contextlib.suppress(FileNotFoundError):  # no README where only this file was taken along
                report(found, heads, plans)


def report(
    found: dict[tuple[str, int], list[dict[str, float]]],
    heads: dict[tuple[str, str], list[dict[str, float]]],
    plans: dict[int, float],
) -> None:
    lines, figures = [], []
    for (way, k), results in found.items():
        ratio = [b["questions_per_second"] / r["questions_per_second"] for b, r in zip(found["ours", k], results, strict=True)]
        speed, used = ([result[name] for result in results] for name in ("questions_per_second", "utilisation"))
        memory, plan = statistics.median(result["peak_gb"] for result in results), plans[k] if way == "ours" else None
        told = "" if way == "ours" else f"{spread(ratio)} x"
        share = f"{100 * statistics.median(used):.0f} %"
        lines.append([str(k), way, spread(speed, 1), told, share, f"{memory:.1f}", f"{plan:.1f}" if plan else ""])
        figures.append({"k": k, "way": way, "results": results, "ours_faster_by": statistics.median(ratio), "planned_gb": plan})
    of_training = table(["k", "way", "questions / s", "ours / it", "utilisation", "peak, GB", "planned, GB"], lines)
    lines = []
    for (model, way), results in heads.items():
        whole = heads[model, "whole logits"]
        ratio = [mine["seconds"] / theirs["seconds"] for mine, theirs in zip(results, whole, strict=True)]
        most, of_whole = (statistics.median(result["peak_gb"] for result in of) for of in (results, whole))
        lines.append([model, way, f"{most:.2f}", f"{most / of_whole:.2f} x", f"{spread(ratio)} x"])
        figures.append({"head": model, "way": way, "results": results})
    of_heads = table(["head of", "way", "peak memory for 8192 tokens, GB", "of whole logits", "time / whole logits"], lines)
    keep("gpu", figures, f"{of_training}\n\n{of_heads}")


if __name__ == "__main__":
    main()
