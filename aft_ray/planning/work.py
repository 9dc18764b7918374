"""How much there is to compute, stage by stage, and how long that takes at a stated utilisation.

FLOPs as Megatron-LM counts them (arXiv 2104.04473): 6 a weight and token in training, 4 where it stands still, 2 in a forward
pass, attention added.
"""

from dataclasses import dataclass, replace

from aft_ray.config import LoraConfig, RunConfig
from aft_ray.planning.shape import ModelShape
from aft_ray.rounds import reference_pass


@dataclass(frozen=True)
class Lengths:
    """What the estimate stands on: numbers of questions, and mean tokens."""

    train: int
    references: int
    held_out: int
    prompt: float
    chain: float
    given: int = 0
    """Training questions whose candidates are the user's own, and not sampled in the first round."""
    given_chains: float = 0.0
    """Of each of them, the mean."""
    passes: float = 1.0
    """Over a training question in an epoch, the mean: the weights of their tasks."""
    reference_passes: float = 1.0
    """The same of those with references."""


@dataclass(frozen=True)
class StageWork:
    name: str
    tokens: float
    flops: float
    trains: bool
    """On the training workers; else on the sampling actors."""


def stages_of(config: RunConfig, shape: ModelShape, lengths: Lengths) -> list[StageWork]:
    """An upper bound: no chain is taken to be a double of another, none to be dropped."""
    k, greedy = config.sampling.k, 1
    vft = lengths.references * lengths.reference_passes * config.vft.epochs
    trained_on = lengths.given if config.sampling.only_given else lengths.train
    groups = trained_on * lengths.passes * config.alignment.epochs
    sampled = trained_on - lengths.given
    needs_vft = config.alignment.start_from == "vft" or (sampled > 0 and config.sampling.sample_from == "vft")
    work = [training("vft", shape, lengths, vft, 1, config.vft.lora)] if needs_vft else []
    asked, name = sampled + lengths.held_out, "sample" if sampled else "held-out"
    work.append(sampling(name, shape, lengths, asked, k, scored=0, also=lengths.held_out * greedy))
    for number in range(1, config.rounds + 1):
        name = "" if number == 1 else f"-{number}"
        if number > 1:
            work.append(sampling(f"sample{name}", shape, lengths, trained_on, k))
        start, sampler = config.alignment.start_from, config.sampling.sample_from
        same = start == sampler or not sampled if number == 1 else start != "base"
        chains = (sampled * k + lengths.given * lengths.given_chains) / trained_on if number == 1 and trained_on else k
        if reference_pass(config, same, lengths.given > 0 and number == 1):
            work.append(scoring(f"reference{name}", shape, lengths, trained_on, chains))
        work.append(training(f"align{name}", shape, lengths, groups, chains + 1, config.alignment.lora))
        samples = k if config.evaluation.samples else 0
        work.append(sampling(f"evaluate-aft{name}", shape, lengths, lengths.held_out, samples + greedy, scored=k))
    return work


def training(
    name: str, shape: ModelShape, lengths: Lengths, questions: float, chains: float, lora: LoraConfig | None = None
) -> StageWork:
    """The prompt once, the head at the chains' tokens alone."""
    tokens = questions * (lengths.prompt + chains * lengths.chain)
    of_head = questions * chains * lengths.chain
    body = shape.parameters - shape.head - shape.embedding if shape.embedding else shape.parameters - shape.head
    seen = questions * (lengths.prompt**2 / 2 + chains * lengths.chain * (lengths.prompt + lengths.chain / 2))
    each, adapters = (6, 0) if lora is None else (4, shape.trained(lora))
    flops = each * (body * tokens + shape.head * of_head) + 6 * adapters * tokens + 12 * shape.layers * shape.hidden * seen
    return StageWork(name, tokens, flops, True)


def scoring(name: str, shape: ModelShape, lengths: Lengths, questions: float, chains: float) -> StageWork:
    """On the training workers, by training's engine: its forward pass, a third of the work."""
    whole = training(name, shape, lengths, questions, chains)
    return replace(whole, flops=whole.flops / 3)


def sampling(
    name: str, shape: ModelShape, lengths: Lengths, questions: float, chains: int, scored: int = 0, also: float = 0.0
) -> StageWork:
    """`scored`: given chains a question that are read, not generated; `also`: further single chains."""
    tokens = questions * (lengths.prompt + (chains + scored) * lengths.chain) + also * lengths.chain
    return StageWork(name, tokens, 2 * (shape.parameters - shape.embedding) * tokens, False)


def hours(flops: float, gpus: float, peak_flops: float, utilisation: float) -> float:
    return flops / (gpus * peak_flops * utilisation) / 3600
