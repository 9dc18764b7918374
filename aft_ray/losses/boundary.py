"""`beta: auto`: a boundary found without a search, from what the sampler told of its own samples."""

from collections.abc import Mapping, Sequence

import numpy as np

SHARE = 0.05


def boundaries(scores: Mapping[str, Sequence[float]], share: float = SHARE) -> dict[str, float]:
    """The boundary of each question, nats per token: the `share` quantile of the scores of the model's own samples.

    `scores`: s(c) of the samples of each question of a task under the model that sampled them. Below the boundary lies what the
    model itself hardly ever produces, so a negative need not be pushed further. Raises ValueError where there are no scores.
    """
    pooled = np.concatenate([np.asarray(of_question, dtype=float) for of_question in scores.values()] or [np.empty(0)])
    if not pooled.size:
        raise ValueError("no sampled candidates to find the boundary from: set a number, as in alignment.beta: 0.2")
    boundary = float(np.quantile(pooled, share))
    return dict.fromkeys(scores, boundary)


def boundaries_by_task(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """The boundary of each question, of `scores` by task and question. A task without any takes that of all tasks together."""
    pooled = boundaries({question: values for of_task in scores.values() for question, values in of_task.items()})
    return pooled | {
        question: boundary
        for of_task in scores.values()
        if any(of_task.values())
        for question, boundary in boundaries(of_task).items()
    }
