"""The log-likelihood head against whole logits and TRL's chunked head: peak memory and time, forward and backward.

Run as:  .venv/bin/python benchmarks/head.py [--rounds 3] [--tokens 2048]

Vocabulary and hidden size of SmolLM2-135M and of Llama-3.2-1B, fp32. Each way in turn, in a process of its own, which runs once
to warm up and then some times; memory is the peak of the resident set beyond what stood before (weights, a gradient of each,
hidden states), with a second gradient of the weights, which every way makes. Two settings of ours: as it comes, which keeps some
logits, and keeping none.
"""

import argparse
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from figures import keep, spread, table

SHAPES = {"SmolLM2-135M": (49_152, 576), "Llama-3.2-1B": (128_256, 2048)}
TIMES = {"SmolLM2-135M": 5, "Llama-3.2-1B": 1}
"""After the warm-up; a pass of the larger one takes half a minute."""
WAYS = ("ours", "ours, none kept", "whole logits", "TRL's chunks")
THREADS = 2


def work_of(way: str, weight: torch.nn.Parameter, targets: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    from aft_ray.training import head

    if way.startswith("ours"):
        output = torch.nn.Linear(*reversed(weight.shape), bias=False, device="meta")
        output.weight = weight
        layer = head.LogLikelihoodHead(output)
        if way != "ours":
            head.LOGITS_KEPT["cpu"] = 0
        return lambda hidden: layer(hidden, targets)
    if way == "whole logits":

        def whole(hidden: torch.Tensor) -> torch.Tensor:
            logits = torch.nn.functional.linear(hidden, weight)
            return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)

        return whole
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as CHUNK

    return lambda hidden: ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, CHUNK, None, 1.0, ())[0]


def measure(way: str, shape: tuple[int, int], tokens: int, times: int) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    weight = torch.nn.Parameter(torch.randn(shape) * 0.02)
    hidden = torch.randn(tokens, shape[1], requires_grad=True)
    targets, gradient = torch.randint(0, shape[0], (tokens,)), torch.rand(tokens)
    weight.grad, hidden.grad = torch.zeros_like(weight), torch.zeros_like(hidden)
    work, process = work_of(way, weight, targets), psutil.Process()
    before, highest, done = process.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            highest[0] = max(highest[0], process.memory_info().rss)

    threading.Thread(target=watch, daemon=True).start()
    seconds = []
    for _ in range(1 + times):
        started = time.perf_counter()
        work(hidden).backward(gradient)
        seconds.append(time.perf_counter() - started)
    done.set()
    return {
        "seconds": statistics.median(seconds[1:]),
        "peak_gb": (highest[0] - before) / 1e9,
        "check": hidden.grad.double().norm().item() / (1 + times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=2048)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    lines, figures = [], []
    for model, shape in SHAPES.items():
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            for way in WAYS:
                with context.Pool(1) as process:
                    found[way].append(process.apply(measure, (way, shape, given.tokens, TIMES[model])))
        whole = found["whole logits"]
        for way, results in found.items():
            assert abs(results[0]["check"] / whole[0]["check"] - 1) < 1e-4, f"{way} gives another gradient"
            ratio = [mine["seconds"] / theirs["seconds"] for mine, theirs in zip(results, whole, strict=True)]
            most, of_whole = (statistics.median(result["peak_gb"] for result in of) for of in (results, whole))
            lines.append([model, f"{shape[0]:,}", way, f"{most:.2f}", f"{most / of_whole:.2f} x", f"{spread(ratio)} x"])
            print(lines[-1], flush=True)
            figures.append({"model": model, "vocabulary": shape[0], "way": way, "time_ratio": ratio, "results": results})
    heading = [
        "head of",
        "vocabulary",
        "way",
        f"peak memory for {given.tokens} tokens, GB",
        "of whole logits",
        "time / whole logits",
    ]
    keep("head", figures, table(heading, lines))


if __name__ == "__main__":
    main()
