"""Make the base model that the quickstart starts from: a Llama of 1.9 M parameters, trained on equations and short texts.

Run as:  .venv/bin/python jobs/make_tiny_llama.py OUT_DIRECTORY     (about 25 minutes on 2 cores; not needed to use the project)

It knows what a pretrained model knows, in small: how an equation goes on, which numbers stood in a text, and how to count
along with a short story. It has never seen the task's question and answer, nor a way to count other than step by step.
"""

import argparse
import math
import random
import re
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
ROWS = 48


def equation(rng: random.Random) -> str:
    """A sum, a difference, a product, or several of them in one line."""
    kind = rng.choices(("+-", "*", "several"), (6, 2, 2))[0]
    if kind == "*":
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        return f"{a}*{b}={a * b}."
    start, events = arithmetic.draw_problem(rng, 1 if kind == "several" else 0)
    if kind == "several":
        return arithmetic.at_once(start, events, rng)[0]
    a, b = rng.randint(10, 199), rng.randint(2, 99)
    return f"{a}+{b}={a + b}." if rng.random() < 0.5 else f"{max(a, b)}-{min(a, b)}={abs(a - b)}."


def equations(rng: random.Random) -> str:
    return " ".join(equation(rng) for _ in range(rng.randint(2, 8)))


def recalled_story(rng: random.Random) -> str:
    """A story, and then the numbers that stood in it."""
    start, events = arithmetic.draw_problem(rng, rng.randint(0, 2))
    told = " ".join(arithmetic.sentences(start, events, rng)[:-1])
    return f"{told} The numbers are {', '.join(re.findall('[0-9]+', told))}."


def counted_story(rng: random.Random) -> str:
    """A story that counts as it goes: what happens, and at once how many there are."""
    start, events = arithmetic.draw_problem(rng, rng.randint(0, 2))
    told = arithmetic.sentences(start, events, rng)
    parts, total = [told[0]], start
    for event, sentence in zip(events, told[1:-1], strict=True):
        product = f" {event.count}*{event.size}={event.amount}." if event.count > 1 else ""
        after = total + event.sign * event.amount
        parts.append(f"{sentence}{product} {total}{'+' if event.sign > 0 else '-'}{event.amount}={after}.")
        total = after
    return " ".join(parts)


def story_then_count(rng: random.Random) -> str:
    """A story, and only then its count, step by step, in one of many layouts; never the layout of the task."""
    start, events = arithmetic.draw_problem(rng, rng.choices((0, 1, 2), (2, 3, 3))[0])
    told = arithmetic.sentences(start, events, rng)[:-1]
    count = arithmetic.step_by_step(start, events, rng)
    total = start + sum(event.sign * event.amount for event in events)
    layout = rng.choice(("Story: ", "Text: ", "Problem: ", "Today: ", "", "")) + " ".join(told)
    layout += rng.choice(("\nCount:", "\nSum:", " How many are there now?", " How many does that make?\nResult:", " So", "", ""))
    return f"{layout} {' '.join(count)}" + rng.choice((f" That makes {total}.", f" In all {total}.", f" Total: {total}.", ""))


TEXTS = (equations, recalled_story, counted_story, story_then_count)
# Two phases: (steps, peak learning rate, share of each kind of text). What is harder comes when the rest is known.
PHASES = ((3000, 2e-3, (3, 2, 5, 0)), (1100, 1e-3, (3, 2, 3, 12)))


def document(rng: random.Random, shares: tuple[int, ...]) -> str:
    return rng.choices(TEXTS, shares)[0](rng)


def make_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    """Byte-level BPE, digits one by one; it takes any text, and knows the words of the task as single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [
        f"Question: {arithmetic.tell(*arithmetic.draw_problem(rng, 2), rng)}\nAnswer: {recalled_story(rng)} The answer is 1."
        for _ in range(5000)
    ]
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


def batches(tokenizer: PreTrainedTokenizerFast, rng: random.Random, shares: tuple[int, ...]) -> Iterator[torch.Tensor]:
    """Documents one behind the other, cut into rows: int64 [ROWS, SEQUENCE_LENGTH + 1]."""
    stream: list[int] = []
    need = ROWS * (SEQUENCE_LENGTH + 1)
    while True:
        while len(stream) < need:
            for ids in tokenizer([document(rng, shares) for _ in range(256)])["input_ids"]:
                stream += [*ids, tokenizer.eos_token_id]
        yield torch.tensor(stream[:need]).view(ROWS, SEQUENCE_LENGTH + 1)
        stream = stream[need:]


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, phase: int) -> None:
    steps, peak, shares = PHASES[phase]
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01, betas=(0.9, 0.98))
    data = batches(tokenizer, random.Random(SEED + 1 + phase), shares)
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
            speed = (step + 1) * inputs.numel() / (time.perf_counter() - started)
            print(f"phase {phase + 1} step {step}/{steps} loss {loss.item():.4f} {speed:.0f} tokens/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer(random.Random(SEED))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
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
    for phase in range(len(PHASES)):
        train(model, tokenizer, phase)
        model.to(torch.bfloat16).float()  # each phase ends in what is shipped: bf16 weights
    model.generation_config = GenerationConfig.from_model_config(config)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
