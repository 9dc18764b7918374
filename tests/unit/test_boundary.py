"""`beta: auto`: where the boundary comes from, record by record."""

import numpy as np
import pytest

from aft_ray.config import AlignmentConfig, ModelConfig, ResourcesConfig
from aft_ray.training.job import TrainingJob
from aft_ray.training.worker import load_examples
from schemas import Candidate, CandidateGroup, Question, write_parquet


def group(task: str, number: int, scores: list[float | None]) -> CandidateGroup:
    """Two tokens a chain."""
    question = Question(
        question_id=f"{task}-{number}", task=task, split="train", text="?", gold="1", reference=None, prompt_ids=(1,)
    )
    candidates = tuple(
        Candidate(
            index=index,
            text=str(index),
            token_ids=(2, 3),
            finish_reason="stop",
            log_likelihood=None if score is None else 2 * score,
            label="negative" if index else "positive",
            rank=2 if index else 1,
            reason="",
        )
        for index, score in enumerate(scores)
    )
    return CandidateGroup(question=question, candidates=candidates, model="m", seed=0, temperature=1, top_p=1, max_new_tokens=9)


def boundaries_of(groups: list[CandidateGroup], folder, loss: str = "bc") -> dict[str, float | None]:
    write_parquet(folder / "groups.parquet", CandidateGroup, groups)
    job = TrainingJob(
        model=ModelConfig(path=folder),
        training=AlignmentConfig(loss=loss, beta="auto"),
        resources=ResourcesConfig(),
        seed=0,
        task_weights={},
        records=folder,
        out=folder,
        counter=None,
    )
    return {example.question_id: example.boundary for example in load_examples(job)[0]}


def test_every_task_has_the_quantile_of_its_own_samples(tmp_path):
    draw = np.random.default_rng(0)
    scores = {"easy": -draw.random((9, 4)), "hard": -5 - draw.random((9, 4))}
    groups = [group(task, number, list(row)) for task, rows in scores.items() for number, row in enumerate(rows)]
    found = boundaries_of(groups, tmp_path)
    assert len(found) == 18
    for question_id, boundary in found.items():
        of_task = scores[question_id.partition("-")[0]].ravel()
        below = np.sort(of_task)[:3]  # 5 % of 36 samples lie below: one or two
        assert below[0] < boundary < below[2]


def test_chains_of_which_the_sampler_said_nothing_do_not_count(tmp_path):
    found = boundaries_of([group("t", 0, [-1.0, -1.0, None]), group("t", 1, [None, None])], tmp_path)
    assert found == {"t-0": pytest.approx(-1.0), "t-1": pytest.approx(-1.0)}


def test_without_samples_there_is_no_boundary_to_find(tmp_path):
    with pytest.raises(ValueError, match="set a number"):
        boundaries_of([group("t", 0, [None, None])], tmp_path)


def test_a_loss_without_a_boundary_gets_none(tmp_path):
    assert boundaries_of([group("t", 0, [-1.0, -2.0])], tmp_path, "dpo") == {"t-0": None}


def test_a_task_whose_chains_all_came_from_a_file_takes_the_boundary_of_the_others(tmp_path):
    found = boundaries_of([group("sampled", 0, [-1.0, -1.0]), group("given", 0, [None, None])], tmp_path)
    assert found == {"sampled-0": pytest.approx(-1.0), "given-0": pytest.approx(-1.0)}
