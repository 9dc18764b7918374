"""The model written out as a Hugging Face directory, a file at a time: no rank ever holds more of it whole than one file.

Adapters are added to the weights as these are written, and written by themselves beside the model, as PEFT reads them.
"""

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import deepspeed
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, GenerationConfig

from aft_ray.places import Place, fetched, make_folder, upload
from aft_ray.training.adapters import ADAPTER, adapters_of, own_parameters
from aft_ray.training.job import TrainingJob
from aft_ray.training.loading import INDEX
from aft_ray.training.parts import gathered

BYTES_PER_FILE = 2**31


def export(engine: Any, job: TrainingJob, dtype: torch.dtype) -> None:
    """Weights as safetensors, config, generation config, tokenizer; adapters. Called by all ranks, written by rank 0."""
    model, writes = engine.module.model, deepspeed.comm.get_rank() == 0
    if model.can_generate():
        model.generation_config = writable(model.generation_config)
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(Path(folder), job.out / "model") if writes else None
        if getattr(model, "_weight_conversions", None):
            save_converted(model, writer, dtype)
        else:
            save_by_file(model, writer, dtype)
        if writer is not None:
            model.config.dtype = dtype
            model.config.save_pretrained(folder)
            if model.can_generate():
                model.generation_config.save_pretrained(folder)
            AutoTokenizer.from_pretrained(fetched(job.model.path, weights=False)).save_pretrained(folder)
            writer.put_away()
        if job.training.lora is not None:
            save_adapters(model, Writer(Path(folder), job.out / "adapter") if writes else None, dtype, job.model.path)


def writable(config: GenerationConfig) -> GenerationConfig:
    """transformers reads what it refuses to write: settings of sampling without `do_sample`, a padding token -1."""
    try:
        config.validate(strict=True)
    except ValueError:
        config = copy.deepcopy(config)
        config.do_sample = True
        if (config.pad_token_id or 0) < 0:
            config.pad_token_id = None
    return config


class Writer:
    """Files are made on this machine's disk, one at a time, and from there put in their place."""

    def __init__(self, folder: Path, out: Place) -> None:
        self.folder, self.out = folder, make_folder(out)

    def save(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, self.folder / name, metadata={"format": "pt"})
        self.put_away()

    def put_away(self) -> None:
        for file in self.folder.iterdir():
            upload(file, self.out / file.name)
            file.unlink()


def save_by_file(model: Any, writer: Writer | None, dtype: torch.dtype) -> None:
    adapters = adapters_of(model)
    kept = {name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()}
    tensors = own_parameters(model) | kept
    sizes = {name: whole_size(tensor) * dtype.itemsize for name, tensor in tensors.items()}
    parts = divide(sizes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(parts, start=1):
        file = "model.safetensors" if len(parts) == 1 else f"model-{number:05}-of-{len(parts):05}.safetensors"
        held = {name: whole(tensors[name], dtype, writer is not None, adapters.get(name)) for name in names}
        if writer is not None:
            writer.save(file, {name: tensor for name, tensor in held.items() if tensor is not None})
        del held  # before those of the next file are there
        weight_map |= dict.fromkeys(names, file)
    if writer is not None and len(parts) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (writer.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def save_converted(model: Any, writer: Writer | None, dtype: torch.dtype) -> None:
    """Of models whose files have other names than they do: transformers converts them back, of the whole model at once."""
    adapters, writes = adapters_of(model), writer is not None
    held = {name: whole(own, dtype, writes, adapters.get(name)) for name, own in own_parameters(model).items()}
    if writer is not None:
        held |= {name: buffer.detach().cpu() for name, buffer in model.named_buffers() if name in model.state_dict()}
        model.save_pretrained(writer.folder, state_dict=held)


def save_adapters(model: Any, writer: Writer | None, dtype: torch.dtype, base: Place) -> None:
    """As `peft.PeftModel.from_pretrained` takes them, over the model that training started from."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    held = {name: whole(parameter, dtype, writer is not None) for name, parameter in trained.items()}
    if writer is not None:
        tensors = {name.replace(f".{ADAPTER}.", "."): tensor for name, tensor in held.items() if tensor is not None}
        writer.save("adapter_model.safetensors", {f"base_model.model.{name}": tensor for name, tensor in tensors.items()})
        config = model.peft_config[ADAPTER]
        config.base_model_name_or_path = str(base)
        config.inference_mode = True
        config.save_pretrained(writer.folder)
        writer.put_away()


def whole(tensor: torch.Tensor, dtype: torch.dtype, writes: bool, adapter: Any = None) -> torch.Tensor | None:
    """A copy in the host's memory, where it is wanted, with what an adapter adds to it."""
    divided = hasattr(tensor, "ds_id")
    found = gathered(tensor) if divided else tensor.detach()
    added = None if adapter is None else product(adapter, writes)
    if found is None or not writes:
        return None
    if added is not None:
        found = found.to("cpu", torch.float32) + added
    return found.to("cpu", dtype if found.is_floating_point() else found.dtype, copy=not divided).contiguous()


def product(adapter: Any, writes: bool) -> torch.Tensor | None:
    """alpha / rank * B A, in fp32, where it is wanted."""
    down, up = (whole(part[ADAPTER].weight, torch.float32, writes) for part in (adapter.lora_A, adapter.lora_B))
    if down is None or up is None:
        return None
    added = adapter.scaling[ADAPTER] * (up @ down)
    return added.T if adapter.fan_in_fan_out else added


def whole_size(tensor: torch.Tensor) -> int:
    """Numbers in it, also where ZeRO-3 has left this rank a part."""
    return int(getattr(tensor, "ds_numel", tensor.numel()))


def divide(sizes: dict[str, int]) -> list[list[str]]:
    """Names in their order, as many together as BYTES_PER_FILE allows."""
    parts: list[list[str]] = [[]]
    room = BYTES_PER_FILE
    for name, size in sizes.items():
        if size > room and parts[-1]:
            parts.append([])
            room = BYTES_PER_FILE
        parts[-1].append(name)
        room -= size
    return parts
