"""A model made ready for training."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, GPTNeoXConfig, OPTConfig

from aft_ray.training.engine import without_dropout

TOKENS = torch.arange(3, 19)[None]
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
def test_while_training_scores_are_those_of_the_model_without_dropout(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        expected = model.eval()(TOKENS).logits
        assert not torch.allclose(model.train()(TOKENS).logits, expected, atol=1e-3), "this model should have dropout"
        torch.testing.assert_close(without_dropout(model)(TOKENS).logits, expected)
