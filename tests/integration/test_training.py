"""Two DeepSpeed workers under Ray Train against a plain loop of torch in one process, one chain at a time."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from aft_ray.config import AlignmentConfig, ModelConfig, ResourcesConfig
from aft_ray.losses import LOSSES, loss_function, needs_reference
from aft_ray.tasks.arithmetic import generate
from aft_ray.training.division import global_batches, share_out
from aft_ray.training.engine import deepspeed_config, join_process_group, leave_process_group, prepare_environment
from aft_ray.training.job import TrainingJob
from aft_ray.training.loading import load_converted, load_divided
from aft_ray.training.trainer import run_training, score_references
from aft_ray.training.worker import load_examples
from schemas import Candidate, CandidateGroup, write_parquet
from tests.conftest import tokenized

LEARNING_RATE, BETA = 1e-3, 0.1


def skewed_groups(tokenizer):
    """One question with twelve chains among questions with two, one without positives, one without negatives."""
    sizes = [12, 2, 2, 2, 2, 2, 1, 1]
    for number, (question, size) in enumerate(zip(tokenized(generate("train", len(sizes), 0, 1), tokenizer), sizes, strict=True)):
        labels = ["positive", "negative"] * (size // 2) or [("negative", "positive")[number % 2]]
        ids = tokenizer(" 1+1=2. The answer is 2.", add_special_tokens=False)["input_ids"]
        candidates = tuple(
            Candidate(
                index=i,
                text=str(i),
                token_ids=(*ids[: len(ids) - i % 5], tokenizer.eos_token_id),
                finish_reason="stop",
                log_likelihood=-1.0,
                label=label,
                rank=1 if label == "positive" else 2,
                reason="",
            )
            for i, label in enumerate(labels)
        )
        reference = question.reference if number % 2 else None
        yield CandidateGroup(
            question=question.model_copy(update={"reference": reference}),
            candidates=candidates,
            model="m",
            seed=0,
            temperature=1.0,
            top_p=1.0,
            max_new_tokens=60,
        )


def train_by_hand(job: TrainingJob, groups, tokenizer, model) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The method as written down: for every global batch the mean over its questions, autograd, AdamW, a cosine.

    Returns the weights and the loss of every step.
    """
    torch.set_num_threads(1)  # of a model this small, more wait for each other most of the time
    used = sorted(
        (g for g in groups if g.question.reference or len(g.candidates) > 1), key=lambda group: group.question.question_id
    )
    steps = [
        [used[i] for i in batch]
        for epoch in range(job.training.epochs)
        for batch in global_batches([1.0] * len(used), job.training.questions_per_step, job.seed, epoch)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    losses = []
    for step, batch in enumerate(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / len(steps)))
        reference_log_likelihood, reference_tokens, alignment = torch.zeros(()), 0, torch.zeros(())
        for group in batch:
            prompt = tokenizer(f"Question: {group.question.text}\nAnswer:")["input_ids"]

            def score(chain, prompt=prompt):
                ids = torch.tensor([[*prompt, *chain]])
                places = torch.arange(len(prompt), ids.shape[1])
                return model(ids).logits[0].log_softmax(-1)[places - 1, ids[0, places]].mean()

            if group.question.reference:
                chain = [
                    *tokenizer(f" {group.question.reference}", add_special_tokens=False)["input_ids"],
                    tokenizer.eos_token_id,
                ]
                reference_log_likelihood = reference_log_likelihood + score(chain) * len(chain)
                reference_tokens += len(chain)
            positives = [score(c.token_ids) for c in group.candidates if c.label == "positive"]
            negatives = [score(c.token_ids) for c in group.candidates if c.label == "negative"]
            if positives and negatives:
                boundary = min(positives).detach() - BETA
                terms = [(n - p).exp() + (2 * boundary - p.detach() - n).exp() for p in positives for n in negatives]
                alignment = alignment + (1 + sum(terms)).log() / len(batch)
        loss = alignment - reference_log_likelihood / max(1, reference_tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return dict(model.named_parameters()), losses


def job_on(groups, model: Path, out: Path, resources: ResourcesConfig) -> TrainingJob:
    """Four steps of BC, a step being all questions that have something to train on."""
    write_parquet(out / "groups.parquet", CandidateGroup, groups)
    return TrainingJob(
        model=ModelConfig(path=model, precision="fp32"),
        training=AlignmentConfig(
            loss="bc",
            beta=BETA,
            learning_rate=LEARNING_RATE,
            epochs=4,
            questions_per_step=7,
            warmup_share=0.0,
            gradient_clipping=0.0,
            tokens_per_micro_batch=100,
        ),
        resources=resources,
        seed=0,
        task_weights={},
        records=out,
        out=out,
        counter=None,
    )


def assert_as_by_hand(job: TrainingJob, by_hand: tuple[dict[str, torch.Tensor], list[float]]) -> None:
    """The same loss at every step and the same weights at the end, to far less than they moved."""
    expected, losses = by_hand
    found = json.loads((job.out / "training.json").read_text())
    assert [step["loss"] for step in found["history"]] == pytest.approx(losses, abs=1e-4)
    trained = AutoModelForCausalLM.from_pretrained(job.out / "model", dtype=torch.float32)
    start = dict(AutoModelForCausalLM.from_pretrained(job.model.path, dtype=torch.float32).named_parameters())
    for name, parameter in trained.named_parameters():
        moved = (expected[name] - start[name]).norm()
        assert (parameter - expected[name]).norm() < 0.02 * moved, name


@pytest.fixture(scope="module")
def groups_and_by_hand(tiny_llama, tmp_path_factory):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    groups = list(skewed_groups(tokenizer))
    job = job_on(groups, tiny_llama, tmp_path_factory.mktemp("by_hand"), ResourcesConfig())
    return groups, train_by_hand(job, groups, tokenizer, AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32))


@pytest.mark.parametrize("zero_stage", [3, 2])
def test_two_workers_with_unequal_shares_follow_a_plain_loop(zero_stage, groups_and_by_hand, ray_session, tiny_llama, tmp_path):
    groups, by_hand = groups_and_by_hand
    job = job_on(groups, tiny_llama, tmp_path, ResourcesConfig(training_workers=2, zero_stage=zero_stage))
    shares = share_out(load_examples(job)[0], 2, job.training.tokens_per_micro_batch, "flat")
    busy = [(sum(map(bool, share.parts)), sum(map(bool, share.micro_batches))) for share in shares]
    assert all(first != second for first, second in zip(*busy, strict=True)), "the ranks should have unequal numbers of passes"
    run_training(job)
    assert_as_by_hand(job, by_hand)


@pytest.mark.parametrize(
    "settings",
    [
        {"zero_stage": 2},
        {"zero_stage": 2, "offload": "optimizer"},
        {"zero_stage": 3, "activation_checkpointing": True},
        {"zero_stage": 3, "activation_checkpointing": True, "offload": "optimizer+parameters"},
    ],
)
def test_what_saves_memory_follows_a_plain_loop(settings, groups_and_by_hand, tiny_llama, tmp_path, monkeypatch):
    groups, by_hand = groups_and_by_hand
    job = job_on(groups, tiny_llama, tmp_path, ResourcesConfig(training_workers=0, **settings))
    checkpointed, checkpoint = [], transformers.modeling_utils.checkpoint
    monkeypatch.setattr(
        transformers.modeling_utils, "checkpoint", lambda *given, **more: checkpointed.append(1) or checkpoint(*given, **more)
    )
    run_training(job)
    assert_as_by_hand(job, by_hand)
    assert bool(checkpointed) == settings.get("activation_checkpointing", False)


@pytest.mark.parametrize(("workers", "zero_stage"), [(0, 2), *(pytest.param(2, s, marks=pytest.mark.chaos) for s in (1, 2, 3))])
def test_bf16_follows_fp32_as_far_as_its_digits_go(workers, zero_stage, groups_and_by_hand, ray_session, tiny_llama, tmp_path):
    groups, (_, losses) = groups_and_by_hand
    job = job_on(groups, tiny_llama, tmp_path, ResourcesConfig(training_workers=workers, zero_stage=zero_stage))
    run_training(replace(job, model=ModelConfig(path=tiny_llama, precision="bf16")))
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert [step["loss"] for step in history] == pytest.approx(losses, rel=0.02)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.bfloat16


def test_a_file_of_another_shape_than_its_config_is_refused_under_zero_3(tiny_llama, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] - 8}))
    resources = ResourcesConfig(training_workers=0, zero_stage=3)
    job = job_on([], model, tmp_path, resources)
    prepare_environment(resources)
    join_process_group(resources)
    with pytest.raises(ValueError, match=r"embed_tokens.weight: .* in the file, .* by config.json"):
        load_divided(model, torch.float32, deepspeed_config(job))
    leave_process_group(resources)


@pytest.mark.parametrize("load", [load_divided, load_converted])
def test_under_zero_3_in_bf16_rotary_frequencies_keep_their_digits(load, tiny_llama, tmp_path):
    resources = ResourcesConfig(training_workers=0, zero_stage=3)
    job = replace(job_on([], tiny_llama, tmp_path, resources), model=ModelConfig(path=tiny_llama, precision="bf16"))
    prepare_environment(resources)
    join_process_group(resources)
    found = load(tiny_llama, torch.bfloat16, deepspeed_config(job))
    leave_process_group(resources)
    expected = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16)
    buffers = dict(expected.named_buffers())
    assert any("inv_freq" in name for name in buffers)
    for name, buffer in found.named_buffers():
        assert buffer.dtype == buffers[name].dtype, name
        assert torch.equal(buffer.cpu(), buffers[name]), name
    assert {parameter.dtype for parameter in found.parameters()} == {torch.bfloat16}


def test_every_loss_trains_and_moves_the_model(tiny_llama, tmp_path):
    """In this process, one after the other, with the boundary and the references that a run would give them."""
    groups = list(skewed_groups(AutoTokenizer.from_pretrained(tiny_llama)))
    (tmp_path / "groups").mkdir()
    write_parquet(tmp_path / "groups" / "groups.parquet", CandidateGroup, groups)

    def job(name: str, out: Path, references: Path | None) -> TrainingJob:
        out.mkdir()
        return TrainingJob(
            model=ModelConfig(path=tiny_llama, precision="fp32"),
            training=AlignmentConfig(
                loss=name, beta="auto", vft_weight=0, learning_rate=LEARNING_RATE, epochs=2, questions_per_step=8
            ),
            resources=ResourcesConfig(training_workers=0, zero_stage=0),
            seed=0,
            task_weights={},
            records=tmp_path / "groups",
            out=out,
            counter=None,
            references=references,
        )

    score_references(job("dpo", tmp_path / "references", None))
    start = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    for name in LOSSES:
        needed = needs_reference(loss_function(name))
        run_training(job(name, tmp_path / name, tmp_path / "references" if needed else None))
        history = json.loads((tmp_path / name / "training.json").read_text())["history"]
        assert len(history) == 2, name
        assert all(math.isfinite(step["alignment_loss"]) for step in history), name
        if name in ("dpo", "cdpo"):  # no ratio has moved: log 2 for six of the seven questions that are trained on
            assert history[0]["alignment_loss"] == pytest.approx(math.log(2) * 6 / 7, abs=1e-4)
        trained = AutoModelForCausalLM.from_pretrained(tmp_path / name / "model", dtype=torch.float32)
        moved = [not torch.equal(p, q) for p, q in zip(trained.parameters(), start.parameters(), strict=True)]
        assert any(moved) == (name != "rft"), name  # which has no alignment loss
        shutil.rmtree(tmp_path / name)
