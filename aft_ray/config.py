"""RunConfig: everything that a run can be told, as one tree. Job files build it; YAML and the command line load into it."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from upath import UPath

from aft_ray.losses import LOSSES
from aft_ray.places import PlaceSetting

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Column = Annotated[str, Field(min_length=1)]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class ModelConfig(Settings):
    """The base model, a Hugging Face directory with safetensors."""

    path: PlaceSetting = Field(description="directory of the base model, on a disk or in an object store")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="of weights and activations, in training and in sampling")


TaskName = Literal["gsm8k", "aqua", "ecqa", "math", "svamp", "mmlu", "arithmetic", "custom", "mixture"]
FUNCTION = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"


class FieldsConfig(Settings):
    """custom: what the fields of the user's rows are called."""

    question: Column = "question"
    gold: Column = "gold"
    choices: Column | None = Field(None, description="a list of options; answer must be choice")
    reference: Column | None = Field("reference", description="a chain of thought; a row without one is not used for VFT")


class TaskConfig(Settings):
    """Which questions, and where they come from: a task, or a mixture of several."""

    name: TaskName = Field(description="how questions are read, asked and checked")
    called: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = Field(
        None, description="its name in records and reports; the task's unless told"
    )
    train_file: Path | None = Field(
        None, description="training questions: JSON lines, Parquet, a saved Hugging Face dataset, or hf:NAME:SPLIT"
    )
    test_file: Path | None = Field(None, description="held-out questions, likewise; alone: a task never trained on")
    train_questions: Annotated[int, Field(ge=0)] | None = Field(
        None, description="use this many training questions; arithmetic makes 2000 unless told"
    )
    test_questions: Annotated[int, Field(ge=0)] | None = Field(
        None, description="use this many held-out questions; arithmetic makes 500 unless told"
    )
    references: Positive | None = Field(
        None,
        description="keep the reference chain of only the first N training questions, as where answers are cheap and chains dear",
    )
    weight: Annotated[float, Field(gt=0, le=100)] = Field(
        1.0, description="passes over this task's training questions in an epoch: 0.5 takes half of them, 2 each of them twice"
    )
    template: str | None = Field(
        None, description="the plain prompt, with {question} in it (options included); the task's own unless told"
    )
    difficulty: Annotated[int, Field(ge=1, le=6)] = Field(2, description="arithmetic: events of a story, less one")
    held_out_split: Literal["test", "validation"] = Field(
        "test", description="evaluate on test, or (arithmetic) on validation while choosing settings"
    )
    fields: FieldsConfig = FieldsConfig()
    answer: Annotated[str, Field(pattern=rf"^(number|choice|expression|text|{FUNCTION})$")] = Field(
        "number",
        description="custom: number, choice, expression, text, or the user's module:name(completion, gold) -> bool | None",
    )
    parts: tuple["TaskConfig", ...] = Field((), description="mixture: its tasks")

    @property
    def label(self) -> str:
        return self.called or self.name

    def deciding(self) -> dict[str, Any]:
        """As JSON, what questions are made by, beside what files hold: not where those lie, nor how often training sees one."""
        beside = {"weight": True, "train_file": True, "test_file": True}
        return self.model_dump(mode="json", exclude=beside | {"parts": {"__all__": beside}})

    @property
    def single(self) -> tuple["TaskConfig", ...]:
        """The tasks themselves, whether this is one or a mixture."""
        return self.parts if self.name == "mixture" else (self,)

    @property
    def weights(self) -> dict[str, float]:
        return {single.label: single.weight for single in self.single}

    @model_validator(mode="after")
    def _what_it_needs_is_there(self) -> "TaskConfig":
        if (self.name == "mixture") != bool(self.parts):
            raise ValueError("task mixture needs parts, and no other task has any")
        if any(part.name == "mixture" for part in self.parts):
            raise ValueError("a part of a mixture is no mixture itself")
        if self.name not in ("arithmetic", "mixture") and self.train_file is None and self.test_file is None:
            raise ValueError(f"task {self.name} needs train_file or test_file, or both")
        if self.template is not None and self.template.count("{question}") != 1:
            raise ValueError("template: {question} must stand in it once")
        if (self.answer == "choice") != (self.fields.choices is not None) and self.name == "custom":
            raise ValueError("answer choice needs fields.choices, and no other kind of answer has any")
        labels = [single.label for single in self.single]
        if len(set(labels)) < len(labels):
            raise ValueError(f"two parts are called the same, tell them apart by called: {', '.join(sorted(labels))}")
        return self


class PromptConfig(Settings):
    """What stands around a question, the same in training, sampling and scoring."""

    chat: bool = Field(False, description="by the model's own chat template instead of the task's plain one")
    few_shot: Annotated[int, Field(ge=0, le=64)] = Field(
        0, description="examples before each question: training questions with reference, which are then not trained on"
    )


class LoraConfig(Settings):
    """Low-rank adapters (arXiv 2106.09685): of a linear layer's W + alpha / rank * B A only A and B are trained."""

    rank: Positive = Field(16, description="rows of A, columns of B")
    alpha: Positive = Field(32, description="the product counts alpha / rank")
    target: tuple[Column, ...] = Field(
        (), description="linear layers that get one, by name, as in q_proj,v_proj; all but the output layer unless told"
    )


class TrainingConfig(Settings):
    """What VFT and alignment share."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        2e-5, description="peak, reached after the warm-up, then a cosine to 0"
    )
    epochs: Positive = Field(3, description="passes over the questions")
    questions_per_step: Positive = Field(128, description="global batch: questions per optimizer step, over all workers")
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = Field(0.03, description="share of all steps in which the rate rises")
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    gradient_clipping: Annotated[float, Field(ge=0)] = Field(1.0, description="largest norm of the global gradient; 0: none")
    lora: LoraConfig | None = Field(
        None, description="train low-rank adapters, merged into the model at the end, in place of all weights"
    )
    max_tokens: Positive = Field(1024, description="a prompt with one chain that is longer is left out, and counted")
    tokens_per_micro_batch: Positive = Field(
        8192, description="padded tokens that a worker computes at a time; a question with more goes in parts, in two passes"
    )
    steps_per_checkpoint: Positive = Field(200, description="optimizer steps between two checkpoints to resume from")
    minutes_per_checkpoint: Annotated[float, Field(gt=0)] = Field(30.0, description="and no more minutes than these")

    def deciding(self) -> dict[str, Any]:
        """As JSON, what a model is trained by: not how that is divided into passes and starts, which changes but rounding."""
        beside = {"tokens_per_micro_batch", "steps_per_checkpoint", "minutes_per_checkpoint"}
        return self.model_dump(mode="json", exclude=beside)


class SamplingConfig(Settings):
    """How chains of thought are sampled for every question, and how they are labelled."""

    k: Annotated[int, Field(ge=1, le=1024)] = Field(6, description="chains per question")
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    top_p: Share = 1.0
    max_prompt_tokens: Positive = Field(512, description="a question whose prompt is longer is not asked, and counted")
    max_new_tokens: Positive = Field(256, description="a chain is cut off there")
    sample_from: Literal["vft", "base"] = Field(
        "vft", description="the model that the first round samples; VFT is left out where nothing needs it"
    )
    candidates_file: Path | None = Field(
        None, description="chains from elsewhere for training questions, which are then not sampled (docs/candidates.md)"
    )
    only_given: bool = Field(False, description="train on the questions of candidates_file alone, and sample no others")

    @model_validator(mode="after")
    def _something_is_given(self) -> "SamplingConfig":
        if self.only_given and self.candidates_file is None:
            raise ValueError("only_given needs a candidates_file")
        return self


class LabellingConfig(Settings):
    """How chains become positives and negatives."""

    unknown_ended: Literal["negative", "dropped"] = Field(
        "negative", description="a chain that ended by itself and whose answer could not be told"
    )
    unknown_cut_off: Literal["negative", "dropped"] = Field("dropped", description="a chain that was cut off at max_new_tokens")
    unknown_check: Literal["negative", "dropped"] = Field("dropped", description="a chain whose check hung, crashed or gave up")
    false_equations: Literal["keep", "drop"] = Field(
        "keep", description="drop: a chain with the right answer and a false <<a=b>> is no positive (as RFT does)"
    )
    duplicates: Literal["text", "equations"] = Field(
        "text", description="equations: chains of the same answer and the same list of equations are the same (as RFT does)"
    )
    check_seconds: Annotated[float, Field(gt=0)] = Field(5.0, description="limit of a single check")
    reward: Annotated[str, Field(pattern=f"^{FUNCTION}$")] | None = Field(
        None, description="a function module:name(question, completion, gold) -> float that ranks the chains of a question"
    )


class AlignmentConfig(TrainingConfig):
    """L = vft_weight * L_VFT + weight * L_A."""

    loss: Annotated[str, Field(pattern=rf"^({'|'.join(LOSSES)}|{FUNCTION})$")] = Field(
        "bc", description=f"L_A (docs/losses.md): {', '.join(LOSSES)}, or a function of yours as module:name"
    )
    beta: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="of the losses with a boundary: it lies this far below the worst positive, nats per token; auto: found from "
        "the sampler's own scores, with no search",
    )
    options: dict[str, float] = Field({}, description="of the loss, by name, as in {gamma: 0.5} for simpo")
    weight: Annotated[float, Field(ge=0)] = Field(1.0, description="of L_A")
    vft_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="of L_VFT")
    vft_covers: Literal["reference", "reference+positives"] = Field("reference", description="the chains that L_VFT runs over")
    start_from: Literal["vft", "base"] = Field("vft", description="the model that alignment starts from")


class EvaluationConfig(Settings):
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(0.95, description="of the intervals")
    samples: bool = Field(
        True, description="sample k chains of each held-out question from the aligned model too, for maj@k and pass@k"
    )


class ResourcesConfig(Settings):
    """What the run takes of the cluster."""

    training_workers: Annotated[int, Field(ge=0)] = Field(
        2, description="Ray Train workers, one process each; 0: in this process, without recovery, for small models"
    )
    fewest_training_workers: Positive | None = Field(
        None, description="train with as few as these while there is no room for all, and with more when there is; else wait"
    )
    sampling_actors: tuple[Positive, Positive] = Field((1, 2), description="smallest and largest number of vLLM actors")
    gpus_per_training_worker: Annotated[int, Field(ge=0, le=1)] = Field(0, description="0: on the CPU; a worker has one GPU")
    gpus_per_sampling_actor: Annotated[int, Field(ge=0)] = Field(0, description="vLLM's tensor-parallel size; 0: on the CPU")
    cpus_per_training_worker: Annotated[float, Field(gt=0)] = 1
    cpus_per_sampling_actor: Annotated[float, Field(gt=0)] = Field(
        0.5, description="what Ray sets aside; fractions leave room for readers"
    )
    zero_stage: Annotated[int, Field(ge=0, le=3)] = Field(2, description="DeepSpeed: what is partitioned over the workers")
    offload: Literal["nothing", "optimizer", "optimizer+parameters"] = Field(
        "nothing", description="DeepSpeed: what waits in the host's memory and not the GPU's; parameters: with zero_stage 3"
    )
    activation_checkpointing: bool = Field(False, description="recompute activations in backward: less memory, a third more work")
    attempts: Annotated[int, Field(ge=2, le=10)] = Field(
        3, description="times that a question is asked, the last time alone, before it is given up and becomes a dead letter"
    )
    engine_seconds: Annotated[float, Field(gt=0)] = Field(
        600.0, description="an engine that in so long has not started, finished no request, or on a CPU made no step, is replaced"
    )
    kv_cache_gib: Positive = Field(1, description="vLLM on the CPU: its cache, per actor")
    max_failures: Annotated[int, Field(ge=0)] = Field(3, description="times that training goes on from its last checkpoint")

    @property
    def least_training_workers(self) -> int:
        return self.training_workers if self.fewest_training_workers is None else self.fewest_training_workers

    @model_validator(mode="after")
    def _fits_together(self) -> "ResourcesConfig":
        if self.sampling_actors[0] > self.sampling_actors[1]:
            raise ValueError("sampling_actors: the smallest number must not be above the largest")
        if self.least_training_workers > self.training_workers:
            raise ValueError("fewest_training_workers must not be above training_workers")
        least = least_zero_stage(self.offload)
        if self.zero_stage < least:
            raise ValueError(f"offload: {self.offload} needs a zero_stage of at least {least}, this is {self.zero_stage}")
        return self


def least_zero_stage(offload: str) -> int:
    """The lowest stage in which DeepSpeed can offload that."""
    return {"nothing": 0, "optimizer": 1, "optimizer+parameters": 3}[offload]


class TrackingConfig(Settings):
    """Who else is told of a run while it goes on. Their own settings are their own environment variables (docs/tracking.md)."""

    to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field((), description="any of tensorboard, mlflow, wandb")


class RunConfig(Settings):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(description="of its directory in runs_dir")
    runs_dir: PlaceSetting = Field(
        Path("runs"), description="where runs live: a disk that every node sees, or an object store, as in s3://bucket/runs"
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    model: ModelConfig
    task: TaskConfig
    prompt: PromptConfig = PromptConfig()
    vft: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    labelling: LabellingConfig = LabellingConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    rounds: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description="times that the model of last is sampled, and aligned on what it says now"
    )
    evaluation: EvaluationConfig = EvaluationConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _a_chain_fits(self) -> "RunConfig":
        if self.alignment.max_tokens <= self.sampling.max_new_tokens:
            raise ValueError("alignment.max_tokens must exceed sampling.max_new_tokens, or sampled chains are left out")
        return self

    @model_validator(mode="after")
    def _gradients_are_summed_in_fp32(self) -> "RunConfig":
        """Without ZeRO DeepSpeed sums those of bf16 in bf16, where small ones are lost."""
        if self.model.precision == "bf16" and self.resources.zero_stage == 0:
            raise ValueError("resources.zero_stage must be at least 1 where model.precision is bf16")
        return self


def load_yaml(path: Path | UPath) -> dict[str, Any]:
    """The settings in a YAML file, not yet validated. Raises ValueError where it holds no mapping."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML ({error})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected a mapping of settings, found {type(settings).__name__}")
    return settings
