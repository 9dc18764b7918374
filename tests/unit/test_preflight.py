"""What can never work is refused before its hours are spent: a place, tokens, candidates. (Others: beside what they guard.)"""

import pytest
from transformers import AutoTokenizer

from aft_ray.config import AlignmentConfig, ModelConfig, RunConfig, SamplingConfig, TaskConfig
from aft_ray.preflight import check_candidates, check_lengths, check_tokens, check_writable
from aft_ray.tasks import BadInputError
from aft_ray.tasks.arithmetic import generate
from schemas import Candidate, CandidateGroup, write_parquet
from tests.conftest import tokenized

RANKS = {"positive": 1, "negative": 2, "dropped": None}


def test_a_directory_that_can_be_written_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "runs" / "mine")
    assert list((tmp_path / "runs" / "mine").iterdir()) == []


def test_one_below_a_file_is_refused_with_its_path_and_reason(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(BadInputError, match=r"runs/mine: cannot be written \(Not a directory\): set runs_dir"):
        check_writable(tmp_path / "runs" / "mine")


@pytest.fixture(scope="module")
def questions(tiny_llama):
    return tokenized(generate("train", 2, 0, 1), AutoTokenizer.from_pretrained(tiny_llama))


def test_a_token_that_the_model_does_not_know_is_told_by_its_question(questions, tiny_llama):
    config = RunConfig(name="x", model=ModelConfig(path=tiny_llama), task=TaskConfig(name="arithmetic"))
    check_tokens(questions, config)
    for field in ("prompt_ids", "reference_ids"):
        odd = questions[1].model_copy(update={field: (1, 99_999)})
        with pytest.raises(BadInputError, match=f"token 99999 of question {odd.question_id}, and its vocab_size"):
            check_tokens([questions[0], odd], config)


def test_a_split_of_which_no_prompt_is_short_enough_is_refused(questions, tiny_llama):
    longest = sorted(len(question.prompt_ids) for question in questions)
    assert longest[0] < longest[-1], "one should be shorter"

    def check(most, *sampled):
        sampling = SamplingConfig(max_prompt_tokens=most)
        task, model = TaskConfig(name="arithmetic"), ModelConfig(path=tiny_llama)
        check_lengths(RunConfig(name="x", model=model, task=task, sampling=sampling), *sampled)

    check(longest[0], questions, [])
    with pytest.raises(BadInputError, match=f"all 2 train questions have .* the shortest has {longest[0]} tokens"):
        check(longest[0] - 1, [], questions)


@pytest.mark.parametrize(
    ("labels", "reference", "vft_covers", "training", "scoring"),
    [
        (("positive", "negative"), False, "reference", True, True),
        (("positive", "positive"), True, "reference", True, True),
        (("positive", "positive"), False, "reference+positives", True, True),
        (("positive", "positive"), False, "reference", False, True),
        (("negative", "negative"), False, "reference+positives", False, False),
        (("dropped", "negative"), False, "reference", False, False),
        ((), False, "reference", False, False),
    ],
)
def test_where_candidates_are_of_no_use_nothing_starts(labels, reference, vft_covers, training, scoring, questions, tmp_path):
    chains = tuple(
        Candidate(
            index=i, text=f"{i}", token_ids=(5, i), finish_reason="stop", log_likelihood=-1.0, label=label, rank=RANKS[label]
        )
        for i, label in enumerate(labels)
    )
    both = tuple(
        Candidate(index=i, text="a", token_ids=(5,), finish_reason="stop", log_likelihood=-1.0, label=label, rank=i + 1)
        for i, label in enumerate(("positive", "negative"))
    )
    train = questions[0] if reference else questions[0].model_copy(update={"reference": None, "reference_ids": ()})
    held_out = questions[1].model_copy(update={"split": "test"})
    settings = {"model": "m", "seed": 0, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 9}
    groups = [CandidateGroup(question=q, candidates=c, **settings) for q, c in ((train, chains), (held_out, both))]
    write_parquet(tmp_path / "groups.parquet", CandidateGroup, groups)
    for references, enough in ((True, training), (False, scoring)):
        alignment = AlignmentConfig(vft_covers=vft_covers)
        if enough:
            check_candidates(tmp_path, alignment, references=references)
        else:
            with pytest.raises(BadInputError, match=r"nothing to align on.*both right and wrong.*sampling\.k"):
                check_candidates(tmp_path, alignment, references=references)
    with pytest.raises(BadInputError, match="of at most 2 tokens"):
        check_candidates(tmp_path, AlignmentConfig(max_tokens=2), references=True)
