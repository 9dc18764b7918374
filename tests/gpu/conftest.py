"""What only a GPU shows; elsewhere skipped. They come last: Liger takes the place of functions of transformers."""

from pathlib import Path

import pytest
import torch
from transformers.utils import is_liger_kernel_available


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available() and is_liger_kernel_available():
        return
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason="needs a GPU, PyTorch for CUDA and Liger (the gpu extra)"))
