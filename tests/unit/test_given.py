"""Candidates from the user's file: what becomes of them, what is refused and how."""

import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st
from rich.console import Console
from transformers import AutoTokenizer

from aft_ray.config import AlignmentConfig, LabellingConfig, ModelConfig, RunConfig, SamplingConfig, TaskConfig
from aft_ray.labelling import label_group
from aft_ray.preflight import check_boundary
from aft_ray.rounds import Rounds
from aft_ray.sampling.given import read_given
from aft_ray.tasks import TASKS, BadInputError, read_questions
from schemas import Question
from tests.conftest import tokenized

RIGHT, WRONG, SHORT = "3*6=18. The answer is 18.", "3+6=9. The answer is 9.", "The answer is 18."
ROW = {"question": "How many are 3 bags of 6?", "candidates": [{"text": RIGHT, "rank": 1}, {"text": WRONG, "rank": 2}]}


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def questions(tokenizer):
    def question(number, split, text):
        return Question(question_id=f"{split}-{number}", task="gsm8k", split=split, text=text, gold="18", reference=RIGHT)

    found = [question(1, "train", ROW["question"]), question(2, "train", "And 2 of 9?"), question(1, "test", "Held out?")]
    return tokenized(found, tokenizer)


def read(tmp_path, questions, tokenizer, *rows, console=None):
    file = tmp_path / "given.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return read_given(file, questions, tokenizer, chat=False, console=console or Console(file=io.StringIO()))


def ranks(candidates):
    return [candidate.rank for candidate in candidates]


def test_a_group_is_named_by_its_question_or_its_id_and_tokenized_as_a_reference(tmp_path, questions, tokenizer):
    by_id = {"question_id": "train-2", "candidates": [{"text": SHORT}]}
    first, second = read(tmp_path, questions, tokenizer, ROW, by_id)
    assert (first.question, second.question) == (questions[0], questions[1])
    assert first.candidates[0].token_ids == questions[0].reference_ids
    assert [candidate.log_likelihood for candidate in first.candidates] == [None, None]


def test_rows_with_one_chain_add_up_and_texts_may_stand_alone(tmp_path, questions, tokenizer):
    chains = [{"question": ROW["question"], "completion": text} for text in (RIGHT, WRONG)]
    alone = {"question_id": "train-2", "candidates": [SHORT, RIGHT]}
    first, second = read(tmp_path, questions, tokenizer, chains[0], alone, chains[1] | {"question_id": "train-1"})
    assert [candidate.text for candidate in first.candidates] == [RIGHT, WRONG]
    assert [candidate.index for candidate in first.candidates] == [0, 1]
    assert [candidate.text for candidate in second.candidates] == [SHORT, RIGHT]


def test_what_was_cut_off_has_no_end_of_sequence_and_no_answer(tmp_path, questions, tokenizer):
    cut = {"question": ROW["question"], "completion": RIGHT, "finish_reason": "length"}
    (group,) = read(tmp_path, questions, tokenizer, cut, cut | {"completion": WRONG, "finish_reason": "stop"})
    first, second = group.candidates
    assert (first.finish_reason, second.finish_reason) == ("length", "stop")
    assert (*first.token_ids, tokenizer.eos_token_id) == questions[0].reference_ids
    assert second.token_ids[-1] == tokenizer.eos_token_id
    labelled = label_group(group, TASKS["gsm8k"], LabellingConfig())
    assert [(c.verdict, c.label) for c in labelled.candidates] == [("unknown", "dropped"), ("wrong", "negative")]


def test_candidates_of_held_out_questions_are_left_out_and_told(tmp_path, questions, tokenizer):
    told = io.StringIO()
    rows = [ROW, {"question": "Held out?", "completion": SHORT}]
    (group,) = read(tmp_path, questions, tokenizer, *rows, console=Console(file=told, width=200))
    assert group.question.question_id == "train-1"
    assert "2 chains of 1 training questions" in told.getvalue()
    assert "given.jsonl:2: test-1 is held out" in told.getvalue()
    with pytest.raises(BadInputError, match="no candidates of training questions"):
        read(tmp_path, questions, tokenizer, rows[1])


@pytest.mark.parametrize(
    ("merits", "expected"),
    [
        ([{"rank": 5}, {"rank": 2}, {"rank": 5}], [2, 1, 2]),
        ([{"reward": 0.5}, {"reward": -3}, {"reward": 7}], [2, 3, 1]),
        ([{}, {}, {}], [1, 2, 1]),
    ],
)
def test_ranks_follow_ranks_or_rewards_or_else_the_labels(tmp_path, questions, tokenizer, merits, expected):
    candidates = [{"text": text} | merit for text, merit in zip((RIGHT, WRONG, SHORT), merits, strict=True)]
    (group,) = read(tmp_path, questions, tokenizer, ROW | {"candidates": candidates})
    labelled = label_group(group, TASKS["gsm8k"], LabellingConfig())
    assert ranks(labelled.candidates) == expected
    assert [candidate.label for candidate in labelled.candidates] == ["positive", "negative", "positive"]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("{", "2: not JSON"),
        ({"candidates": [{"text": RIGHT}]}, "2:row: expected question or question_id"),
        ({"question": ROW["question"]}, "2:candidates: expected a value, found nothing"),
        (ROW | {"candidates": []}, "2:candidates: .*at least 1"),
        (ROW | {"candidates": [{"text": " "}]}, "2:candidates.0.text: expected a text"),
        (ROW | {"candidates": [{"text": RIGHT, "rank": 0}]}, "2:candidates.0.rank: .*greater than or equal to 1"),
        (ROW | {"candidates": [{"text": RIGHT, "rank": 1}, {"text": WRONG}]}, "2:row: expected a rank in every candidate"),
        (ROW | {"candidates": [{"text": RIGHT, "rank": 1, "reward": 1.0}]}, "2:row: expected a rank in every candidate"),
        (json.dumps(ROW).replace('"rank": 1', '"reward": NaN'), "2:candidates.0.reward: .*finite"),
        (ROW | {"question": "Unheard of?"}, "2:question: 'Unheard of\\?' is no training question"),
        ({"question": ROW["question"], "completion": " "}, "2:completion: expected a text"),
        ({"completion": SHORT}, "2:row: expected question or question_id"),
        ({"question_id": "train-2", "completion": RIGHT, "rank": 1}, "2:question: train-2 stands in the file twice"),
        ({"custom_id": "request-1", "response": {"body": {"choices": []}}}, "2:question: 'request-1' is no training question"),
        (
            {"custom_id": "train-1", "response": {"status_code": 200, "body": {"data": []}}},
            "2:response.body.choices: expected a value",
        ),
        (ROW | {"question_id": "train-9"}, "2:question: 'train-9' is no training question"),
        ({"question_id": "train-2", "candidates": [{"text": WRONG}]}, "2:question: train-2 stands in the file twice"),
        (ROW | {"question_id": "train-2"}, "2:question: not that of question_id train-2, which is 'And 2 of 9\\?'"),
        (ROW | {"completion": SHORT}, "2:row: expected candidates or a completion, found both"),
    ],
)
def test_a_fault_is_named_by_file_row_and_field(tmp_path, questions, tokenizer, row, fault):
    first = {"question_id": "train-2", "candidates": [{"text": SHORT}]}
    with pytest.raises(BadInputError, match=rf"given\.jsonl:{fault}") as refused:
        read(tmp_path, questions, tokenizer, first, row)
    assert len(refused.value.faults) == 1


def test_a_text_that_names_two_questions_is_refused_and_an_id_is_not(tmp_path, questions, tokenizer):
    first, other = questions[0], questions[0].model_copy(update={"question_id": "train-3", "choices": ("oak", "pear")})
    with pytest.raises(
        BadInputError, match=r"given\.jsonl:1:question: train-1 and train-3 have this text: say which by question_id"
    ):
        read(tmp_path, [first, other], tokenizer, ROW)
    (group,) = read(tmp_path, [first, other], tokenizer, ROW | {"question_id": "train-3"})
    assert group.question == other
    held_out = first.model_copy(update={"question_id": "test-3", "split": "test"})
    (group,) = read(tmp_path, [held_out, first], tokenizer, ROW)
    assert group.question == first, "of equal texts the training question counts"


def test_candidates_of_questions_that_the_run_sets_aside_are_left_out_and_told(tmp_path, tokenizer):
    rows = [{"question": f"{n} + 1 = ?", "answer": f"#### {n + 1}"} for n in (1, 1, 2, 3)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_questions(TaskConfig(name="gsm8k", train_file=tmp_path / "train.jsonl", train_questions=2), seed=0)
    asked = found.only(tokenized(found.questions, tokenizer))
    assert [question.question_id for question in asked.set_aside] == ["gsm8k-train-2", "gsm8k-train-4"]
    chains = [{"question": row["question"], "completion": SHORT} for row in rows] + [
        {"question_id": "gsm8k-train-2", "completion": SHORT}
    ]
    (tmp_path / "given.jsonl").write_text("\n".join(map(json.dumps, chains)))
    console = Console(file=io.StringIO(), width=200)
    first, _ = read_given(tmp_path / "given.jsonl", asked.questions, tokenizer, False, console, None, asked.set_aside)
    assert len(first.candidates) == 2, "of equal texts the one that is kept counts"
    assert "given.jsonl:4: of a question that this run does not use" in console.file.getvalue()
    assert "given.jsonl:5: of a question that this run does not use" in console.file.getvalue()


def test_rows_of_all_kinds_may_be_mixed_in_parquet_too(tmp_path, questions, tokenizer):
    choice = {"message": {"content": RIGHT}, "finish_reason": "stop"}
    rows = [
        {"question": ROW["question"], "completion": RIGHT},
        {"question_id": "train-2", "candidates": [{"text": SHORT}]},
        {"custom_id": "train-1", "response": {"status_code": 200, "body": {"choices": [choice]}}},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=columns_of(rows)), tmp_path / "mixed.parquet")
    groups = read_given(tmp_path / "mixed.parquet", questions, tokenizer, False, Console(quiet=True))
    assert [len(group.candidates) for group in groups] == [2, 1]


def columns_of(rows):
    return pa.schema({name: pa.array([row[name]]).type for row in rows for name in row})


def test_ranks_may_be_whole_numbers_with_a_point(tmp_path, questions, tokenizer):
    candidates = [{"text": RIGHT, "rank": 1.0}, {"text": WRONG, "rank": 2.0}]
    (group,) = read(tmp_path, questions, tokenizer, ROW | {"candidates": candidates})
    assert [candidate.reward for candidate in group.candidates] == [-1.0, -2.0]


def test_chains_too_long_to_train_on_are_told_and_refused_where_all_are(tmp_path, questions, tokenizer):
    def told(max_tokens):
        console = Console(file=io.StringIO(), width=200)
        read_given(tmp_path / "given.jsonl", questions, tokenizer, False, console, max_tokens)
        return console.file.getvalue()

    (group,) = read(tmp_path, questions, tokenizer, ROW | {"candidates": [RIGHT, RIGHT * 9]})
    short, long = (len(group.question.prompt_ids) + len(candidate.token_ids) for candidate in group.candidates)
    assert "not trained on" not in told(long)
    assert f"not trained on: 1 chains over alignment.max_tokens = {short} with their prompt" in told(short)
    with pytest.raises(BadInputError, match="which is all: none would be trained on"):
        told(short - 1)


def test_a_file_that_is_not_there_is_refused(tmp_path, questions, tokenizer):
    with pytest.raises(BadInputError, match=re.escape(f"{tmp_path / 'none.jsonl'}: cannot be read")):
        read_given(tmp_path / "none.jsonl", questions, tokenizer, False, Console())


@examples(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_ranks_order_as_rewards_do(tmp_path_factory, questions, tokenizer, rewards):
    candidates = [{"text": f"{number}. The answer is 18.", "reward": reward} for number, reward in enumerate(rewards)]
    (group,) = read(tmp_path_factory.mktemp("given"), questions, tokenizer, ROW | {"candidates": candidates})
    labelled = ranks(label_group(group, TASKS["gsm8k"], LabellingConfig()).candidates)
    assert set(labelled) == set(range(1, max(labelled) + 1))
    for one, better in zip(rewards, labelled, strict=True):
        for other, worse in zip(rewards, labelled, strict=True):
            assert (one > other) == (better < worse)


def test_trained_on_are_the_tasks_of_questions_that_alignment_or_vft_sees(tmp_path, questions, tokenizer):
    train = [question for question in questions if question.split == "train"]
    given = read(tmp_path, questions, tokenizer, ROW)
    of_others = [q if q == given[0].question else q.model_copy(update={"task": "other", "reference": None}) for q in train]

    def tasks(vft, asked, **sampling):
        config = RunConfig(
            name="x", model=ModelConfig(path=Path("m")), task=TaskConfig(name="arithmetic"), sampling=SamplingConfig(**sampling)
        )
        return Rounds(config, asked, given).trained_tasks(vft)

    own, only = given[0].question.task, {"only_given": True, "candidates_file": Path("x")}
    assert tasks(False, of_others) == {own, "other"}
    assert tasks(False, of_others, **only) == tasks(True, of_others, **only) == {own}
    with_reference = [question.model_copy(update={"reference": "1", "reference_ids": (5,)}) for question in of_others]
    assert tasks(True, with_reference, **only) == {own, "other"}


def test_in_what_order_rows_stand_in_the_file_means_nothing(tmp_path, questions, tokenizer):
    rows = [{"question_id": name, "candidates": [{"text": SHORT}]} for name in ("train-2", "train-1")]
    config = RunConfig(name="x", model=ModelConfig(path=Path("m")), task=TaskConfig(name="arithmetic"))
    one, other = (
        Rounds(config, questions, read(tmp_path, questions, tokenizer, *asked)).given_in("sample") for asked in (rows, rows[::-1])
    )
    assert one == other
    assert [group.question.question_id for group in one] == ["train-1", "train-2"]


def test_a_boundary_to_be_found_is_refused_where_no_chain_will_be_sampled(tmp_path, questions, tokenizer):
    train = [question for question in questions if question.split == "train"]
    rows = [{"question": question.text, "candidates": [{"text": "1", "rank": 1}, {"text": "2", "rank": 2}]} for question in train]
    given = read(tmp_path, questions, tokenizer, *rows)

    def check(alignment, given, **sampling):
        config = RunConfig(
            name="x", model=ModelConfig(path=Path("m")), task=TaskConfig(name="arithmetic"), sampling=SamplingConfig(**sampling),
            alignment=alignment,
        )  # fmt: skip
        check_boundary(alignment, Rounds(config, questions, given).samples_for_training)

    check(AlignmentConfig(beta="auto"), given[1:])
    check(AlignmentConfig(beta=0.2), given)
    check(AlignmentConfig(loss="dpo", beta="auto"), given)
    for case in ({"given": given}, {"given": given[1:], "only_given": True, "candidates_file": Path("x")}):
        with pytest.raises(BadInputError, match="set a number"):
            check(AlignmentConfig(beta="auto"), **case)
