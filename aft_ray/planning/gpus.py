"""GPUs by name: what their data sheets say."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    memory: float
    """Bytes."""
    flops: float
    """A second, bf16, dense."""


GPUS = {
    "l40s-48": Gpu(48e9, 362e12),
    "a100-40": Gpu(40e9, 312e12),
    "a100-80": Gpu(80e9, 312e12),
    "h100-80": Gpu(80e9, 989e12),
    "h200-141": Gpu(141e9, 989e12),
    "b200-180": Gpu(180e9, 2250e12),
}
