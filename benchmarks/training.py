"""Training on GSM8K groups: ours, padded rows with whole logits, TRL's DPOTrainer and SFTTrainer, on the same text.

Run as:  .venv/bin/python benchmarks/training.py MODEL GSM8K/train.jsonl [--rounds 3] [--ks 6,16,64]

MODEL is a Hugging Face directory (the figures: SmolLM2-135M, fp32). A group is a question with k chains: its reference and those
of other questions, half positive, half negative; what is measured depends on lengths alone. A step is one optimizer step over
some questions; every way in turn, in a process of its own with 2 threads, which warms up by a step. Ratios are within a round.

ours    a run's own step, in the environment of its workers: shared prompts, log-likelihood head, BC, DeepSpeed; in passes of at
        most 2,048 tokens (k = 16: 4,096, so that a question fits into one); for k = 8 and 64, whose memory is compared, of 1,024
padded  every chain a row behind its prompt, padded to the longest, whole logits, k rows at once: what RRHF's code does
dpo     TRL's DPOTrainer: k / 2 pairs a question, no chain twice, reference log-likelihoods beforehand (not timed)
        both of TRL's with a step's rows in order of length, 3 or 4 at once: faster here than TRL's own 8
vft     ours on questions with their references
sft     TRL's SFTTrainer on the same: loss on the completion alone

Utilisation is what the questions need, of what the machine can do: 6 FLOPs a weight and token, with the head's weights at the
tokens of chains alone and each prompt once, and 12 for attention, a layer, token, place that it sees and dimension; over the
seconds, over the rate of a matrix product of 2048 x 2048 in fp32, measured in the same process before and after.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from figures import keep, spread, table

from aft_ray.training.engine import ALLOCATORS

QUESTIONS = {6: 2, 16: 1, 64: 1, 8: 1, 1: 32}
"""A step's, by k."""
STEPS = {6: 2, 16: 2, 64: 1, 8: 1, 1: 1}
"""After the one that warms up, by k."""
THREADS, BETA = 2, 0.2
BUDGETS = {6: 2048, 16: 4096, 64: 1024, 8: 1024, 1: 2048}


def load(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def groups(data: Path, k: int, steps: int, questions: int) -> list[list[dict[str, Any]]]:
    """By step: questions with k chains each, as text."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    draw = random.Random(k)

    def group(row: dict[str, str]) -> dict[str, Any]:
        chains = [row["answer"], *(other["answer"] for other in draw.sample(rows, k - 1))]
        return {"prompt": f"Question: {row['question']}\nAnswer:", "chains": [f" {chain}" for chain in chains]}

    chosen = iter(draw.sample(rows, steps * questions))
    return [[group(next(chosen)) for _ in range(questions)] for _ in range(steps)]


@cache
def tokenizer_of(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def tokenized(path: Path, batch: list[dict[str, Any]]) -> list[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    tokenizer = tokenizer_of(path)
    end = (tokenizer.eos_token_id,)
    return [
        (tuple(tokenizer(g["prompt"])["input_ids"]), [(*tokenizer(c)["input_ids"], *end) for c in g["chains"]]) for g in batch
    ]


def ours(path: Path, steps: list[list[dict[str, Any]]]) -> list[float]:
    """The engine and the step of a run, in this process."""
    from aft_ray.config import AlignmentConfig, ModelConfig, ResourcesConfig, TrainingConfig
    from aft_ray.training.batches import Chain, Example
    from aft_ray.training.engine import prepare_environment, start_engine
    from aft_ray.training.job import TrainingJob
    from aft_ray.training.layout import choose_layout
    from aft_ray.training.worker import global_loss, train_step

    vft = len(steps[0][0]["chains"]) == 1
    settings = {"learning_rate": 1e-6, "tokens_per_micro_batch": BUDGETS[len(steps[0][0]["chains"])]}
    training = TrainingConfig(**settings) if vft else AlignmentConfig(loss="bc", beta=BETA, **settings)
    resources = ResourcesConfig(training_workers=0, zero_stage=0, cpus_per_training_worker=THREADS)
    model = ModelConfig(path=path, precision="fp32")
    job = TrainingJob(model, training, resources, 0, {}, path, path, None)
    prepare_environment(resources)
    engine, loss = start_engine(job, len(steps)), global_loss(training)
    batches = [
        [
            Example(str(number), prompt, tuple(Chain(c, role_of(i, len(chains))) for i, c in enumerate(chains)))
            for number, (prompt, chains) in enumerate(tokenized(path, batch))
        ]
        for batch in steps
    ]
    layout = choose_layout(engine, batches[0][0], training.max_tokens)
    assert layout == "flat"
    return timed(lambda batch: train_step(engine, loss, batch, job, layout), batches)


def role_of(index: int, k: int) -> Any:
    return "reference" if k == 1 else "positive" if index < k // 2 else "negative"


def padded(path: Path, steps: list[list[dict[str, Any]]]) -> list[float]:
    from torch.nn.utils.rnn import pad_sequence

    model = load(path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step(batch: list[Any]) -> None:
        for prompt, chains in batch:
            ids = pad_sequence([torch.tensor([*prompt, *chain]) for chain in chains], batch_first=True)
            lengths = torch.tensor([len(prompt) + len(chain) for chain in chains])
            place = torch.arange(ids.shape[1])
            real = (place < lengths[:, None]).long()
            of_chain = ((place >= len(prompt)) & (place < lengths[:, None]))[:, 1:]
            log_likelihood = model(input_ids=ids, attention_mask=real, use_cache=False).logits[:, :-1].log_softmax(-1)
            scores = (log_likelihood.gather(2, ids[:, 1:, None]).squeeze(2) * of_chain).sum(1) / of_chain.sum(1)
            half = len(chains) // 2
            positive, negative = scores[:half], scores[half:]
            boundary = positive.min().detach() - BETA
            terms = negative[:, None] - positive, 2 * boundary - positive.detach() - negative[:, None]
            value = torch.stack(terms).flatten()
            (torch.cat([value.new_zeros(1), value]).logsumexp(0) / len(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return timed(step, [tokenized(path, batch) for batch in steps])


def dpo(path: Path, steps: list[list[dict[str, Any]]]) -> list[float]:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = []
    for batch in steps:
        pairs = []
        for group in batch:
            half = len(group["chains"]) // 2
            for chosen, rejected in zip(group["chains"][:half], group["chains"][half:], strict=True):
                pairs.append({"prompt": group["prompt"], "chosen": chosen, "rejected": rejected})
        rows += sorted(pairs, key=length)
    return by_trl(path, DPOTrainer, DPOConfig, Dataset.from_list(rows), len(rows) // len(steps), precompute_ref_log_probs=True)


def sft(path: Path, steps: list[list[dict[str, Any]]]) -> list[float]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": g["prompt"], "completion": g["chains"][0]} for batch in steps for g in sorted(batch, key=length)]
    return by_trl(path, SFTTrainer, SFTConfig, Dataset.from_list(rows), len(rows) // len(steps), completion_only_loss=True)


def length(row: dict[str, Any]) -> int:
    """Characters of its longest text: a step's rows in this order are padded least."""
    texts = row["chains"] if "chains" in row else (row["chosen"], row["rejected"])
    return len(row["prompt"]) + max(map(len, texts))


def by_trl(path: Path, trainer: Any, config: Any, rows: Any, rows_a_step: int, **more: Any) -> list[float]:
    from transformers import AutoTokenizer, TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *given: Any, **named: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *given: Any, **named: Any) -> None:
            self.seconds.append(time.perf_counter() - self.started)

    clock = Clock()
    at_once = max(size for size in range(1, 5) if rows_a_step % size == 0)
    with tempfile.TemporaryDirectory() as folder:
        settings = config(
            folder,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=rows_a_step // at_once,
            learning_rate=1e-6,
            num_train_epochs=1,
            max_length=None,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1000,
            train_sampling_strategy="sequential",
            disable_tqdm=True,
            **more,
        )
        trainer(
            load(path), args=settings, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(path), callbacks=[clock]
        ).train()
    return clock.seconds[1:]


def timed(step: Callable[[Any], Any], steps: Sequence[Any]) -> list[float]:
    seconds = []
    for batch in steps:
        started = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


@cache
def sizes_of(path: Path) -> tuple[Any, int, int]:
    """A model's config, and the weights of its body and of its head."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings().weight.numel()
    body = sum(p.numel() for p in model.parameters()) - head * (1 if config.tie_word_embeddings else 2)
    return config, body, head


def flops(path: Path, batch: list[dict[str, Any]]) -> float:
    """That a step on these questions needs."""
    config, body, head = sizes_of(path)
    needed = 0.0
    for prompt, chains in tokenized(path, batch):
        seen = len(prompt) * (len(prompt) + 1) / 2 + sum(len(c) * (len(prompt) + (len(c) + 1) / 2) for c in chains)
        of_chains = sum(map(len, chains))
        needed += 6 * (body * (len(prompt) + of_chains) + head * of_chains)
        needed += 12 * config.num_hidden_layers * config.hidden_size * seen
    return needed


def matmul_rate() -> float:
    """FLOPs a second, the best of some."""
    torch.set_num_threads(THREADS)
    left, right, best = torch.randn(2048, 2048), torch.randn(2048, 2048), 0.0
    for _ in range(6):
        started = time.perf_counter()
        left @ right
        best = max(best, 2 * 2048**3 / (time.perf_counter() - started))
    return best


WAYS = {"ours": ours, "padded": padded, "dpo": dpo, "vft": ours, "sft": sft}


def measure(way: str, path: Path, data: Path, k: int) -> dict[str, float]:
    """In a process of its own: questions a second over the steps after the first, peak memory beside the bare model's, GB."""
    rate = matmul_rate()
    load(path)
    before, steps = peak(), groups(data, k, STEPS[k] + 1, QUESTIONS[k])
    seconds = WAYS[way](path, steps)
    most = peak()
    rate = (rate + matmul_rate()) / 2
    needed = sum(flops(path, batch) for batch in steps[1:])
    return {
        "questions_per_second": QUESTIONS[k] * len(seconds) / sum(seconds),
        "utilisation": needed / sum(seconds) / rate,
        "peak_gb": most,
        "model_gb": before,
    }


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def report(found: dict[tuple[str, int], list[dict[str, float]]]) -> None:
    lines, figures = [], []
    for (way, k), results in found.items():
        base = found["vft" if k == 1 else "ours", k]
        speed = [result["questions_per_second"] for result in results]
        ratio = [b["questions_per_second"] / r["questions_per_second"] for b, r in zip(base, results, strict=True)]
        memory = statistics.median(result["peak_gb"] for result in results)
        used = f"{100 * statistics.median(result['utilisation'] for result in results):.0f} %"
        told = "" if way in ("ours", "vft") else spread(ratio) + " x"
        lines.append([str(k), way, spread(speed, 3), told, used, f"{memory:.2f}"])
        figures.append({"k": k, "way": way, "results": results, "ours_faster_by": statistics.median(ratio)})
    if ("ours", 64) in found:
        most = [statistics.median(r["peak_gb"] for r in found["ours", k]) for k in (64, 8)]
        lines.append(["", "ours, k = 64 over k = 8", "", "", "", f"{most[0] / most[1]:.2f} x"])
    keep("training", figures, table(["k", "way", "questions / s", "ours / it", "utilisation", "peak memory, GB"], lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ks", default="6,16,64")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ks = [int(k) for k in given.ks.split(",")]
    # Padded rows of 64 chains do not fit into 24 GB with their logits; what ours needs for k = 64 is compared with its k = 8.
    cells = [(way, k) for k in ks if k <= 16 for way in ("ours", "padded", "dpo")]
    cells += [("ours", k) for k in (8, *ks) if k == 8 or k > 16] + [("vft", 1), ("sft", 1)]
    found: dict[tuple[str, int], list[dict[str, float]]] = {cell: [] for cell in cells}
    for number in range(given.rounds):
        for way, k in cells:
            os.environ |= ALLOCATORS if way in ("ours", "vft") else {}
            with context.Pool(1) as process:
                result = process.apply(measure, (way, given.model, given.data, k))
            for name in ALLOCATORS:
                os.environ.pop(name, None)
            found[way, k].append(result)
            print(number, way, k, {name: round(value, 3) for name, value in result.items()}, flush=True)
        report(found)


if __name__ == "__main__":
    main()
