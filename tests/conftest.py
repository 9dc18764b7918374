"""Shared by all tests. Unit tests come first, then integration, then faults: the cheap ones fail first."""

from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent
ORDER = ("unit", "integration", "faults")

# Machines differ in speed by more than any deadline allows for.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(item.path.relative_to(ROOT / "tests").parts[0]))


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    return ROOT / "jobs" / "tiny_llama"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets, where the developer has them beside the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not beside this clone")
    return folder
