"""What ranks tell each other beside gradients."""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def from_rank_zero(value: Callable[[], T]) -> T:
    """What the call gives on rank 0, on all ranks. Called by all; what it gives must pickle."""
    box: list[T | None] = [value() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(box)
    return box[0]  # type: ignore[return-value]
