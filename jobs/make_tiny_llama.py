"""Make the base model that the quickstart starts from: a Llama of 2.75 M parameters, trained on equations and short texts.

Run as:  .venv/bin/python jobs/make_tiny_llama.py OUT_DIRECTORY     (about 35 minutes on 2 cores; not needed to use the project)

It knows what a pretrained model knows, in small: how a sum goes on, and what short stories say. It has never seen a
question, nor a chain of thought that answers one.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from aft_ray.tasks import arithmetic

SEED = 0
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
SEQUENCE_LENGTH = 128


def equation(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.35:
        a, b = rng.randint(1, 199), rng.randint(1, 99)
        return f"{a} + {b} = {a + b}."
    if kind < 0.7:
        a, b = rng.randint(1, 199), rng.randint(1, 99)
        a, b = max(a, b), min(a, b)
        return f"{a} - {b} = {a - b}."
    if kind < 0.85:
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        return f"{a} * {b} = {a * b}."
    a, b, c = rng.randint(10, 99), rng.randint(2, 40), rng.randint(2, 40)
    signs = rng.choice(((1, 1), (1, -1), (-1, 1)))
    if a + signs[0] * b + signs[1] * c < 0:
        return equation(rng)
    return f"{a} {'+' if signs[0] > 0 else '-'} {b} {'+' if signs[1] > 0 else '-'} {c} = {a + signs[0] * b + signs[1] * c}."


def equations(rng: random.Random) -> str:
    return " ".join(equation(rng) for _ in range(rng.randint(2, 6)))


def story(rng: random.Random) -> str:
    """A story as the task tells it, without its question: what happens, never how many there are at the end."""
    start, events = arithmetic.draw_problem(rng, rng.randint(0, 3))
    return arithmetic.tell(start, events, rng).rpartition(" How many")[0]


def counted_story(rng: random.Random) -> str:
    """One thing happens, and it is counted."""
    start, (event,) = arithmetic.draw_problem(rng, 0)
    told = arithmetic.tell(start, [event], rng).rpartition(" How many")[0]
    product = f" {event.count} * {event.size} = {event.amount}." if event.count > 1 else ""
    sign = "+" if event.sign > 0 else "-"
    return f"{told}{product} {start} {sign} {event.amount} = {start + event.sign * event.amount}."


def document(rng: random.Random) -> str:
    return rng.choices((equations, story, counted_story), (6, 2, 2))[0](rng)


def make_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    """Byte-level BPE, digits one by one; it takes any text, and knows the words of the task as single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [story(rng) + " Question: How many are there now?\nAnswer: The answer is" for _ in range(5000)]
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=768,
            special_tokens=list(SPECIAL.values()),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    bos = SPECIAL["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **SPECIAL)


def batches(tokenizer: PreTrainedTokenizerFast, rng: random.Random, rows: int) -> Iterator[torch.Tensor]:
    """Documents one behind the other, cut into rows: int64 [rows, SEQUENCE_LENGTH + 1]."""
    stream: list[int] = []
    need = rows * (SEQUENCE_LENGTH + 1)
    while True:
        while len(stream) < need:
            for ids in tokenizer([document(rng) for _ in range(256)])["input_ids"]:
                stream += [*ids, tokenizer.eos_token_id]
        yield torch.tensor(stream[:need]).view(rows, SEQUENCE_LENGTH + 1)
        stream = stream[need:]


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, rows: int, peak: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01, betas=(0.9, 0.98))
    data = batches(tokenizer, random.Random(SEED + 1), rows)
    started = time.perf_counter()
    for step in range(steps):
        rate = peak * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        tokens = next(data)
        inputs, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=inputs, labels=labels, shift_labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            seen = (step + 1) * rows * SEQUENCE_LENGTH
            print(f"step {step}/{steps} loss {loss.item():.4f} {seen / (time.perf_counter() - started):.0f} tokens/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer(random.Random(SEED))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters, vocabulary {len(tokenizer)}")
    train(model, tokenizer, arguments.steps, arguments.rows, arguments.learning_rate)
    model.generation_config = GenerationConfig.from_model_config(config)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
