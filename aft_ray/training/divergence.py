"""A loss that is no number: training stops at once, and says at which questions. Trying again would give the same."""

import json
import math
from collections.abc import Sequence

from aft_ray.places import Place, write_atomically
from aft_ray.training.batches import Example

DIVERGED = "diverged.json"


class DivergedError(RuntimeError):
    """The loss or its gradient became infinite or no number."""


def all_finite(measures: dict[str, float | None]) -> bool:
    return all(value is None or math.isfinite(value) for value in measures.values())


def tell_divergence(out: Place, step: int, measures: dict[str, float | None], batch: Sequence[Example]) -> None:
    """For `raise_divergence`, which runs where the stage was started."""
    told = {"step": step, "measures": measures, "question_ids": [example.question_id for example in batch]}
    write_atomically(out / DIVERGED, json.dumps(told))


def raise_divergence(out: Place) -> None:
    """Raises DivergedError where a training was stopped; its note is removed, so that the next run tries again."""
    path = out / DIVERGED
    if not path.exists():
        return
    told = json.loads(path.read_text())
    path.unlink()
    infinite = [name for name, value in told["measures"].items() if value is not None and not math.isfinite(value)]
    raise DivergedError(
        f"step {told['step']}: {', '.join(infinite)} no finite number any more. Its batch: {', '.join(told['question_ids'])}. "
        "A smaller learning_rate, a gradient_clipping above 0 or other questions may help; with any of them it begins anew."
    )
