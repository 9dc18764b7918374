"""Low-rank adapters (LoRA, arXiv 2106.09685), by the peft library, put into a model in place: it keeps its class and its body.

A layer that has one is within it, as its `base_layer`, and stands still.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from aft_ray.config import LoraConfig

ADAPTER = "default"
"""What peft calls it."""


def with_adapters(model: PreTrainedModel, lora: LoraConfig, seed: int = 0) -> PreTrainedModel:
    """The same model, of which nothing but adapters is trained from now on, the same ones on every rank.

    Raises ValueError where it has no linear layer of a name that is asked for, or peft would adapt something else.
    """
    import peft

    layers = layers_for(model, lora)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, target_modules=list(layers))
    torch.manual_seed(seed)  # ranks have taken different amounts of chance to load the model
    adapted: PreTrainedModel = peft.inject_adapter_in_model(config, model, ADAPTER)
    if adapters_of(adapted).keys() != {f"{name}.weight" for name in layers}:
        # Of some mixtures it takes a layer for one of the experts' single tensors, which has the same name.
        raise ValueError("lora.target: peft would adapt experts of this model that are no linear layers: name layers that are")
    return adapted


def layers_for(model: PreTrainedModel, lora: LoraConfig) -> dict[str, Any]:
    """The linear layers that get one, by name: never the output layer, whose weight may be that of the embeddings."""
    output = model.get_output_embeddings()
    linear = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not output
    }
    for target in lora.target:
        if not any(is_called(name, target) for name in linear):
            names = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ValueError(f"lora.target: no linear layer is called {target}; there are: {names}")
    targets = lora.target or tuple(linear)
    return {name: module for name, module in linear.items() if any(is_called(name, target) for target in targets)}


def is_called(name: str, target: str) -> bool:
    """By its whole name, or the end of it."""
    return f".{name}".endswith(f".{target}")


def size_of_adapters(model: PreTrainedModel, lora: LoraConfig) -> int:
    """Numbers in the adapters of a model that has none yet."""
    return sum(lora.rank * sum(layer.weight.shape) for layer in layers_for(model, lora).values())


def adapters_of(model: PreTrainedModel) -> dict[str, Any]:
    """Layers with an adapter, by the name in files of the weight to which it is added; none in a model that has none."""
    return {f"{name}.weight": module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def own_parameters(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's without its adapters, by their names in files, tied ones once."""
    adapted = bool(adapters_of(model))
    own = {name: parameter for name, parameter in model.named_parameters() if not (adapted and parameter.requires_grad)}
    return {name.replace(".base_layer.", "."): parameter for name, parameter in own.items()}


def leave_out_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _: dict[str, Any]) -> None:
    """Of a checkpoint. DeepSpeed's own way leaves a weight in that has a second name, as that of a tied output layer has."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            state.pop(prefix + name, None)
