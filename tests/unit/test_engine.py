"""A model made ready for training."""

import json
from dataclasses import replace

import pytest
import torch
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GenerationConfig,
    GPT2Config,
    GPTNeoXConfig,
    OPTConfig,
    Phi3Config,
    PhimoeConfig,
)

from aft_ray.config import ModelConfig, ResourcesConfig, TrainingConfig
from aft_ray.training.engine import adamw, deepspeed_config, kernels_for, load_model, without_chance
from aft_ray.training.export import writable
from aft_ray.training.job import TrainingJob

TOKENS = torch.arange(3, 19)[None]
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS = [
    BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2, hidden_dropout=0.5, attention_dropout=0.5),
    GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5),
    GPTNeoXConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        attention_dropout=0.5,
        hidden_dropout=0.5,
    ),
    OPTConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=48,
        word_embed_proj_dim=32,
        dropout=0.5,
        attention_dropout=0.5,
        layerdrop=0.5,
    ),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_while_training_scores_are_those_of_the_model_without_chance(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        expected = model.eval()(TOKENS).logits
        assert not torch.allclose(model.train()(TOKENS).logits, expected, atol=1e-3), "this model should have dropout"
        torch.testing.assert_close(without_chance(model)(TOKENS).logits, expected)


def test_what_is_recomputed_is_recomputed_without_chance_too():
    """Modules that checkpoint their activations do so in training mode alone."""
    model = without_chance(AutoModelForCausalLM.from_config(CONFIGS[0], dtype=torch.float32))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    assert layers
    assert all(layer.training for layer in layers)


def test_experts_are_not_drawn_by_lot():
    config = PhimoeConfig(**SIZES, num_key_value_heads=2, num_local_experts=4, router_jitter_noise=0.3, input_jitter_noise=0.3)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        expected = model.eval()(TOKENS).logits
        assert not torch.allclose(model.train()(TOKENS).logits, expected, atol=1e-3), "in training this model should be random"
        torch.testing.assert_close(without_chance(model)(TOKENS).logits, expected)


def test_where_attention_is_capped_so_it_is_in_training(tmp_path):
    """By SDPA it would not be, in training and in the scores that layouts are compared by alike."""
    config = Gemma2Config(**SIZES, num_key_value_heads=1, head_dim=16, initializer_range=0.5, attn_logit_softcapping=0.5)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    model = ModelConfig(path=tmp_path, precision="fp32")
    found = load_model(TrainingJob(model, TrainingConfig(), ResourcesConfig(zero_stage=1), 0, {}, tmp_path, tmp_path, None))
    with torch.no_grad():
        capped, not_capped = (
            AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=how).eval()(TOKENS).logits
            for how in ("eager", "sdpa")
        )
        assert not torch.allclose(capped, not_capped, atol=1e-3)
        torch.testing.assert_close(found.eval()(TOKENS).logits, capped)


@pytest.mark.parametrize(("part", "rotary"), [(1.0, True), (0.75, False)])
def test_a_fused_kernel_that_turns_whole_heads_is_not_for_a_model_that_turns_a_part(part, rotary):
    config = Phi3Config(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": part})
    assert kernels_for(config).get("rope", True) is rotary


@pytest.mark.parametrize("settings", [{"temperature": 0.9, "top_p": 0.6}, {"pad_token_id": -1}, {"do_sample": False, "top_k": 5}])
def test_what_transformers_reads_of_generation_can_be_written_with_the_model(settings, tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 2} | settings))
    read = GenerationConfig.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"generation|pad_token_id"):
        read.save_pretrained(tmp_path)
    writable(read).save_pretrained(tmp_path / "out")
    again = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (again.eos_token_id, again.temperature, again.top_p) == (2, read.temperature, read.top_p)
    whole = GenerationConfig(eos_token_id=3)
    assert writable(whole) is whole


def test_what_a_job_says_of_its_optimizer_and_its_memory_reaches_deepspeed(tmp_path):
    training = TrainingConfig(learning_rate=3e-4, weight_decay=0.2, gradient_clipping=0.7)
    resources = ResourcesConfig(zero_stage=3, offload="optimizer+parameters", gpus_per_training_worker=1)
    job = TrainingJob(ModelConfig(path=tmp_path, precision="bf16"), training, resources, 0, {}, tmp_path, tmp_path, None)
    told = deepspeed_config(job)
    assert (told["gradient_clipping"], told["bf16"]) == (0.7, {"enabled": True})
    zero = DeepSpeedZeroConfig(**told["zero_optimization"])
    assert zero.stage == 3
    assert zero.overlap_comm
    assert (zero.offload_optimizer.device, zero.offload_param.device) == ("cpu", "cpu")
    on_cpu = replace(job, resources=ResourcesConfig(zero_stage=2))
    zero = DeepSpeedZeroConfig(**deepspeed_config(on_cpu)["zero_optimization"])
    assert (zero.stage, zero.overlap_comm, zero.offload_optimizer, zero.offload_param) == (2, False, None, None)
    optimizer = adamw(on_cpu, AutoModelForCausalLM.from_config(CONFIGS[0]))
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(3e-4, 0.2)]
