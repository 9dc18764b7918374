"""What several samples of a question say of a model: majority vote, pass@k, degeneration."""

from collections import Counter
from collections.abc import Sequence
from math import comb

from aft_ray.tasks.answers import form_of
from schemas import Candidate

REPEATED_LENGTH = 4


def majority_is_right(samples: Sequence[Candidate]) -> float | None:
    """maj@k (self-consistency, arXiv 2203.11171): whether the answer that most samples state is right.

    Samples without an answer have no vote. An answer counts as one whatever its form: the right one as it was checked, others
    by `form_of`. Where answers tie, the share of the tied ones that is right. None where answers cannot be counted, as those
    that a function of the user's checks.
    """
    if any(c.extracted is None and c.verdict != "unknown" for c in samples):
        return None
    stated = [(c.verdict == "right", c.extracted) for c in samples if c.extracted is not None]
    votes = Counter("right" if right else ("other", form_of(answer)) for right, answer in stated)
    if not votes:
        return 0.0
    most = max(votes.values())
    first = [answer for answer, count in votes.items() if count == most]
    return first.count("right") / len(first)


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The unbiased estimator of pass@k, `1 - C(n - c, k) / C(n, k)` (arXiv 2107.03374, eq. 1). Raises ValueError where k > n."""
    if k > samples:
        raise ValueError(f"pass@{k} of {samples} samples")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def ks_up_to(samples: int) -> list[int]:
    """1, 2, 4, ... and the number of samples itself."""
    return sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | ({samples} - {0}))


def repeated_share(token_ids: Sequence[int]) -> float:
    """The share of a chain's 4-grams that have stood in it before: seq-rep-4 of arXiv 1908.04319, section 6.1."""
    grams = list(zip(*(token_ids[start:] for start in range(REPEATED_LENGTH)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
