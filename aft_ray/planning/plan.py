"""The plan of a run, put together: memory a stage, whether it fits, machines, tokens, hours, price."""

import math
from dataclasses import dataclass

from aft_ray.config import AlignmentConfig, ResourcesConfig, RunConfig, TrainingConfig
from aft_ray.planning.gpus import Gpu
from aft_ray.planning.memory import OF_GPU, Memory, cache_tokens, sampling_memory, training_memory
from aft_ray.planning.nearest import nearest
from aft_ray.planning.shape import ModelShape, group
from aft_ray.planning.work import Lengths, StageWork, hours, stages_of
from aft_ray.training.batches import Example


@dataclass(frozen=True)
class Machine:
    """What a node has, and costs."""

    gpu: Gpu
    gpus: int
    host_bytes: float
    price_per_gpu_hour: float | None
    training_utilisation: float
    sampling_utilisation: float


@dataclass(frozen=True)
class StagePlan:
    work: StageWork
    memory: Memory
    workers: int
    gpus: int
    nodes: int
    hours: float | None
    """None on CPUs, whose speed no data sheet tells."""
    price: float | None
    faults: tuple[str, ...] = ()
    """What does not fit, and what would."""


@dataclass(frozen=True)
class Plan:
    shape: ModelShape
    lengths: Lengths
    stages: tuple[StagePlan, ...]

    @property
    def fits(self) -> bool:
        return not any(stage.faults for stage in self.stages)


def make_plan(config: RunConfig, shape: ModelShape, lengths: Lengths, machine: Machine) -> Plan:
    stages = tuple(plan_stage(config, shape, lengths, machine, work) for work in stages_of(config, shape, lengths))
    return Plan(shape, lengths, stages)


def plan_stage(config: RunConfig, shape: ModelShape, lengths: Lengths, machine: Machine, work: StageWork) -> StagePlan:
    return plan_training(config, shape, machine, work) if work.trains else plan_sampling(config, shape, lengths, machine, work)


def plan_training(config: RunConfig, shape: ModelShape, machine: Machine, work: StageWork) -> StagePlan:
    training, resources = config.vft if work.name == "vft" else config.alignment, config.resources
    precision, longest = config.model.precision, longest_group(config, training)

    def memory_of(training: TrainingConfig, resources: ResourcesConfig) -> Memory:
        return training_memory(shape, training, resources, precision, longest)

    memory = memory_of(training, resources)
    workers, on_gpu = resources.least_training_workers, resources.gpus_per_training_worker > 0
    faults = []
    if on_gpu:
        room, a_node = OF_GPU * machine.gpu.memory, min(workers, machine.gpus)

        def fits(training: TrainingConfig, resources: ResourcesConfig) -> bool:
            needed, beside = memory_of(training, resources), min(resources.least_training_workers, machine.gpus)
            return needed.device <= room and needed.host * beside <= machine.host_bytes

        if not fits(training, resources):
            changes = nearest(training, resources, fits)
            told = (
                "; nothing tried fits: a smaller model, or GPUs with more memory"
                if changes is None
                else "; this would: " + ", ".join(f"{name} = {value}" for name, value in changes.items())
            )
            which = (
                f"{memory.device / 1e9:.0f} GB a GPU, of {room / 1e9:.0f} that can be used"
                if memory.device > room
                else f"{memory.host * a_node / 1e9:.0f} GB of a host's memory, of {machine.host_bytes / 1e9:.0f}"
            )
            faults.append(f"{work.name}: {which}{told}")
    gpus = workers * resources.gpus_per_training_worker
    nodes = math.ceil(gpus / machine.gpus) if gpus else 1
    return finished(work, memory, workers, gpus, nodes, machine, machine.training_utilisation, faults)


def longest_group(config: RunConfig, training: TrainingConfig) -> Example:
    """The longest question that may come: all chains as long as they can be."""
    if not isinstance(training, AlignmentConfig):
        return group(config.sampling.max_prompt_tokens, max(1, training.max_tokens - config.sampling.max_prompt_tokens), 1)
    return group(config.sampling.max_prompt_tokens, config.sampling.max_new_tokens, config.sampling.k + 1)


def plan_sampling(config: RunConfig, shape: ModelShape, lengths: Lengths, machine: Machine, work: StageWork) -> StagePlan:
    resources, precision = config.resources, config.model.precision
    memory = sampling_memory(shape, resources, precision, machine.gpu.memory)
    actors, parallel = resources.sampling_actors[1], resources.gpus_per_sampling_actor
    faults = []
    longest = config.sampling.max_prompt_tokens + config.sampling.max_new_tokens + 1
    if parallel > machine.gpus:
        faults.append(f"{work.name}: an actor over {parallel} GPUs, and a node has {machine.gpus}")
    elif parallel and not shape.divides_by(parallel):
        faults.append(f"{work.name}: {shape.undivided(parallel)}")
    elif parallel and cache_tokens(shape, memory, resources, precision) < config.sampling.k * longest:
        enough = next((more for more in shape.parallel_sizes if more > parallel and holds(shape, config, machine, more)), None)
        told = (
            f"nothing up to {shape.parallel_sizes[-1]} GPUs does"
            if enough is None
            else f"resources.gpus_per_sampling_actor = {enough} would"
        )
        faults.append(
            f"{work.name}: beside the weights no room for the cache of one question's {config.sampling.k} chains; {told}"
        )
    # An engine lies on one node.
    nodes = math.ceil(actors / max(1, machine.gpus // parallel)) if parallel else 1
    return finished(work, memory, actors, actors * parallel, nodes, machine, machine.sampling_utilisation, faults)


def holds(shape: ModelShape, config: RunConfig, machine: Machine, parallel: int) -> bool:
    resources = config.resources.model_copy(update={"gpus_per_sampling_actor": parallel})
    memory = sampling_memory(shape, resources, config.model.precision, machine.gpu.memory)
    longest = config.sampling.max_prompt_tokens + config.sampling.max_new_tokens + 1
    return cache_tokens(shape, memory, resources, config.model.precision) >= config.sampling.k * longest


def finished(
    work: StageWork, memory: Memory, workers: int, gpus: int, nodes: int, machine: Machine, utilisation: float, faults: list[str]
) -> StagePlan:
    taken = hours(work.flops, gpus, machine.gpu.flops, utilisation) if gpus else None
    price = None if taken is None or machine.price_per_gpu_hour is None else taken * gpus * machine.price_per_gpu_hour
    return StagePlan(work, memory, workers, gpus, nodes, taken, price, tuple(faults))
