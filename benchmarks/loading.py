"""Loading and exporting a model on two ranks under ZeRO-3: what each rank holds at most, against transformers' own way.

Run as:  .venv/bin/python benchmarks/loading.py [--layers 16] [--rounds 3]

A Llama of random weights, stored in fp32; 16 layers have 1.24 B parameters, the shape of Llama-3.2-1B. Each way in turn, two
processes over gloo. Memory is what a process holds for itself (resident, without mapped files) and with them, beyond what it held
before, of the model's size in fp32. Exported: the model written out again by ours, then loaded by transformers alone and compared
with the one that it came from.
"""

import argparse
import multiprocessing
import os
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from figures import keep, table

RANKS, LAYERS_OF_1B = 2, 16
WAYS = ("ours", "transformers")


def make_model(path: Path, layers: int) -> int:
    """Writes it; its parameters."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tiny = Path(__file__).parent.parent / "jobs" / "tiny_llama"
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8}
    model = LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=layers, vocab_size=128_256, tie_word_embeddings=True))
    model.save_pretrained(path, max_shard_size="2GB")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(path)
    return sum(parameter.numel() for parameter in model.parameters())


class Most:
    """The most that this process holds while the block runs, beyond what it held before, in bytes: its own, and with files."""

    def __enter__(self) -> "Most":
        self.before, self.own, self.with_files, self.ended = held(), 0, 0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while True:
            own, with_files = (now - before for now, before in zip(held(), self.before, strict=True))
            self.own, self.with_files = max(self.own, own), max(self.with_files, with_files)
            if self.ended.wait(0.01):
                return

    def __exit__(self, *given: Any) -> None:
        self.ended.set()
        self.thread.join()


def held() -> tuple[int, int]:
    """Resident bytes: without files, and with them."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    own, files = (sum(int(lines[name].split()[0]) * 1024 for name in names) for names in (("RssAnon", "RssShmem"), ("RssFile",)))
    return own, own + files


def rank(number: int, port: int, way: str, path: Path, out: Path, told: Any) -> None:
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(RANKS), "DS_ACCELERATOR": "cpu"}
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=number, world_size=RANKS)
    from aft_ray.config import ModelConfig, ResourcesConfig, TrainingConfig
    from aft_ray.training.engine import deepspeed_config, prepare_environment
    from aft_ray.training.export import export
    from aft_ray.training.job import TrainingJob
    from aft_ray.training.loading import load_converted, load_divided

    resources = ResourcesConfig(training_workers=RANKS, zero_stage=3)
    job = TrainingJob(ModelConfig(path=path, precision="fp32"), TrainingConfig(), resources, 0, {}, path, out, None)
    prepare_environment(resources)
    load = {"ours": load_divided, "transformers": load_converted}[way]
    started = time.perf_counter()
    with Most() as loading:
        model = load(path, torch.float32, deepspeed_config(job))
        torch.distributed.barrier()
    seconds = time.perf_counter() - started
    found: dict[str, float] = {"seconds": seconds, "load": loading.own, "load_with_files": loading.with_files}
    if way == "ours":
        with Most() as exporting:
            export(SimpleNamespace(module=SimpleNamespace(model=model)), job, torch.float32)
            torch.distributed.barrier()
        found |= {"export": exporting.own, "export_with_files": exporting.with_files}
    told.put((number, found))
    torch.distributed.barrier()


def same_logits(one: Path, other: Path) -> bool:
    import torch
    from transformers import AutoModelForCausalLM

    logits = []
    for path in (one, other):
        with torch.no_grad():
            logits.append(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(torch.arange(64)[None]).logits)
    return bool((logits[0] == logits[1]).all())


def measure(way: str, path: Path, out: Path) -> dict[str, Any]:
    from aft_ray.training.engine import ALLOCATORS

    os.environ |= ALLOCATORS  # as training workers have it
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = context.Queue()
    ranks = [context.Process(target=rank, args=(number, port, way, path, out, told)) for number in range(RANKS)]
    for process in ranks:
        process.start()
    found = dict(told.get(timeout=900) for _ in ranks)
    for process in ranks:
        process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=LAYERS_OF_1B, help=f"{LAYERS_OF_1B}: 1.24 B parameters")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path, out = Path(name) / "model", Path(name) / "out"
        with multiprocessing.get_context("spawn").Pool(1) as process:
            parameters = process.apply(make_model, (path, given.layers))
        rounds = [{way: measure(way, path, out) for way in WAYS} for _ in range(given.rounds)]
        with multiprocessing.get_context("spawn").Pool(1) as process:
            same = process.apply(same_logits, (path, out / "model"))
    size, lines = 4 * parameters, []
    for way, what in (("ours", "load"), ("ours", "export"), ("transformers", "load")):
        for number in range(RANKS):
            cells = [
                f"{statistics.median(result[way][number][f'{what}{files}'] for result in rounds) / size:.2f} x"
                for files in ("", "_with_files")
            ]
            lines.append([f"{way}: {what}", str(number), *cells])
    told = table(["what", "rank", "held at most, of the model in fp32", "with files"], lines)
    keep("loading", {"parameters": parameters, "rounds": rounds, "exported_logits_equal": same}, told)
    print("exported logits equal:", same)


if __name__ == "__main__":
    main()
