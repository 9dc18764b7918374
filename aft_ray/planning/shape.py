"""The size of a model, and what its forward pass keeps for backward, from config.json alone: on torch's meta device."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from aft_ray.config import LoraConfig
from aft_ray.places import Place, fetched
from aft_ray.planning.fused import with_stand_ins
from aft_ray.training.adapters import size_of_adapters, with_adapters
from aft_ray.training.attention import attention_arguments, set_own_attention
from aft_ray.training.batches import Batch, Chain, Example, Layout, make_batch
from aft_ray.training.layout import SHARED

MOST_PARALLEL = 16
TRACED_LAYERS = 2
"""Of a model's layers, so that a model of a hundred is traced as fast; they are counted as equal."""


@dataclass(frozen=True)
class Activations:
    """Bytes that the forward pass over a micro-batch keeps."""

    of_layer: int
    """One decoder layer's."""
    between_layers: int
    """Its input alone, which is what activation checkpointing keeps."""
    transient: int
    """The most that backward adds for a moment: the gradients of the widest part of a layer."""


class ModelShape:
    """Of the model in a directory, or of a config.json. Raises OSError or ValueError where transformers knows no such model."""

    def __init__(self, path: Place) -> None:
        if not (path / "config.json").is_file():  # transformers would ask the hub for a model of that name
            raise ValueError(f"{path / 'config.json'}: not there; --model-config names a directory with one")
        self.config: PretrainedConfig = AutoConfig.from_pretrained(fetched(path, weights=False), trust_remote_code=False)
        self.text = self.config.get_text_config()

    @cached_property
    def model(self) -> PreTrainedModel:
        return empty(self.config)

    @cached_property
    def parameters(self) -> int:
        """Tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def trained(self, lora: LoraConfig | None) -> int:
        """Parameters that training changes: all, or those of adapters."""
        return self.parameters if lora is None else size_of_adapters(self.model, lora)

    @cached_property
    def head(self) -> int:
        """Parameters of the output layer, whether tied to the embeddings or not."""
        return int(self.model.get_output_embeddings().weight.numel())

    @property
    def embedding(self) -> int:
        """Parameters that only look tokens up, which take memory and no time."""
        return 0 if self.config.tie_word_embeddings else self.head

    @property
    def layers(self) -> int:
        return int(self.text.num_hidden_layers)

    @property
    def hidden(self) -> int:
        return int(self.text.hidden_size)

    @property
    def vocabulary(self) -> int:
        return int(self.text.vocab_size)

    @property
    def kv_heads(self) -> int:
        return int(getattr(self.text, "num_key_value_heads", None) or self.text.num_attention_heads)

    @property
    def attention_heads(self) -> int:
        return int(self.text.num_attention_heads)

    @cached_property
    def parallel_sizes(self) -> list[int]:
        """Numbers of GPUs over which vLLM can divide the model: whole attention heads each, and whole ones of keys or copies."""
        heads, kv_heads = self.attention_heads, self.kv_heads
        return [n for n in range(1, MOST_PARALLEL + 1) if heads % n == 0 and 0 in (kv_heads % n, n % kv_heads)]

    def divides_by(self, parallel: int) -> bool:
        return parallel in self.parallel_sizes

    def undivided(self, parallel: int) -> str:
        """What to say of a number over which it cannot be."""
        told = f"{self.attention_heads} attention heads ({self.kv_heads} of keys) cannot be divided over {parallel} GPUs"
        return f"{told}; resources.gpus_per_sampling_actor = {', '.join(map(str, self.parallel_sizes))} can"

    def kv_bytes(self, bytes_each: int) -> int:
        """Of a token in vLLM's cache, over all layers."""
        size = getattr(self.text, "head_dim", None) or self.hidden // self.attention_heads
        return 2 * self.layers * self.kv_heads * int(size) * bytes_each

    def activations(
        self, example: Example, questions: int, dtype: torch.dtype, on_gpu: bool = False, lora: LoraConfig | None = None
    ) -> Activations:
        """Of a micro-batch of `questions` such examples, laid out as in training; on a GPU with fused kernels."""
        config = type(self.config).from_dict(self.config.to_dict())
        config.get_text_config().num_hidden_layers = TRACED_LAYERS
        model = empty(config).to(dtype)
        if lora is not None:
            model = with_adapters(model, lora)
            model.enable_input_require_grads()  # else the first of the layers, which is half of them here, would keep less
        flex = on_gpu and model._supports_flex_attn
        if on_gpu:
            with_stand_ins(model)
        if not flex:
            set_own_attention(model)
        of_questions = [replace(example, question_id=str(number)) for number in range(questions)]
        layout: Layout = "pack" if flex else SHARED.get(model.config._attn_implementation, "rows")
        batch = make_batch(of_questions, layout)
        kept = traced(model, batch)
        tokens, bytes_each = batch.input_ids_RL.numel(), dtype.itemsize
        between = tokens * self.hidden * bytes_each
        widest = int(getattr(self.text, "intermediate_size", None) or 4 * self.hidden)
        return Activations((kept - between) // TRACED_LAYERS, between, 3 * tokens * widest * bytes_each)


def empty(config: PretrainedConfig) -> PreTrainedModel:
    """A model without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def traced(model: PreTrainedModel, batch: Batch) -> int:
    """Bytes that autograd keeps of the model's body, each storage once, parameters left out."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    # What says who sees whom is made of numbers, which meta tensors do not have; then it is put on meta with the rest. In a
    # pack it is next to nothing.
    found = {"attention_mask": None} if batch.layout == "pack" else attention_arguments(batch, model)
    arguments = {name: on_meta(value) for name, value in found.items()}
    if arguments["attention_mask"] is None:
        # transformers would look into the positions for a mask to make; one that is given is not looked at.
        arguments["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.base_model(
            input_ids=batch.input_ids_RL.to("meta"),
            position_ids=batch.position_ids_RL.to("meta"),
            use_cache=False,
            **arguments,
        ).last_hidden_state
        of_model = {pointer: tensor for pointer, tensor in kept.items() if pointer not in own}
    del output
    return sum(tensor.untyped_storage().nbytes() for tensor in of_model.values())


def on_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if isinstance(value, tuple):
        return tuple(on_meta(part) for part in value)
    return value if value is None else type(value)(**{name: on_meta(part) for name, part in vars(value).items()})


def group(prompt_tokens: int, chain_tokens: int, chains: int) -> Example:
    """A question of these lengths."""
    return Example("q", (1,) * prompt_tokens, tuple(Chain((1,) * chain_tokens, "positive") for _ in range(chains)))
