"""Shared by all tests. The cheap ones come first; the submission, which needs a Ray of its own, last."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from transformers import PreTrainedTokenizerBase

from aft_ray.config import PromptConfig
from aft_ray.tasks import TASKS
from aft_ray.tasks.tokens import tokenize_questions
from schemas import Question

ROOT = Path(__file__).parent.parent
ORDER = ("unit", "integration", "faults", "submission", "gpu")

# What breaks must not keep anybody waiting: on two cores, the training or sampling that goes on behind a fault with it.
WITHIN = pytest.mark.timeout(240, func_only=True)

# Machines differ in speed by more than any deadline allows for.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(item.path.relative_to(ROOT / "tests").parts[0]))


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    return ROOT / "jobs" / "tiny_llama"


def tokenized(questions: Iterable[Question], tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """As a run hands them to its stages."""
    return tokenize_questions(list(questions), TASKS, tokenizer, PromptConfig())


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray for all tests of this process. It takes the machine to have a GPU: Ray asks more of what wants one."""
    import ray

    from aft_ray.cluster import connect

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 1}')
        connect(tmp_path_factory.mktemp("ray"))
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets, where the developer has them beside the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not beside this clone")
    return folder
