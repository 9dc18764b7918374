"""Training of adapters against PEFT's own wrapper around the same model in a plain loop, and what is written at its end."""

import json
from dataclasses import replace

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aft_ray.config import LoraConfig, ModelConfig, ResourcesConfig
from aft_ray.storage import model_fingerprint
from aft_ray.training.trainer import run_training
from tests.integration.test_training import job_on, skewed_groups, train_by_hand

LORA = LoraConfig(rank=8, alpha=16)


def adapted(path):
    """By PEFT, with the first values that a seed of 0 gives."""
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    torch.manual_seed(0)
    return peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear"))


def job_with_adapters(groups, model, out, workers=0, **resources):
    job = job_on(groups, model, out, ResourcesConfig(training_workers=workers, **resources))
    return replace(job, training=job.training.model_copy(update={"lora": LORA}))


@pytest.fixture(scope="module")
def groups_and_by_hand(tiny_llama, tmp_path_factory):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    groups = list(skewed_groups(tokenizer))[1:4]
    job = job_with_adapters(groups, tiny_llama, tmp_path_factory.mktemp("by_hand"))
    return groups, train_by_hand(job, groups, tokenizer, adapted(tiny_llama))


@pytest.mark.parametrize(
    "settings",
    [
        {"zero_stage": 0},
        {"zero_stage": 2},
        {"zero_stage": 3, "activation_checkpointing": True},
        {"zero_stage": 3, "workers": 2},
    ],
)
def test_training_follows_peft_s_own_wrapper_and_leaves_a_model_and_its_adapters(
    settings, groups_and_by_hand, tiny_llama, tmp_path, request
):
    if "workers" in settings:
        request.getfixturevalue("ray_session")
    groups, (expected, losses) = groups_and_by_hand
    untouched = model_fingerprint(tiny_llama)
    job = job_with_adapters(groups, tiny_llama, tmp_path, **settings)
    run_training(job)
    found = [step["loss"] for step in json.loads((tmp_path / "training.json").read_text())["history"]]
    assert found == pytest.approx(losses, abs=1e-4)
    assert found[-1] < found[0]
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    trained, start = peft.PeftModel.from_pretrained(base, tmp_path / "adapter"), dict(adapted(tiny_llama).named_parameters())
    for name, parameter in trained.named_parameters():
        moved = (expected[name] - start[name]).norm()
        assert (parameter - expected[name]).norm() <= 0.02 * moved, name
        assert bool(moved) == ("lora_" in name)
    tokens = torch.arange(3, 40)[None]
    merged, info = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32, output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        apart, found_logits = trained(tokens).logits, merged(tokens).logits
        by_peft = trained.merge_and_unload()
        torch.testing.assert_close(found_logits, by_peft(tokens).logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found_logits, apart, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(adapted(tiny_llama)(tokens).logits, found_logits, atol=1e-2)
    for name, parameter in by_peft.named_parameters():
        torch.testing.assert_close(merged.get_parameter(name), parameter, atol=1e-6, rtol=1e-6)
    assert model_fingerprint(tiny_llama) == untouched


def test_in_bf16_they_follow_as_far_as_its_digits_go(groups_and_by_hand, tiny_llama, tmp_path):
    groups, (_, losses) = groups_and_by_hand
    job = job_with_adapters(groups, tiny_llama, tmp_path, zero_stage=3)
    run_training(replace(job, model=ModelConfig(path=tiny_llama, precision="bf16")))
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert [step["loss"] for step in history] == pytest.approx(losses, rel=0.02)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.bfloat16
