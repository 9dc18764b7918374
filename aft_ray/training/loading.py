"""Under ZeRO-3: a model loaded so that no rank ever holds the whole of it. Parameters are divided as they are made, then filled
one at a time: rank 0 reads one from its file, all ranks take their part."""

import gc
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from aft_ray.places import Place, fetched
from aft_ray.training.parts import fill
from aft_ray.training.ranks import from_rank_zero

INDEX = "model.safetensors.index.json"


def load_divided(place: Place, dtype: torch.dtype, deepspeed_config: dict[str, Any], **settings: Any) -> PreTrainedModel:
    """The model of a directory with its parameters divided over the ranks.

    Where the files' names are not those of the model (transformers then converts while it loads), every rank reads the whole.
    """
    import deepspeed

    reads = torch.distributed.get_rank() == 0
    path = fetched(place, weights=reads)
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    with keeping_dtypes(), deepspeed.zero.Init(config_dict_or_path=deepspeed_config), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False, **settings)
    model.tie_weights()
    gc.collect()  # a tied parameter's own first values, which stand in a circle
    files = from_rank_zero(lambda: files_of(path))
    missing = [name for name, _ in model.named_parameters() if name not in files]
    if missing:
        logging.getLogger(__name__).warning("%s: %s is not in its files: every worker reads the whole model", path, missing[0])
        return load_converted(fetched(place), dtype, deepspeed_config, **settings)
    for name, parameter in model.named_parameters():
        try:
            fill(parameter, read(path / files[name], name) if reads else None)
        except ValueError as error:
            raise ValueError(f"{path / files[name]}: {name}: {error}") from error
    kept = {name: buffer for name, buffer in model.named_buffers() if name in files}
    filled = from_rank_zero(lambda: {name: read(path / files[name], name) for name in kept})
    for name, buffer in kept.items():
        buffer.copy_(filled[name])
    if (path / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(path)
    return model


def load_converted(path: Path, dtype: torch.dtype, deepspeed_config: dict[str, Any], **settings: Any) -> PreTrainedModel:
    """By transformers itself, which divides parameters too, after every rank has read all files."""
    from transformers.integrations import HfDeepSpeedConfig

    alive = HfDeepSpeedConfig(deepspeed_config)  # transformers sees it as long as it is there
    with keeping_dtypes():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True, **settings)
    del alive
    return model


@contextmanager
def keeping_dtypes() -> Iterator[None]:
    """Has zero.Init leave the dtype of new tensors alone. By itself it makes all of them what parameters are, and rotary
    frequencies
    in bf16 are wrong by radians at some hundred tokens; transformers gives it no other list than its own.
    """
    from deepspeed.runtime.zero.partition_parameters import DEFAULT_TENSOR_OVERRIDES, DeepSpeedTensorOverride

    usual = list(DEFAULT_TENSOR_OVERRIDES)
    DEFAULT_TENSOR_OVERRIDES.remove(DeepSpeedTensorOverride.dtype)
    try:
        yield
    finally:
        DEFAULT_TENSOR_OVERRIDES[:] = usual


def files_of(path: Path) -> dict[str, str]:
    """In which file each tensor is."""
    if (path / INDEX).is_file():
        weight_map: dict[str, str] = json.loads((path / INDEX).read_text())["weight_map"]
        return weight_map
    found: dict[str, str] = {}
    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            found |= dict.fromkeys(tensors.keys(), file.name)
    return found


def read(file: Path, name: str) -> torch.Tensor:
    """One tensor. The file is opened for it alone: what is mapped into memory then goes with the tensor."""
    with safe_open(file, framework="pt") as tensors:
        tensor: torch.Tensor = tensors.get_tensor(name)
        return tensor
