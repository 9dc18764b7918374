"""Scores of chains under a model, and the loss of a global batch as a function of them. Without Ray."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aft_ray.losses import AlignmentLoss
from aft_ray.training.batches import Batch, Example


class Scorer(nn.Module):
    """A causal language model as a function from a batch to the score of each of its chains, in fp32."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """s(c) [C]: per-token mean log-likelihood of every chain, nats.

        Only the chains' tokens go through the head, never the prompts': a batch without chains still makes the pass, with
        one position, because under ZeRO-3 all ranks must use the same parameters in the same order.
        """
        hidden_RLH = self.model.base_model(
            input_ids=batch.input_ids_RL,
            position_ids=batch.position_ids_RL,
            attention_mask=batch.attention_mask_R1LL,
            use_cache=False,
        ).last_hidden_state
        hidden = hidden_RLH.flatten(0, 1)
        head = self.model.get_output_embeddings()
        if not len(batch.chain_lengths_C):
            return head(hidden[:1]).float().sum()[None][:0]
        logits_TV = head(hidden[batch.predictor_T]).float()
        target_logits_T = logits_TV.gather(1, batch.target_ids_T[:, None]).squeeze(1)
        log_likelihood_T = target_logits_T - logits_TV.logsumexp(dim=1)
        total_C = log_likelihood_T.new_zeros(len(batch.chain_lengths_C)).index_add(0, batch.target_chain_T, log_likelihood_T)
        return total_C / batch.chain_lengths_C


class GlobalLoss:
    """`vft_weight * L_VFT + weight * L_A` of a global batch, as a sum over its parts.

    L_VFT is the mean over the batch's covered chain tokens, L_A the mean over the batch's questions. Both denominators belong
    to the global batch, so the parts of all micro-batches and ranks add up to the loss, however the batch is divided.
    """

    def __init__(self, alignment: AlignmentLoss | None, weight: float, vft_weight: float, vft_covers_positives: bool) -> None:
        self.alignment = alignment
        self.weight = weight
        self.vft_weight = vft_weight
        self.vft_roles = ("reference", "positive") if vft_covers_positives else ("reference",)

    def part(
        self, scores_C: Tensor, examples: Sequence[Example], global_batch: Sequence[Example]
    ) -> tuple[Tensor, dict[str, float]]:
        """What these examples add to the loss of the global batch, and to its two terms unweighted."""
        # An empty part must still reach every parameter in backward: a zero that hangs on the scores.
        zero = scores_C.sum() * 0.0
        chains = [chain for example in examples for chain in example.chains]
        covered = torch.tensor([len(c.token_ids) if c.role in self.vft_roles else 0 for c in chains], device=scores_C.device)
        all_covered = sum(len(c.token_ids) for e in global_batch for c in e.chains if c.role in self.vft_roles)
        vft = zero - (scores_C * covered).sum() / max(all_covered, 1)
        alignment = zero
        if self.alignment is not None and examples:
            alignment = zero + self.alignment(*by_question(scores_C, examples)).sum() / len(global_batch)
        loss = self.vft_weight * vft + self.weight * alignment
        return loss, {"vft_loss": vft.item(), "alignment_loss": alignment.item()}


def by_question(scores_C: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and the masks of positives and negatives, [Q, K]; references take no part in alignment."""
    width = max(len(example.chains) for example in examples)
    place = torch.zeros(len(examples), width, dtype=torch.long)
    positive = torch.zeros(len(examples), width, dtype=torch.bool)
    negative = torch.zeros(len(examples), width, dtype=torch.bool)
    start = 0
    for row, example in enumerate(examples):
        for column, chain in enumerate(example.chains):
            place[row, column] = start + column
            positive[row, column] = chain.role == "positive"
            negative[row, column] = chain.role == "negative"
        start += len(example.chains)
    device = scores_C.device
    return scores_C[place.to(device)], positive.to(device), negative.to(device)
