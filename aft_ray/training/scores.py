"""Scores of chains under a model, and the loss of a global batch as a function of them. Without Ray."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aft_ray.losses import Loss
from aft_ray.losses.groups import ScoredGroups, difference, mean_over
from aft_ray.training.attention import attention_arguments
from aft_ray.training.batches import Batch, Example, Role
from aft_ray.training.head import LogLikelihoodHead


class Scorer(nn.Module):
    """A causal language model as a function from a batch to the score of each of its chains, in fp32."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        config = model.config.get_text_config()
        # Cohere multiplies its logits, Granite divides them; hidden states by the same number give the same ones.
        self.scale = float(getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1))
        self.head = LogLikelihoodHead(model.get_output_embeddings(), getattr(config, "final_logit_softcapping", None))

    def forward(self, batch: Batch) -> Tensor:
        """s(c) [C]: per-token mean log-likelihood of every chain, nats.

        Only the chains' tokens go through the head, never the prompts': a batch without chains still makes the pass, with
        one position, because under ZeRO-3 all ranks must use the same parameters in the same order.
        """
        if not len(batch.chain_lengths_C):
            nothing = torch.zeros(1, dtype=torch.long, device=batch.input_ids_RL.device)
            return self._log_likelihoods(replace(batch, predictor_T=nothing, target_ids_T=nothing))[:0]
        log_likelihood_T = self._log_likelihoods(batch)
        total_C = log_likelihood_T.new_zeros(len(batch.chain_lengths_C)).index_add(0, batch.target_chain_T, log_likelihood_T)
        return total_C / batch.chain_lengths_C

    def _log_likelihoods(self, batch: Batch) -> Tensor:
        if batch.layout == "plain":
            logits_TV = self._own_logits(batch).float()
            return logits_TV.gather(1, batch.target_ids_T[:, None]).squeeze(1) - logits_TV.logsumexp(dim=1)
        attention = attention_arguments(batch, self.model)
        hidden_RLH = self.model.base_model(
            input_ids=batch.input_ids_RL,
            position_ids=None if attention["attention_mask"] is None else batch.position_ids_RL,
            use_cache=False,
            **attention,
        ).last_hidden_state
        hidden_TH = hidden_RLH.flatten(0, 1)[batch.predictor_T]
        return self.head(hidden_TH if self.scale == 1 else hidden_TH * self.scale, batch.target_ids_T)

    def _own_logits(self, batch: Batch) -> Tensor:
        """[T, V], what a model does by itself: its own mask, positions and head. Where all rows have prompts none are made."""
        row_T, column_T = batch.predictor_T // batch.width, batch.predictor_T % batch.width
        kept_K, place_T = torch.unique(column_T, return_inverse=True)
        logits_RKV: Tensor = self.model(
            input_ids=batch.input_ids_RL, attention_mask=batch.padding_mask_RL, use_cache=False, logits_to_keep=kept_K
        ).logits
        return logits_RKV[row_T, place_T]


class GlobalLoss:
    """`vft_weight * L_VFT + weight * L_A` of a global batch, as a sum over its parts.

    L_VFT is the mean over the batch's covered chain tokens, L_A the mean over the batch's questions. Both denominators belong
    to the global batch, so the parts of all micro-batches and ranks add up to the loss, however the batch is divided.
    """

    def __init__(
        self, alignment: Loss | None, weight: float, vft_weight: float, vft_covers_positives: bool, beta: float | None = None
    ) -> None:
        """`beta`: of a loss with a boundary, to tell which negatives are under it."""
        self.alignment = alignment
        self.weight = weight
        self.vft_weight = vft_weight
        self.beta = beta
        self.vft_roles = ("reference", "positive") if vft_covers_positives else ("reference",)

    def part(
        self, scores_C: Tensor, examples: Sequence[Example], global_batch: Sequence[Example]
    ) -> tuple[Tensor, dict[str, float]]:
        """What these examples add to the loss of the global batch, and sums over them for `batch_measures`."""
        # An empty part must still reach every parameter in backward: a zero that hangs on the scores.
        zero = scores_C.sum() * 0.0
        chains = [chain for example in examples for chain in example.chains]
        covered = torch.tensor([len(c.token_ids) if c.role in self.vft_roles else 0 for c in chains], device=scores_C.device)
        all_covered = sum(len(c.token_ids) for e in global_batch for c in e.chains if c.role in self.vft_roles)
        vft = zero - (scores_C * covered).sum() / max(all_covered, 1)
        alignment = zero
        sums = {"vft_loss": vft.item(), "alignment_loss": 0.0} | dict.fromkeys(SUMS, 0.0)
        if examples:
            groups = by_question(scores_C, examples)
            sums |= score_sums(scores_C, groups, examples, self.beta)
            if self.alignment is not None:
                alignment = zero + self.alignment(groups).sum() / len(global_batch)
                sums["alignment_loss"] = alignment.item()
        loss = self.vft_weight * vft + self.weight * alignment
        return loss, {"loss": loss.item()} | sums


ROLES: tuple[Role, ...] = ("reference", "positive", "negative")
SUMS = (
    *(f"{role}_score" for role in ROLES), *(f"{role}_chains" for role in ROLES),
    "assessment", "assessed", "under_boundary", "bounded",
)  # fmt: skip


def score_sums(
    scores_C: Tensor, groups: ScoredGroups, examples: Sequence[Example], beta: float | None = None
) -> dict[str, float]:
    """Sums over chains of their scores, by role, over questions with a pair of their assessment accuracy, and over the negatives
    of questions with a boundary of those under it."""
    values = scores_C.tolist()
    roles = [chain.role for example in examples for chain in example.chains]
    sums = {f"{role}_chains": float(roles.count(role)) for role in ROLES}
    for role in ROLES:
        sums[f"{role}_score"] = sum(value for value, of in zip(values, roles, strict=True) if of == role)
    lead_QKK = -difference(groups.scores_QK.detach(), groups.scores_QK.detach())
    pair_QKK = groups.right_over_wrong_QKK
    won_QKK = (lead_QKK > 0).double() + 0.5 * (lead_QKK == 0)
    sums["assessment"] = mean_over(won_QKK, pair_QKK).sum().item()
    sums["assessed"] = pair_QKK.flatten(1).any(dim=1).sum().item()
    boundary_Q = boundaries_of(groups, beta)
    bounded_QK = groups.negative_QK & boundary_Q.isfinite()[:, None]
    sums["under_boundary"] = float((bounded_QK & (groups.scores_QK < boundary_Q[:, None])).sum().item())
    sums["bounded"] = float(bounded_QK.sum().item())
    return sums


def boundaries_of(groups: ScoredGroups, beta: float | None) -> Tensor:
    """Of each question [Q], nats per token; infinite where there is none: for a loss without, for a question without positive."""
    worst_positive_Q = groups.scores_QK.detach().masked_fill(~groups.positive_QK, torch.inf).amin(dim=1)
    if groups.boundary_Q is not None:
        return worst_positive_Q.where(worst_positive_Q.isinf(), worst_positive_Q.minimum(groups.boundary_Q))
    return worst_positive_Q - (torch.inf if beta is None else beta)


def batch_measures(sums: dict[str, float]) -> dict[str, float | None]:
    """Of a global batch, from the sums over all its parts: its losses, mean scores by role, assessment accuracy and the share of
    negatives under their boundary, before the step.

    In the first epoch these are of questions that alignment has not seen. None where there is nothing to take a mean of.
    """
    measures: dict[str, float | None] = {name: sums[name] for name in ("loss", "vft_loss", "alignment_loss")}
    for role in ROLES:
        measures[f"{role}_score"] = sums[f"{role}_score"] / sums[f"{role}_chains"] if sums[f"{role}_chains"] else None
    measures["assessment_accuracy"] = sums["assessment"] / sums["assessed"] if sums["assessed"] else None
    measures["under_boundary"] = sums["under_boundary"] / sums["bounded"] if sums["bounded"] else None
    return measures


def by_question(scores_C: Tensor, examples: Sequence[Example]) -> ScoredGroups:
    """The chains' scores question by question, with what is known of each; references take no part in comparisons."""
    sizes = [len(example.chains) for example in examples]
    width = max(sizes)
    chains = [chain for example in examples for chain in example.chains]
    # Where each chain stands in the padded table.
    place_C = torch.tensor([row * width + column for row, size in enumerate(sizes) for column in range(size)])
    device = scores_C.device

    def padded(values: Tensor) -> Tensor:
        table = values.new_zeros(len(sizes) * width).index_copy(0, place_C.to(values.device), values)
        return table.view(len(sizes), width).to(device)

    def known(values: Sequence[float | None]) -> Tensor | None:
        if all(value is None for value in values):
            return None
        return padded(torch.tensor([float("nan") if value is None else value for value in values], dtype=scores_C.dtype))

    boundaries = [example.boundary for example in examples]
    references = [0.0 if chain.role == "reference" else chain.reference for chain in chains]
    return ScoredGroups(
        scores_QK=padded(scores_C),
        positive_QK=padded(torch.tensor([chain.role == "positive" for chain in chains])),
        negative_QK=padded(torch.tensor([chain.role == "negative" for chain in chains])),
        rank_QK=padded(torch.tensor([chain.rank for chain in chains])),
        length_QK=padded(torch.tensor([len(chain.token_ids) for chain in chains])).clamp(min=1),
        reference_QK=None if None in references else known(references),
        reward_QK=known([chain.reward for chain in chains]),
        boundary_Q=None if None in boundaries else torch.tensor(boundaries, dtype=scores_C.dtype, device=device),
    )
