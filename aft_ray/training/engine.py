"""DeepSpeed around a Hugging Face model: its environment and its start."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import is_liger_kernel_available

from aft_ray.config import ResourcesConfig
from aft_ray.places import fetched
from aft_ray.training.adapters import leave_out_frozen, with_adapters
from aft_ray.training.attention import set_own_attention
from aft_ray.training.compiling import compile_nothing_for_inference, only_one_compiles
from aft_ray.training.job import TrainingJob
from aft_ray.training.loading import load_divided
from aft_ray.training.scores import Scorer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ALLOCATORS = {"MALLOC_ARENA_MAX": "1", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""Of a training worker's environment, before its process starts. What the thread of the forward pass has freed, that of the
backward pass then finds in one heap, where each would have its own; on a GPU, of batches of different lengths, PyTorch's own
allocator loses less.

https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html
"""


def prepare_environment(resources: ResourcesConfig) -> None:
    """Before DeepSpeed is imported: which accelerator, and where the tools of this environment are (it compiles with ninja)."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if not resources.gpus_per_training_worker:
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(max(1, int(resources.cpus_per_training_worker)))
        compile_nothing_for_inference()


def start_engine(job: TrainingJob, total_steps: int, universal: bool = False) -> Any:
    """A DeepSpeed engine around the scorer, its optimizer and its schedule; `universal`: to load a universal checkpoint."""
    import deepspeed
    from transformers import get_cosine_schedule_with_warmup

    join_process_group(job.resources)
    torch.manual_seed(job.seed)
    model = without_chance(load_model(job))
    if job.training.lora is not None:
        model = with_adapters(model, job.training.lora, job.seed)
    if job.resources.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    scorer = Scorer(model)
    scorer.register_state_dict_post_hook(leave_out_frozen)
    optimizer = adamw(job, scorer)
    warmup = round(job.training.warmup_share * total_steps)
    # In DeepSpeed's own groups ranks wait 10 minutes for each other: for one that still fetches the model they do here.
    torch.distributed.barrier()
    engine, *_ = deepspeed.initialize(
        model=scorer,
        optimizer=optimizer,
        lr_scheduler=get_cosine_schedule_with_warmup(optimizer, warmup, total_steps),
        config=deepspeed_config(job) | ({"checkpoint": {"load_universal": True}} if universal else {}),
        dist_init_required=False,
    )
    return engine


def adamw(job: TrainingJob, scorer: Scorer) -> torch.optim.Optimizer:
    """torch's; DeepSpeed's own, whose steps run on the CPU, where the optimizer's state waits there."""
    settings: dict[str, Any] = {"lr": job.training.learning_rate, "weight_decay": job.training.weight_decay}
    trained = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    if job.resources.offload == "nothing":
        return torch.optim.AdamW(trained, fused=True, **settings)
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    with only_one_compiles("cpu_adam"):
        optimizer: torch.optim.Optimizer = DeepSpeedCPUAdam(trained, **settings)
    return optimizer


def load_model(job: TrainingJob) -> PreTrainedModel:
    """With FlexAttention on a GPU, where the model has it; else with our own attention, where it can be given one."""
    on_gpu = job.resources.gpus_per_training_worker > 0
    flex = on_gpu and has_flex_attention(job)
    model = read_model(job, **({"attn_implementation": "flex_attention"} if flex else {}))
    if not flex:
        set_own_attention(model)
    return with_fused_kernels(model) if on_gpu else model


def has_flex_attention(job: TrainingJob) -> bool:
    """Of a model without weights, so that all ranks know before one reads."""
    config = AutoConfig.from_pretrained(fetched(job.model.path, weights=False), trust_remote_code=False)
    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(config, attn_implementation="flex_attention", trust_remote_code=False)
    except ValueError as error:
        logging.getLogger(__name__).warning("No FlexAttention, so no packs of several questions: %s", error)
        return False
    return True


def with_fused_kernels(model: PreTrainedModel) -> PreTrainedModel:
    """Liger's norms, rotary positions and activations (https://github.com/linkedin/Liger-Kernel) for families that it knows."""
    if is_liger_kernel_available():
        from transformers.integrations.liger import apply_liger_kernel

        apply_liger_kernel(model, kernels_for(model.config))
    return model


def kernels_for(config: PretrainedConfig) -> dict[str, bool]:
    """Which of them. Liger's rotary positions turn the whole of a head, where a model may turn a part of it (Phi-4-mini)."""
    rotary = getattr(config.get_text_config(), "rope_parameters", None) or {}
    in_part = {"rope": False} if rotary.get("partial_rotary_factor", 1.0) != 1.0 else {}
    return {"cross_entropy": False, "fused_linear_cross_entropy": False} | in_part


def read_model(job: TrainingJob, **settings: str) -> PreTrainedModel:
    dtype = DTYPES[job.model.precision]
    if job.resources.zero_stage == 3:
        return load_divided(job.model.path, dtype, deepspeed_config(job), **settings)
    path = fetched(job.model.path)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True, **settings)
    return model


def without_chance(model: PreTrainedModel) -> PreTrainedModel:
    """A chain's score is a function of the weights: the two passes of a split question must give the same.

    So nothing is left in training mode, in which experts too are drawn by lot (PhiMoE) and inputs jittered, but the modules that
    checkpoint their activations, and do so in no other. Those may hand a number of theirs to torch's dropout (`hidden_dropout`).
    """
    model.eval()
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.training = True
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def join_process_group(resources: ResourcesConfig) -> None:
    """Ray Train has done so for its workers; in this process (training_workers: 0) we are alone."""
    if not torch.distributed.is_initialized():
        backend = "nccl" if resources.gpus_per_training_worker else "gloo"
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # DeepSpeed reads them
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)


def leave_process_group(resources: ResourcesConfig) -> None:
    """In this process another training may follow; DeepSpeed keeps groups that only it can forget."""
    import deepspeed

    if resources.training_workers == 0:
        deepspeed.comm.destroy_process_group()


def deepspeed_buffers(on_gpu: bool) -> dict[str, int]:
    """Elements that DeepSpeed moves at once, and under ZeRO-3 keeps gathered. Its own values are for GPUs that hold billions."""
    if on_gpu:
        return {"reduce_bucket_size": 5 * 10**8, "allgather_bucket_size": 5 * 10**8, "stage3_max_live_parameters": 10**9}
    return {"reduce_bucket_size": 5 * 10**7, "allgather_bucket_size": 5 * 10**7, "stage3_max_live_parameters": 5 * 10**7}


def deepspeed_config(job: TrainingJob) -> dict[str, Any]:
    on_gpu, stage = job.resources.gpus_per_training_worker > 0, job.resources.zero_stage
    offloaded = [kind for kind in ("optimizer", "parameters") if kind in job.resources.offload]
    names = {"optimizer": "offload_optimizer", "parameters": "offload_param"}
    offload = {names[kind]: {"device": "cpu", "pin_memory": on_gpu} for kind in offloaded}
    sums = {"data_types": {"grad_accum_dtype": "fp32"}} if job.model.precision == "bf16" and stage else {}
    return sums | {
        # One "micro-batch" a step as DeepSpeed counts: the loop itself says where a global batch ends.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": job.training.gradient_clipping,
        "bf16": {"enabled": job.model.precision == "bf16"},
        "zero_optimization": {"stage": stage, "overlap_comm": on_gpu and stage == 3} | deepspeed_buffers(on_gpu) | offload,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
