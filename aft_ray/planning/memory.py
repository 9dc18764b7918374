"""Memory of a training worker and of a sampling actor: on its GPU, or as its process where there is none, and on its host.

What DeepSpeed keeps follows ZeRO (arXiv 1910.02054, figure 1) with DeepSpeed's own buffers: N workers share the optimizer's state
from stage 1 on, the gradients from stage 2, the parameters in stage 3. With adapters only theirs have gradients and a state.
"""

import math
from dataclasses import dataclass

from aft_ray.config import ResourcesConfig, TrainingConfig
from aft_ray.planning.shape import ModelShape, group
from aft_ray.training.batches import Example
from aft_ray.training.engine import DTYPES, deepspeed_buffers
from aft_ray.training.head import LOGITS_AT_A_TIME, LOGITS_KEPT
from aft_ray.training.layout import why_plain

PROCESS = {"train": 0.6e9, "sample": 1.3e9}
"""Of a worker or actor with nothing loaded: Python, torch, DeepSpeed or vLLM, Ray. As measured by benchmarks/planning.py."""
KEPT_BY_MALLOC = 1.2
"""Of activations in a process's memory, which the allocator does not give back as they come."""
BUCKETS = {0: 0, 1: 0, 2: 1, 3: 6}
"""Of DeepSpeed's, by ZeRO stage, that a process holds while it sends them to others, beside the one that fills. Likewise."""
BYTES_OF_WHOLE_LOGITS = 16
"""Of a model that is trained the plain way, for each logit of its chains: in backward four numbers. As measured, bf16 too."""
CUDA_CONTEXT = 2.4e9
"""What a GPU holds beside PyTorch's tensors: kernels, cuBLAS. As measured by benchmarks/gpu.py, of one rank."""
OF_GPU = 0.92
"""vLLM's share of a GPU, its own default; what allocators lose leaves training about as much."""


@dataclass(frozen=True)
class Memory:
    """Bytes, of one worker. `host` is what waits beside a GPU in the host's memory; on a CPU all is of the process."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    buffers: float
    process: float
    host: float = 0.0
    step: float = 0.0
    """What the optimizer's step takes on a GPU for a moment, when the activations are gone."""
    loading: float = 0.0
    """What the model takes while it is loaded, when nothing else is there yet."""

    @property
    def device(self) -> float:
        training = self.parameters + self.gradients + self.optimizer + self.buffers + max(self.activations, self.step)
        return self.process + max(training, self.loading)


def training_memory(
    shape: ModelShape, training: TrainingConfig, resources: ResourcesConfig, precision: str, longest: Example
) -> Memory:
    """Of a worker whose micro-batches are full of the longest question that fits into one."""
    dtype = DTYPES[precision]
    on_gpu, stage = resources.gpus_per_training_worker > 0, resources.zero_stage
    workers = max(1, resources.least_training_workers)  # with fewer, each holds more
    size, trained = dtype.itemsize, shape.trained(training.lora)
    count = shape.parameters + (trained if training.lora is not None else 0)
    buffers = deepspeed_buffers(on_gpu)
    bucket = size * min(trained, buffers["reduce_bucket_size"])

    def share(numbers: int, level: int) -> float:
        return numbers / workers if stage >= level else numbers

    parameters = size * share(count, 3)
    summed_on_host = on_gpu and stage == 3 and resources.offload != "nothing"
    # In bf16 they are summed in fp32 beside the ones that backward makes.
    gradients = 0.0 if summed_on_host else (4 if precision == "bf16" and stage else size) * share(trained, 2)
    if stage >= 2:
        gradients += bucket
    elif precision == "bf16" and stage:
        gradients += size * trained
    # Adam's two moments, and of ZeRO always, of bf16 too, weights in fp32.
    optimizer = (8 + 4 * (stage > 0 or precision == "bf16")) * share(trained, 1)
    step = 4 * share(trained, 1) if stage else 0  # the gradient in fp32
    if stage == 3:
        parameters += size * min(count, buffers["stage3_max_live_parameters"])
    # There ZeRO-3 keeps sums of the gradients and, beside them, the gradients of the step.
    offloaded = optimizer + (8 if stage == 3 else 4) * share(trained, 2) if resources.offload != "nothing" else 0.0
    parameters_offloaded = size * share(count, 3) if resources.offload == "optimizer+parameters" else 0.0
    device_optimizer = 0.0 if resources.offload != "nothing" else optimizer
    # PyTorch rounds memory that a GPU reads directly up to a power of two; the sums of ZeRO-3 are one piece of it.
    sums = 4 * share(trained, 2) if summed_on_host else 0.0
    rounded = 2 ** math.ceil(math.log2(sums)) - sums if sums else 0.0
    host = offloaded + rounded + parameters_offloaded + PROCESS["train"] if on_gpu else 0.0
    activations = activation_memory(shape, training, resources, precision, longest)
    of_ranks = 2 * size * min(trained, buffers["allgather_bucket_size"]) if stage in (1, 2) and workers > 1 else 0.0
    if not on_gpu:  # offloading then takes from the same memory, and what a step takes is not given back
        device_optimizer, parameters_offloaded = optimizer + step, 0.0
        activations *= KEPT_BY_MALLOC
        of_ranks = BUCKETS[stage] * bucket if workers > 1 else 0.0
    return Memory(
        parameters=parameters - parameters_offloaded,
        gradients=gradients,
        optimizer=device_optimizer,
        activations=activations,
        buffers=of_ranks,
        process=CUDA_CONTEXT if on_gpu else PROCESS["train"],
        host=host,
        step=step if on_gpu and resources.offload == "nothing" else 0.0,
        loading=size * loaded_at_once(shape, workers if stage == 3 else 1) - parameters_offloaded,
    )


def loaded_at_once(shape: ModelShape, ranks: int) -> float:
    """Numbers that each of these ranks holds at most while it loads its share: that, the largest parameter whole, as it is made
    before it is divided, and where the head is tied the share of the one that it had before."""
    if ranks == 1:
        return float(shape.parameters)
    largest = max(parameter.numel() for parameter in shape.model.parameters())
    tied = shape.head if shape.config.tie_word_embeddings else 0
    return (shape.parameters + tied) / ranks + largest


def activation_memory(
    shape: ModelShape, training: TrainingConfig, resources: ResourcesConfig, precision: str, longest: Example
) -> float:
    """Of a micro-batch: what its layers keep, what backward adds, and the head."""
    budget, dtype = training.tokens_per_micro_batch, DTYPES[precision]
    chains = len(longest.chains)
    while chains > 1 and group(len(longest.prompt_ids), len(longest.chains[0].token_ids), chains).length > budget:
        chains -= 1  # the others go in a part of their own
    example = group(len(longest.prompt_ids), len(longest.chains[0].token_ids), chains)
    of_rank = -(-training.questions_per_step // max(1, resources.least_training_workers))
    questions = max(1, min(budget // example.length, of_rank))
    # Shorter questions fill what is left of the budget.
    fill = max(1.0, min(budget, of_rank * example.length) / (questions * example.length))
    kept = shape.activations(example, questions, dtype, resources.gpus_per_training_worker > 0, training.lora)
    if resources.activation_checkpointing:
        of_layers = fill * (shape.layers * kept.between_layers + kept.of_layer)
    else:
        of_layers = fill * shape.layers * kept.of_layer
    of_chains = fill * questions * sum(len(chain.token_ids) for chain in example.chains)
    kind = "cuda" if resources.gpus_per_training_worker else "cpu"
    # Those that are kept; those of a part, their gradient, and the same in fp32.
    kept_logits = dtype.itemsize * min(of_chains * shape.vocabulary, LOGITS_KEPT[kind])
    logits = kept_logits + (4 + dtype.itemsize) * LOGITS_AT_A_TIME[kind]
    if why_plain(shape.model, training.max_tokens) is not None:
        # At all places where some row has a chain: behind prompts of all lengths that is nearly everywhere.
        of_row = len(example.prompt_ids) + len(example.chains[0].token_ids)
        tokens = max(of_row, min(budget, of_rank * len(longest.chains) * of_row))
        logits = BYTES_OF_WHOLE_LOGITS * tokens * shape.vocabulary
    # The hidden states of the chains, and their gradient in fp32.
    hidden = of_chains * shape.hidden * (dtype.itemsize + 4)
    return of_layers + max(fill * kept.transient, logits) + hidden


def sampling_memory(shape: ModelShape, resources: ResourcesConfig, precision: str, gpu_bytes: float) -> Memory:
    """Of each GPU of an actor, which vLLM fills with cache, or of its process. `activations` is the cache."""
    parallel = resources.gpus_per_sampling_actor
    weights = DTYPES[precision].itemsize * shape.parameters / max(1, parallel)
    if not parallel:
        return Memory(weights, 0.0, 0.0, resources.kv_cache_gib * 2.0**30, 0.0, PROCESS["sample"])
    cache = OF_GPU * gpu_bytes - weights - CUDA_CONTEXT
    return Memory(weights, 0.0, 0.0, max(0.0, cache), 0.0, CUDA_CONTEXT, host=PROCESS["sample"])


def cache_tokens(shape: ModelShape, memory: Memory, resources: ResourcesConfig, precision: str) -> int:
    """How many tokens the cache of an actor holds. Tensor parallelism divides heads, and repeats them beyond their number."""
    parallel = max(1, resources.gpus_per_sampling_actor)
    each = shape.kv_bytes(DTYPES[precision].itemsize) / min(parallel, shape.kv_heads)
    return int(memory.activations / each)
