"""What only a GPU shows; elsewhere skipped. Run alone: .venv/bin/pytest tests/gpu"""

from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and PyTorch for CUDA"))
