"""Adapters put into models and added to their weights, against PEFT's own wrapper of the same models."""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, Glm4MoeConfig, GPT2Config, LlamaConfig, MixtralConfig

from aft_ray.config import LoraConfig, ResourcesConfig
from aft_ray.training.adapters import adapters_of, leave_out_frozen, own_parameters, with_adapters
from aft_ray.training.engine import prepare_environment
from aft_ray.training.scores import Scorer

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
LLAMA = LlamaConfig(**SIZES, tie_word_embeddings=True)
GPT2 = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2)  # whose weights lie the other way round
MIXTRAL = MixtralConfig(**SIZES, num_local_experts=2, num_key_value_heads=2)  # whose experts are no linear layers
LORA = LoraConfig(rank=4, alpha=8)


def wrapped(model, target):
    """By PEFT."""
    return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=target))


@pytest.mark.parametrize(
    ("config", "target"),
    [(LLAMA, "all-linear"), (GPT2, "all-linear"), (MIXTRAL, ["q_proj", "k_proj", "v_proj", "o_proj"])],
    ids=["llama", "gpt2", "mixtral"],
)
def test_added_to_their_weights_they_give_the_model_that_peft_merges(config, target):
    prepare_environment(ResourcesConfig())
    from aft_ray.training.export import whole

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    names, before = set(dict(base.named_parameters())), {name: own.clone() for name, own in base.state_dict().items()}
    theirs = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    theirs.load_state_dict(base.state_dict())
    theirs, ours = wrapped(theirs, target), with_adapters(base, LORA)
    for parameter in (p for p in ours.parameters() if p.requires_grad):
        parameter.data.normal_(std=0.1)
    mine = {f"base_model.model.{name}": value for name, value in ours.state_dict().items()}
    assert mine.keys() == theirs.state_dict().keys()
    theirs.load_state_dict(mine)
    merged = dict(theirs.merge_and_unload().named_parameters())
    own, adapters = own_parameters(ours), adapters_of(ours)
    assert own.keys() == names == merged.keys()
    assert adapters.keys() < names
    for name, parameter in own.items():
        found = whole(parameter, torch.float32, True, adapters.get(name))
        torch.testing.assert_close(found, merged[name].detach(), atol=1e-6, rtol=1e-6)
        assert torch.equal(parameter, before[name]), f"{name} has moved"
        assert torch.equal(found, before[name]) != (name in adapters)


def test_the_output_layer_has_none_and_the_class_of_the_model_stays():
    base = AutoModelForCausalLM.from_config(LLAMA)
    model = with_adapters(base, LORA)
    assert model is base
    assert type(model.base_model).__name__ == "LlamaModel"
    assert type(model.lm_head) is torch.nn.Linear
    assert all("lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad)


def test_a_checkpoint_holds_nothing_else_not_even_what_has_two_names():
    scorer = Scorer(with_adapters(AutoModelForCausalLM.from_config(LLAMA), LORA))
    assert {"head.weight", "model.lm_head.weight"} < scorer.state_dict().keys()
    scorer.register_state_dict_post_hook(leave_out_frozen)
    assert scorer.state_dict().keys() == {name for name, parameter in scorer.named_parameters() if parameter.requires_grad}


def test_what_peft_would_take_for_experts_is_refused_and_others_are_not():
    config = Glm4MoeConfig(**SIZES, num_key_value_heads=2, moe_intermediate_size=16, n_routed_experts=2, num_experts_per_tok=1)
    with pytest.raises(ValueError, match=r"^lora.target: peft would adapt experts .*: name layers that are"):
        with_adapters(AutoModelForCausalLM.from_config(config), LORA)
    adapted = with_adapters(AutoModelForCausalLM.from_config(config), LoraConfig(target=("q_proj", "self_attn.o_proj")))
    assert {name.rpartition(".layers.")[2] for name in adapters_of(adapted)} == {
        f"{layer}.self_attn.{name}.weight" for layer in (0, 1) for name in ("q_proj", "o_proj")
    }


def test_they_are_the_same_whatever_chance_was_taken_before():
    found = []
    for taken in (1, 2):
        base = AutoModelForCausalLM.from_config(LLAMA)
        torch.rand(taken)
        found.append([p for p in with_adapters(base, LORA, seed=3).parameters() if p.requires_grad])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
