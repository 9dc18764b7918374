"""An engine on a GPU, behind Ray Data as in a run: whole groups, and log-likelihoods as transformers computes them in fp32."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aft_ray.config import LabellingConfig, ModelConfig, ResourcesConfig, SamplingConfig
from aft_ray.progress import Counter
from aft_ray.sampling.engine import EngineSettings
from aft_ray.sampling.stream import sample_candidates
from aft_ray.tasks import TASKS
from aft_ray.tasks.arithmetic import generate
from schemas import CandidateGroup, Question, read_parquet, write_parquet
from tests.conftest import tokenized
from tests.integration.test_run import mean_log_likelihood


def test_an_engine_on_a_gpu_samples_whole_groups(tiny_llama, ray_session, tmp_path):
    questions = tokenized(generate("train", 40, 0, 1), AutoTokenizer.from_pretrained(tiny_llama))
    (tmp_path / "questions").mkdir()
    write_parquet(tmp_path / "questions" / "questions.parquet", Question, questions)
    settings = EngineSettings(
        model=ModelConfig(path=tiny_llama, precision="bf16"),
        model_fingerprint="tiny",
        tasks=TASKS,
        labelling=LabellingConfig(),
        sampling=SamplingConfig(k=4, max_prompt_tokens=100, max_new_tokens=40),
        resources=ResourcesConfig(sampling_actors=(1, 1), gpus_per_sampling_actor=1),
        seed=0,
    )
    sample_candidates(tmp_path / "questions", tmp_path / "groups", settings, Counter.remote())
    groups = read_parquet(tmp_path / "groups", CandidateGroup)
    assert {group.question.question_id for group in groups} == {question.question_id for question in questions}
    assert all(len(group.candidates) == 4 and group.failure is None for group in groups)

    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    for group in groups[:5]:
        for candidate in group.candidates:
            expected = mean_log_likelihood(model, group.question.prompt_ids, candidate.token_ids)
            # bf16 moves a token's log-likelihood by some hundredths.
            assert candidate.score == pytest.approx(expected, abs=0.05)
