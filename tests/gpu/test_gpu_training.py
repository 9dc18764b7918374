"""A training worker with a GPU, with all that saves memory there, against a plain loop of torch on the CPU; and its recovery."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from aft_ray.config import ModelConfig, ResourcesConfig
from aft_ray.training import worker
from aft_ray.training.trainer import run_training
from tests.faults.test_checkpoints import checkpoints, history, job, stopped_at, weights
from tests.integration.test_training import assert_as_by_hand, groups_and_by_hand, job_on

__all__ = ["groups_and_by_hand", "job"]
ONE_GPU = {"training_workers": 1, "gpus_per_training_worker": 1}


@pytest.mark.parametrize(
    "settings",
    [
        {"zero_stage": 0},
        {"zero_stage": 2},
        {"zero_stage": 2, "offload": "optimizer"},
        {"zero_stage": 3, "activation_checkpointing": True},
        {"zero_stage": 3, "activation_checkpointing": True, "offload": "optimizer+parameters"},
    ],
)
def test_on_a_gpu_it_follows_a_plain_loop_in_packs(settings, groups_and_by_hand, tiny_llama, tmp_path, monkeypatch):
    groups, by_hand = groups_and_by_hand
    here = ONE_GPU | {"training_workers": 0}
    of_job = job_on(groups, tiny_llama, tmp_path, ResourcesConfig(**here, **settings))
    chosen, choose = [], worker.choose_layout
    monkeypatch.setattr(worker, "choose_layout", lambda *given: chosen.append(choose(*given)) or chosen[-1])
    run_training(of_job)
    assert_as_by_hand(of_job, by_hand)
    assert chosen == ["pack"]


def test_bf16_on_a_gpu_follows_fp32_as_far_as_its_digits_go(groups_and_by_hand, tiny_llama, tmp_path):
    groups, (_, losses) = groups_and_by_hand
    of_job = job_on(groups, tiny_llama, tmp_path, ResourcesConfig(**ONE_GPU | {"training_workers": 0}, zero_stage=2))
    run_training(replace(of_job, model=ModelConfig(path=tiny_llama, precision="bf16")))
    told = json.loads((tmp_path / "training.json").read_text())["history"]
    assert [step["loss"] for step in told] == pytest.approx(losses, rel=0.02)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.bfloat16


@pytest.mark.parametrize("settings", [{"zero_stage": 2}, {"zero_stage": 3}, {"zero_stage": 3, "offload": "optimizer"}])
def test_ray_train_goes_on_from_a_checkpoint_of_a_gpu(settings, job, ray_session, tmp_path, monkeypatch):
    """Stopped at step 7; it goes on from step 6, and ends where an undisturbed training ends."""
    undisturbed = replace(job, out=tmp_path / "undisturbed", resources=ResourcesConfig(**ONE_GPU, **settings))
    disturbed = replace(undisturbed, out=tmp_path / "disturbed")
    for of_job in (undisturbed, disturbed):
        of_job.out.mkdir()
    run_training(undisturbed)
    stopped_at(7, disturbed, monkeypatch)
    assert checkpoints(disturbed)
    run_training(disturbed)
    expected, found = history(undisturbed), history(disturbed)
    assert [step["loss"] for step in found] == pytest.approx([step["loss"] for step in expected], abs=1e-5)
    for name, weight in weights(disturbed).items():
        torch.testing.assert_close(weight, weights(undisturbed)[name], atol=1e-5, rtol=1e-4)


def test_the_fused_optimizer_goes_on_from_a_converted_checkpoint(job, ray_session, tmp_path, monkeypatch):
    """Two workers on CPUs wrote it, one with a GPU reads it: its steps must lie where the fused optimizer wants them."""
    of_two = replace(job, out=tmp_path, resources=ResourcesConfig(training_workers=2, zero_stage=2))
    stopped_at(7, of_two, monkeypatch)
    on_gpu = replace(of_two, resources=ResourcesConfig(**ONE_GPU, zero_stage=2))
    run_training(on_gpu)
    assert len(history(on_gpu)) == 9
    assert history(on_gpu)[-1]["loss"] < history(on_gpu)[0]["loss"]
