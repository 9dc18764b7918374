"""The passes of a global batch on one rank: forward and backward of each micro-batch, the next one made ready meanwhile.

The loss sees a question only through the scores of its chains. So a question whose chains do not fit into one pass is done in
two: the scores of all its parts without gradient, dL/ds of the loss, then each part again with that weight. The gradient is
exact, the memory that of a part. (As GradCache does for contrastive losses, arXiv 2101.06983.) Without Ray.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat

import torch
from torch import Tensor

from aft_ray.training.batches import Batch, Example, Layout, make_batch
from aft_ray.training.division import Share
from aft_ray.training.scores import SUMS, GlobalLoss

Score = Callable[[Batch], Tensor]
Backward = Callable[[Tensor, bool], None]
"""Of a loss, and whether it is the last one of the global batch."""


def run_passes(
    score: Score, backward: Backward, loss: GlobalLoss, share: Share, global_batch: Sequence[Example], layout: Layout
) -> dict[str, float]:
    """Add the gradient of a rank's share to the parameters'; returns the sums that `batch_measures` takes.

    Every rank makes the same number of passes, without gradient and with it.
    """
    sums = dict.fromkeys(("loss", "vft_loss", "alignment_loss", *SUMS), 0.0)
    weights = weights_of_parts(score, loss, share, global_batch, layout, sums)
    for number, (examples, batch) in enumerate(zip(share.with_gradient, ahead(share.with_gradient, layout), strict=True)):
        scores_C = score(batch)
        if number < len(weights):
            value = (scores_C * weights[number]).sum()
        else:
            value, terms = loss.part(scores_C, examples, global_batch)
            add(sums, terms)
        backward(value, number == share.all_passes - 1)
    return sums


def weights_of_parts(
    score: Score, loss: GlobalLoss, share: Share, global_batch: Sequence[Example], layout: Layout, sums: dict[str, float]
) -> list[Tensor]:
    """dL/ds of the chains of every part."""
    with torch.no_grad():
        scores = [score(batch) for batch in ahead(share.without_gradient, layout)]
    weights: list[Tensor] = []
    for parts in share.split:
        whole = torch.cat(scores[len(weights) : len(weights) + len(parts)]).requires_grad_()
        value, terms = loss.part(whole, [joined(parts)], global_batch)
        (gradient,) = torch.autograd.grad(value, whole)
        weights += gradient.split([len(part.chains) for part in parts])
        add(sums, terms)
    return weights


def joined(parts: Sequence[Example]) -> Example:
    return replace(parts[0], chains=tuple(chain for part in parts for chain in part.chains))


def add(sums: dict[str, float], terms: dict[str, float]) -> None:
    for name, value in terms.items():
        sums[name] = sums.get(name, 0.0) + value


def ahead(passes: Iterable[Sequence[Example]], layout: Layout) -> Iterator[Batch]:
    """The tensors of each pass, made in a thread one pass ahead."""
    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for made in map(thread.submit, repeat(make_batch), passes, repeat(layout)):
            if waiting is not None:
                yield waiting.result()
            waiting = made
        if waiting is not None:
            yield waiting.result()
