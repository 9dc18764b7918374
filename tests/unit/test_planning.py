"""What a run will need, against what is counted and published elsewhere, and against real forward passes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig
from typer.testing import CliRunner

from aft_ray.cli import DOES_NOT_FIT, app, load_job
from aft_ray.config import (
    AlignmentConfig,
    LoraConfig,
    ModelConfig,
    ResourcesConfig,
    RunConfig,
    TaskConfig,
    TrainingConfig,
)
from aft_ray.planning.gpus import GPUS
from aft_ray.planning.lengths import find_lengths
from aft_ray.planning.memory import PROCESS, Memory, cache_tokens, loaded_at_once, sampling_memory, training_memory
from aft_ray.planning.plan import Machine, make_plan
from aft_ray.planning.shape import ModelShape, group
from aft_ray.planning.work import Lengths, stages_of, training
from aft_ray.preflight import check_parallel
from aft_ray.tasks import BadInputError, read_questions
from aft_ray.training.adapters import with_adapters
from aft_ray.training.attention import SHARED_PROMPT, attention_arguments
from aft_ray.training.batches import make_batch

ROOT = Path(__file__).parent.parent.parent
SHAPES = ROOT / "jobs" / "shapes"
GSM8K = Lengths(train=7473, references=7473, held_out=1319, prompt=110, chain=130)
NODE = Machine(GPUS["h100-80"], 8, 1e12, 2.5, 0.35, 0.1)


@pytest.fixture(scope="module")
def shapes() -> dict[str, ModelShape]:
    return {name: ModelShape(SHAPES / f"llama2_{name}") for name in ("7b", "13b", "70b")}


def test_parameters_are_those_that_are_published(shapes):
    """As transformers counts them in the released models."""
    assert {name: shape.parameters for name, shape in shapes.items()} == {
        "7b": 6_738_415_616, "13b": 13_015_864_320, "70b": 68_976_648_192
    }  # fmt: skip


def test_the_cache_is_that_of_the_heads(shapes):
    """Keys and values of a token: 2 * layers * heads * 128 * 2 bytes."""
    assert shapes["7b"].kv_bytes(2) == 2 * 32 * 32 * 128 * 2
    assert shapes["70b"].kv_bytes(2) == 2 * 80 * 8 * 128 * 2


@pytest.mark.parametrize(("chains", "questions", "lora"), [(6, 2, None), (1, 3, None), (6, 2, LoraConfig(rank=8))])
def test_activations_are_what_a_real_forward_pass_keeps(tiny_llama, chains, questions, lora):
    """Counted on the meta device against the same hooks on a real model, all of its layers, in fp32."""
    shape, example = ModelShape(tiny_llama), group(20, 30, chains)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).train()
    if lora is not None:
        model = with_adapters(model, lora)
    model.set_attn_implementation(SHARED_PROMPT)
    batch = make_batch([replace(example, question_id=str(number)) for number in range(questions)], "flat")
    own, kept = {parameter.data_ptr() for parameter in model.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    arguments = attention_arguments(batch, model)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.base_model(
            input_ids=batch.input_ids_RL, position_ids=batch.position_ids_RL, use_cache=False, **arguments
        ).last_hidden_state
    assert output.requires_grad
    found = shape.activations(example, questions, torch.float32, lora=lora)
    expected = sum(size for _, size in kept.values())
    assert shape.layers * found.of_layer == pytest.approx(expected, rel=0.1)


def test_on_a_gpu_a_layer_keeps_what_fused_kernels_keep(shapes):
    """By hand, of Llama-2-7B in bf16: inputs and outputs of two norms, queries, keys, values, attention's output, which lies as
    the projection reads it; gate, up and their product; in fp32 a number a token of each norm, and one a head of attention."""
    found = shapes["7b"].activations(group(256, 256, 7), 2, torch.bfloat16, on_gpu=True)
    tokens = 2 * (256 + 7 * 256)
    assert tokens % 128 == 0, "a pack is not padded then"
    expected = tokens * (2 * (8 * 4096 + 3 * 11008) + 4 * (2 + 32))
    assert found.of_layer == pytest.approx(expected, rel=0.01)
    assert found.of_layer < shapes["7b"].activations(group(256, 256, 7), 2, torch.bfloat16).of_layer


def test_tracing_needs_no_weights(shapes):
    assert {parameter.device.type for parameter in shapes["70b"].model.parameters()} == {"meta"}
    assert shapes["70b"].activations(group(256, 256, 7), 2, torch.bfloat16).of_layer > 0


def memory_of(shape, **settings):
    resources = ResourcesConfig(training_workers=8, gpus_per_training_worker=1, **settings)
    return training_memory(shape, TrainingConfig(), resources, "bf16", group(256, 256, 1))


def test_each_zero_stage_divides_more(shapes):
    """Table 1 of the ZeRO paper (arXiv 1910.02054), for 8 ranks; here the gradients are summed in fp32."""
    count = shapes["7b"].parameters
    stages = [memory_of(shapes["7b"], zero_stage=stage) for stage in (0, 1, 2, 3)]
    assert [memory.optimizer for memory in stages] == [12 * count, 12 * count / 8, 12 * count / 8, 12 * count / 8]
    assert stages[0].parameters == stages[1].parameters == stages[2].parameters == 2 * count
    assert stages[3].parameters == 2 * count / 8 + 2 * 10**9
    assert stages[2].gradients < stages[1].gradients
    assert stages[0].device > stages[1].device > stages[2].device > stages[3].device


def test_a_model_that_cannot_share_prompts_makes_whole_logits(tmp_path):
    """By hand: at each of 8192 tokens, before which some prompt may end, 50,000 logits, in fp32 and in backward four of them."""
    sizes = {"vocab_size": 50_000, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    found = {}
    for window in (4096, 512):
        MistralConfig(**sizes, num_key_value_heads=1, sliding_window=window).save_pretrained(tmp_path)
        settings = TrainingConfig(max_tokens=1024), ResourcesConfig(gpus_per_training_worker=1), "bf16", group(128, 64, 6)
        found[window] = training_memory(ModelShape(tmp_path), *settings).activations
    whole = 16 * 8192 * 50_000
    assert whole < found[512] < 1.1 * whole
    assert found[4096] < 0.7 * found[512]


def test_shorter_questions_fill_a_micro_batch_that_the_longest_leaves_half_empty(shapes):
    """Of the longest one or two have room, of others more."""
    resources = ResourcesConfig(training_workers=8, gpus_per_training_worker=1)
    two, one = (
        training_memory(shapes["7b"], TrainingConfig(tokens_per_micro_batch=8192), resources, "bf16", group(256, chain, 15))
        for chain in (256, 273)
    )
    assert one.activations == pytest.approx(two.activations, rel=0.01)


def test_a_rank_loads_its_share_and_for_a_moment_the_largest_parameter_whole(shapes, tiny_llama):
    """By hand; where the head is tied, it had a share of its own before."""
    assert loaded_at_once(shapes["70b"], 8) == shapes["70b"].parameters / 8 + 32_000 * 8192
    tiny = ModelShape(tiny_llama)
    assert tiny.config.tie_word_embeddings
    shared, largest = tiny.parameters + tiny.vocabulary * tiny.hidden, tiny.text.intermediate_size * tiny.hidden
    assert loaded_at_once(tiny, 2) == shared / 2 + largest
    assert loaded_at_once(tiny, 1) == tiny.parameters


def test_what_a_load_takes_for_a_moment_counts_where_training_takes_less():
    """A large vocabulary, two ranks, adapters only: 1.5 of the embeddings more than the share."""
    memory = Memory(parameters=5e9, gradients=0.0, optimizer=0.0, activations=1e9, buffers=0.0, process=1e9, loading=8e9)
    assert memory.device == 9e9
    assert replace(memory, activations=4e9).device == 10e9


def test_offloading_moves_to_the_host_and_recomputing_saves_activations(shapes):
    plain, offloaded = memory_of(shapes["7b"], zero_stage=3), memory_of(shapes["7b"], zero_stage=3, offload="optimizer")
    assert offloaded.optimizer == 0
    assert offloaded.host > 12 * shapes["7b"].parameters / 8 > plain.host
    recomputed = memory_of(shapes["7b"], zero_stage=3, activation_checkpointing=True)
    assert recomputed.activations < plain.activations / 5


@pytest.mark.parametrize("target", [(), ("q_proj", "v_proj")])
def test_adapters_are_as_large_as_those_that_are_put_in(tiny_llama, target):
    lora = LoraConfig(rank=4, target=target)
    model = with_adapters(AutoModelForCausalLM.from_pretrained(tiny_llama), lora)
    assert ModelShape(tiny_llama).trained(lora) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_adapters_take_the_memory_of_gradients_and_optimizer_and_a_third_of_the_work_away(shapes, on_gpu):
    """By hand, of Llama-2-7B at rank 16: 16 * (in + out) of the seven layers of a block."""
    shape, lora = shapes["7b"], LoraConfig(rank=16)
    trained = 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    resources = ResourcesConfig(training_workers=8, gpus_per_training_worker=int(on_gpu), zero_stage=2)
    full, adapted = (
        training_memory(shape, TrainingConfig(lora=setting), resources, "bf16", group(256, 256, 1)) for setting in (None, lora)
    )
    assert adapted.parameters == full.parameters + 2 * trained
    assert adapted.optimizer == (12 if on_gpu else 16) * trained / 8
    assert adapted.gradients == 4 * trained / 8 + 2 * trained
    assert adapted.device < full.device - 12 * shape.parameters / 8
    flops = [training("align", shape, GSM8K, 1000, 7, setting).flops for setting in (None, lora)]
    assert flops[1] == pytest.approx(flops[0] * 2 / 3, rel=0.05)


def test_tensor_parallelism_leaves_more_room_for_the_cache(shapes):
    tokens = []
    for parallel in (4, 8):
        resources = ResourcesConfig(gpus_per_sampling_actor=parallel)
        memory = sampling_memory(shapes["70b"], resources, "bf16", 80e9)
        assert memory.device == pytest.approx(0.92 * 80e9)
        tokens.append(cache_tokens(shapes["70b"], memory, resources, "bf16"))
    assert tokens[1] > 2 * tokens[0]


def test_the_work_is_six_flops_a_weight_and_token(shapes):
    work = training("align", shapes["7b"], GSM8K, questions=1000, chains=7)
    assert work.tokens == 1000 * (110 + 7 * 130)
    assert work.flops == pytest.approx(6 * shapes["7b"].parameters * work.tokens, rel=0.05)


def test_questions_with_candidates_of_ones_own_are_not_sampled(shapes):
    job = load_job(ROOT / "jobs" / "quickstart.py")
    sampling = job.sampling.model_copy(update={"candidates_file": Path("chains.jsonl")})
    some = job.model_copy(update={"sampling": sampling, "rounds": 2})
    only = some.model_copy(update={"sampling": sampling.model_copy(update={"only_given": True})})
    a_question = 110 + job.sampling.k * 130
    given = replace(GSM8K, given=473, given_chains=2 * job.sampling.k, held_out=0)
    found = {work.name: work for work in stages_of(some, shapes["7b"], given)}
    assert found["sample"].tokens == 7000 * a_question
    assert found["sample-2"].tokens == 7473 * a_question
    alone = {work.name: work for work in stages_of(only, shapes["7b"], given)}
    assert "sample" not in alone
    assert "vft" in alone
    of_base = only.model_copy(update={"alignment": only.alignment.model_copy(update={"start_from": "base"})})
    assert "vft" not in [work.name for work in stages_of(of_base, shapes["7b"], given)], "nothing is sampled from it"
    assert alone["held-out"].tokens == 0
    assert alone["sample-2"].tokens == 473 * a_question
    assert alone["align"].tokens == 473 * job.alignment.epochs * (110 + (2 * job.sampling.k + 1) * 130)
    assert alone["align-2"].tokens == 473 * job.alignment.epochs * (110 + (job.sampling.k + 1) * 130)


@pytest.mark.parametrize(
    ("loss", "precision", "given", "passes"),
    [
        ("bc", "bf16", 0, []),
        ("dpo", "fp32", 0, []),
        ("dpo", "bf16", 0, ["reference", "reference-2"]),
        ("dpo", "fp32", 10, ["reference"]),
    ],
)
def test_a_pass_for_reference_log_likelihoods_is_a_third_of_an_epoch(shapes, loss, precision, given, passes):
    job = load_job(ROOT / "jobs" / "quickstart.py")
    model, alignment = job.model.model_copy(update={"precision": precision}), job.alignment.model_copy(update={"loss": loss})
    config = job.model_copy(update={"model": model, "alignment": alignment, "rounds": 2})
    work = {
        stage.name: stage for stage in stages_of(config, shapes["7b"], replace(GSM8K, given=given, given_chains=job.sampling.k))
    }
    assert [name for name in work if name.startswith("reference")] == passes
    for name in passes:
        assert work[name].tokens == 7473 * (110 + job.sampling.k * 130)
        assert work[name].flops == pytest.approx(2 * shapes["7b"].parameters * work[name].tokens, rel=0.05)


def test_a_question_is_counted_as_often_as_its_weight_says(shapes):
    config = RunConfig(name="x", model=ModelConfig(path=Path("jobs/tiny_llama")), task=TaskConfig(name="arithmetic"))
    once = {work.name: work.tokens for work in stages_of(config, shapes["7b"], GSM8K)}
    often = {work.name: work.tokens for work in stages_of(config, shapes["7b"], replace(GSM8K, passes=2, reference_passes=3))}
    assert {name: often[name] / once[name] for name in once} == {"vft": 3, "sample": 1, "align": 2, "evaluate-aft": 1}


def test_weights_are_those_of_the_questions_that_are_there(tmp_path):
    """By hand: of 8 training questions 6 count a half and 2 three times; of those with references, 1 and 2."""
    sizes = (("light", 6, 1, 0.5, 1), ("heavy", 2, 2, 3.0, 3))
    parts = tuple(
        TaskConfig(
            name="arithmetic", called=name, train_questions=train, test_questions=1, references=references, weight=weight,
            difficulty=difficulty,
        )
        for name, train, references, weight, difficulty in sizes
    )  # fmt: skip
    model = ModelConfig(path=ROOT / "jobs" / "tiny_llama")
    config = RunConfig(name="x", model=model, task=TaskConfig(name="mixture", parts=parts))
    found = find_lengths(config, None, None, None, None)
    assert (found.train, found.references) == (8, 3)
    assert found.passes == (6 * 0.5 + 2 * 3) / 8
    assert found.reference_passes == (0.5 + 2 * 3) / 3
    assert find_lengths(config, 100, 10, 50.0, 60.0).passes == (0.5 + 3) / 2


def test_questions_with_candidates_are_counted_in_their_file(tmp_path):
    job, file = load_job(ROOT / "jobs" / "quickstart.py"), tmp_path / "chains.jsonl"
    asked = read_questions(job.task, job.seed).train[:3]
    file.write_text("\n".join(json.dumps({"question_id": question.question_id, "candidates": ["2", "3"]}) for question in asked))
    of_file = job.model_copy(update={"sampling": job.sampling.model_copy(update={"candidates_file": file})})
    found = find_lengths(of_file, None, None, None, None)
    assert (found.given, found.given_chains) == (3, 2.0)
    assert find_lengths(job, None, None, None, None).given == 0
    file.unlink()
    with pytest.raises(BadInputError, match=r"chains\.jsonl: cannot be read"):
        find_lengths(of_file, None, None, None, None)


@pytest.mark.parametrize("name", ["7b", "13b", "70b"])
def test_the_jobs_fit_where_they_say(shapes, name):
    config = load_job(ROOT / "jobs" / f"aft_llama{name}.py")
    plan = make_plan(config, shapes[name], GSM8K, NODE)
    assert plan.fits, [stage.faults for stage in plan.stages]
    assert [stage.work.name for stage in plan.stages] == ["vft", "sample", "align", "evaluate-aft"]


def changed(config: RunConfig, **resources) -> RunConfig:
    return config.model_copy(update={"resources": config.resources.model_copy(update=resources)})


def test_what_does_not_fit_is_told_with_the_nearest_that_does(shapes):
    config = load_job(ROOT / "jobs" / "aft_llama70b.py")
    plan = make_plan(changed(config, offload="nothing", training_workers=8), shapes["70b"], GSM8K, NODE)
    (vft, _, align, _) = plan.stages
    assert "resources.offload = optimizer" in vft.faults[0]
    assert "resources.offload = optimizer" in align.faults[0]
    told = dict(pair.split(" = ") for pair in vft.faults[0].partition("this would: ")[2].split(", "))
    assert told.keys() == {"resources.offload", "resources.training_workers"}
    more = changed(config, offload=told["resources.offload"], training_workers=int(told["resources.training_workers"]))
    assert make_plan(more, shapes["70b"], GSM8K, NODE).fits, "what was said to fit does"
    plan = make_plan(changed(config, gpus_per_sampling_actor=1), shapes["70b"], GSM8K, NODE)
    assert "resources.gpus_per_sampling_actor = 2 would" in plan.stages[1].faults[0]
    plan = make_plan(changed(config, gpus_per_sampling_actor=16), shapes["70b"], GSM8K, NODE)
    assert "a node has 8" in plan.stages[1].faults[0]


def test_a_model_is_divided_over_whole_heads_as_vllm_does(shapes, tmp_path):
    """Llama's attention in vLLM: heads % n == 0, and kv_heads % n == 0 or n % kv_heads == 0."""
    assert shapes["7b"].parallel_sizes == [1, 2, 4, 8, 16]
    assert shapes["13b"].parallel_sizes == [1, 2, 4, 5, 8, 10]
    assert shapes["70b"].parallel_sizes == [1, 2, 4, 8, 16]
    of_28 = json.loads((SHAPES / "llama2_70b" / "config.json").read_text()) | {
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    }
    (tmp_path / "config.json").write_text(json.dumps(of_28 | {"hidden_size": 28 * 128, "head_dim": 128}))
    shape, config = ModelShape(tmp_path), load_job(ROOT / "jobs" / "aft_llama70b.py")
    assert shape.parallel_sizes == [1, 2, 4]
    plan = make_plan(changed(config, gpus_per_sampling_actor=8), shape, GSM8K, NODE)
    assert "28 attention heads (4 of keys) cannot be divided over 8 GPUs" in plan.stages[1].faults[0]
    with pytest.raises(BadInputError, match="gpus_per_sampling_actor = 1, 2, 4 can"):
        check_parallel(
            changed(config, gpus_per_sampling_actor=8).model_copy(update={"model": ModelConfig(path=tmp_path, precision="bf16")})
        )


def test_an_engine_lies_on_one_node(shapes):
    config = changed(load_job(ROOT / "jobs" / "aft_llama13b.py"), gpus_per_sampling_actor=5, sampling_actors=(1, 8))
    (sample,) = [stage for stage in make_plan(config, shapes["13b"], GSM8K, NODE).stages if stage.work.name == "sample"]
    assert (sample.gpus, sample.nodes) == (40, 8)


def test_the_sums_that_wait_on_the_host_are_rounded_up_as_pytorch_does(shapes):
    def of(workers):
        resources = ResourcesConfig(training_workers=workers, gpus_per_training_worker=1, zero_stage=3, offload="optimizer")
        return training_memory(shapes["70b"], AlignmentConfig(), resources, "bf16", group(256, 256, 6)).host

    share = shapes["70b"].parameters / 16
    assert of(16) - PROCESS["train"] == pytest.approx((12 + 8) * share + 2**35 - 4 * share)


def test_a_larger_group_than_the_budget_needs_no_more_memory(shapes):
    resources = ResourcesConfig(training_workers=8, gpus_per_training_worker=1, zero_stage=3)
    training_of = AlignmentConfig(tokens_per_micro_batch=4096)
    memory = [training_memory(shapes["7b"], training_of, resources, "bf16", group(256, 256, k)).activations for k in (15, 64)]
    assert memory[1] <= memory[0]


def test_the_command_prints_the_plan_and_says_what_is_missing(monkeypatch, tmp_path):
    run, shape = CliRunner(), ["--model-config", str(SHAPES / "llama2_70b")]
    lengths = ["--questions", "7473", "--held-out", "1319", "--prompt-tokens", "110", "--chain-tokens", "130"]
    monkeypatch.setenv("COLUMNS", "200")
    fits = run.invoke(app, ["plan", str(ROOT / "jobs" / "aft_llama70b.py"), *shape, *lengths, "--price", "2"])
    assert fits.exit_code == 0, fits.output
    assert "69 B parameters" in fits.output
    assert "Fits." in fits.output
    small = run.invoke(app, ["plan", str(ROOT / "jobs" / "aft_llama70b.py"), *shape, *lengths, "--host-gb", "500"])
    assert small.exit_code == DOES_NOT_FIT
    assert "Does not fit" in small.output
    missing = run.invoke(app, ["plan", str(ROOT / "jobs" / "aft_llama70b.py"), *shape])
    assert missing.exit_code == 2
    assert "is not here: say with --questions" in missing.output
    whole = run.invoke(app, ["plan", str(ROOT / "jobs" / "quickstart.py")])
    assert whole.exit_code == 0, whole.output
    assert "1,200 to train (400 with reference)" in whole.output
    job = load_job(ROOT / "jobs" / "quickstart.py")
    wrong = job.model_copy(update={"vft": job.vft.model_copy(update={"lora": LoraConfig(target=("c_attn",))})})
    (tmp_path / "job.json").write_text(wrong.model_dump_json())
    unknown = run.invoke(app, ["plan", str(tmp_path / "job.json")])
    assert unknown.exit_code == 2
    assert "lora.target: no linear layer is called c_attn; there are: down_proj" in unknown.output
    elsewhere = job.model_copy(update={"model": ModelConfig(path=tmp_path)})
    (tmp_path / "elsewhere.json").write_text(elsewhere.model_dump_json())
    no_model = run.invoke(app, ["plan", str(tmp_path / "elsewhere.json"), *lengths])
    assert no_model.exit_code == 2
    assert "config.json: not there; --model-config names a directory with one" in no_model.output
    directory = run.invoke(app, ["plan", str(tmp_path)])
    assert directory.exit_code == 2
    assert "a directory; a run's job is its config.json" in directory.output
    nothing = run.invoke(app, ["plan", str(ROOT / "jobs" / "make_tiny_llama.py"), *lengths])
    assert nothing.exit_code == 2
    assert "no JOB" in nothing.output
