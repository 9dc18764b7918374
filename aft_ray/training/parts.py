"""Parameters that ZeRO-3 has divided over the ranks, filled from one rank and gathered to one.

DeepSpeed's own GatheredParameters gathers to all ranks, in a buffer beside the parameter: each held a vocabulary twice.
Here a part goes from rank 0 to its rank or back, so that the others hold nothing but their own. As DeepSpeed divides
(deepspeed/runtime/zero/partition_parameters.py): flat, in equal parts, the last one padded.

Shape suffixes: N numbers in a part.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


def fill(parameter: Any, whole: Tensor | None) -> None:
    """Give every rank its part of the tensor that rank 0 has. Called by all. Raises ValueError where it is of another shape."""
    if whole is not None and whole.shape != parameter.ds_shape:
        raise ValueError(f"{tuple(whole.shape)} in the file, {tuple(parameter.ds_shape)} by config.json")
    own_N = parameter.ds_tensor.data
    received_N = torch.empty(own_N.numel(), dtype=own_N.dtype, device=device_of_group())
    parts = None
    if whole is not None:
        flat = whole.flatten()
        cut = (flat[start : start + own_N.numel()] for start in range(0, world_size() * own_N.numel(), own_N.numel()))
        parts = [pad(part.to(received_N), (0, own_N.numel() - part.numel())) for part in cut]
    torch.distributed.scatter(received_N, parts)
    own_N.copy_(received_N)


def gathered(parameter: Any) -> Tensor | None:
    """The whole tensor on rank 0, in the host's memory; None on the others. Called by all."""
    own_N = parameter.ds_tensor.data.to(device_of_group())
    if torch.distributed.get_rank():
        torch.distributed.gather(own_N)
        return None
    flat = own_N.new_empty(world_size() * own_N.numel())
    torch.distributed.gather(own_N, list(flat.split(own_N.numel())))
    whole: Tensor = flat[: parameter.ds_numel].view(parameter.ds_shape).cpu()
    return whole


def world_size() -> int:
    return torch.distributed.get_world_size()


def device_of_group() -> torch.device:
    """Where what ranks send each other must lie."""
    on_gpu = torch.distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
