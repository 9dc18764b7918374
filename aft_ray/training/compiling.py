"""Operators of DeepSpeed's that it compiles at their first use: none that training does without, and one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


def compile_nothing_for_inference() -> None:
    """On a CPU DeepSpeed would first compile, for most of a minute, what only its inference over several processes uses.

    Before its process group is made. What it finds in that dict it takes as it is (deepspeed/ops/__init__.py).
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}


@contextmanager
def only_one_compiles(operator: str) -> Iterator[None]:
    """PyTorch lets one process compile at a time, by a file that the others wait for; one killed meanwhile leaves it behind, and
    all later ones wait for ever. Around that goes a lock that ends with its process."""
    from torch.utils.cpp_extension import _get_build_directory

    folder = Path(_get_build_directory(operator, verbose=False))
    with FileLock(folder / "only_one_compiles"):
        (folder / "lock").unlink(missing_ok=True)
        yield
