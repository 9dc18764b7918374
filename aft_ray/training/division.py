"""Which questions make up a global batch, and which of them each rank computes in which pass. Without Ray and without a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aft_ray.training.batches import Example, Layout


def global_batches(weights: Sequence[float], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The examples of every step of an epoch, by (seed, epoch) alone.

    `weights`: how often an epoch sees each example. Of a fraction, every example gets its share in turn: at 0.25 it stands
    in one epoch of four.
    """
    random = np.random.default_rng((seed, epoch))
    # One draw for all epochs: where in the turn an example begins.
    phase = np.random.default_rng(seed).random(len(weights))
    share = np.asarray(weights, dtype=float)
    times = np.floor(phase + share * (epoch + 1)) - np.floor(phase + share * epoch)
    order = random.permutation(np.repeat(np.arange(len(weights)), times.astype(int))).tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]


@dataclass(frozen=True)
class Share:
    """What a rank computes of a global batch. Under ZeRO-3 a rank that makes fewer passes leaves the others waiting for ever:
    on every rank there are equally many passes, without gradient and with it, the last ones empty."""

    split: list[list[Example]]
    """Questions over the budget, each in parts that are within it and have some of its chains."""
    micro_batches: list[list[Example]]
    first_passes: int
    """Without gradient: of the parts, as many as on the rank that has most."""
    all_passes: int
    """With gradient: of parts and micro-batches together, as many as on the rank that has most."""

    @property
    def parts(self) -> list[list[Example]]:
        return [[part] for parts in self.split for part in parts]

    @property
    def without_gradient(self) -> list[list[Example]]:
        return _filled(self.parts, self.first_passes)

    @property
    def with_gradient(self) -> list[list[Example]]:
        """Parts first."""
        return _filled(self.parts + self.micro_batches, self.all_passes)


def _filled(passes: list[list[Example]], number: int) -> list[list[Example]]:
    return passes + [[]] * (number - len(passes))


def share_out(batch: Sequence[Example], world_size: int, budget: int, layout: Layout = "rows") -> list[Share]:
    """Divide a global batch over the ranks, into micro-batches of at most `budget` tokens, padding included.

    Every rank computes the same division, so all know without a word how many passes there are. Longest first, each to the rank
    with the least so far, so that no rank waits long.
    """
    of_rank: list[list[Example]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for example in sorted(batch, key=lambda example: -cost(example, layout)):
        rank = load.index(min(load))
        of_rank[rank].append(example)
        load[rank] += cost(example, layout)
    whole = [[e for e in share if len(e.chains) == 1 or cost(e, layout) <= budget] for share in of_rank]
    split = [[in_parts(e, budget, layout) for e in share if len(e.chains) > 1 and cost(e, layout) > budget] for share in of_rank]
    micro_batches = [list(_micro_batches(share, budget, layout)) for share in whole]
    sizes = [(sum(map(len, parts)), len(mine)) for parts, mine in zip(split, micro_batches, strict=True)]
    first, everything = max(parts for parts, _ in sizes), max(map(sum, sizes))
    return [Share(parts, mine, first, everything) for parts, mine in zip(split, micro_batches, strict=True)]


def cost(example: Example, layout: Layout) -> int:
    """Tokens to compute, padding among its own chains included."""
    if layout != "plain":
        return example.length
    return len(example.chains) * (len(example.prompt_ids) + max(len(chain.token_ids) for chain in example.chains))


def in_parts(example: Example, budget: int, layout: Layout) -> list[Example]:
    """The same chains in the same order, as few parts as the budget allows; a chain over it has a part of its own."""
    parts = [replace(example, chains=example.chains[:1])]
    for chain in example.chains[1:]:
        longer = replace(example, chains=(*parts[-1].chains, chain))
        if cost(longer, layout) <= budget:
            parts[-1] = longer
        else:
            parts.append(replace(example, chains=(chain,)))
    return parts


def _micro_batches(examples: list[Example], budget: int, layout: Layout) -> Iterator[list[Example]]:
    """Cut a list that falls in cost. In rows the longest one says how wide all are; in one row there is no padding."""
    current: list[Example] = []
    for example in examples:
        if layout in ("flat", "pack"):
            tokens = sum(e.length for e in current) + example.length
        elif layout == "rows":
            tokens = (len(current) + 1) * max([example.length, *(e.length for e in current)])
        else:
            rows = [len(e.prompt_ids) + len(chain.token_ids) for e in (*current, example) for chain in e.chains]
            tokens = len(rows) * max(rows)
        if current and tokens > budget:
            yield current
            current = []
        current.append(example)
    if current:
        yield current
