"""No comparison at all: what is trained on is chosen by `alignment.vft_covers` and `labelling`."""

from torch import Tensor

from aft_ray.losses.groups import ScoredGroups


def rft(groups: ScoredGroups) -> Tensor:
    """RFT (arXiv 2308.01825, section 3.3): 0. Fine-tuning on references and distinct positives is L_VFT's part.

    As published, with `alignment.vft_covers: reference+positives`, `labelling.duplicates: equations` and
    `labelling.false_equations: drop`.
    """
    return groups.scores_QK.sum(dim=1) * 0.0
