"""Records: strict, frozen, closed, and the same after a round trip through Parquet."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import Candidate, CandidateGroup, Evaluation, Question, ReferenceScores, arrow_schema, read_parquet, write_parquet
from schemas.arrow import ROWS_AT_ONCE

texts = st.text(max_size=30)
names = st.text(min_size=1, max_size=10)
optional_texts = st.none() | texts
counts = st.integers(0, 2**63 - 1)
questions = st.builds(
    Question,
    question_id=names,
    task=names,
    split=st.sampled_from(["train", "validation", "test"]),
    text=names,
    gold=names,
    reference=optional_texts,
    choices=st.lists(texts, max_size=3).map(tuple),
    prompt_ids=st.lists(counts, max_size=3).map(tuple),
    reference_ids=st.lists(counts, max_size=3).map(tuple),
)
candidates = st.builds(
    Candidate,
    index=st.just(0),
    text=texts,
    token_ids=st.lists(counts, max_size=5).map(tuple),
    finish_reason=st.sampled_from(["stop", "length"]),
    log_likelihood=st.none() | st.floats(max_value=0, allow_nan=False, allow_infinity=False),
    false_equation=optional_texts,
    reward=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    rank=st.none() | counts,
    extracted=optional_texts,
    verdict=st.none() | st.sampled_from(["right", "wrong", "unknown"]),
    label=st.none() | st.sampled_from(["positive", "negative", "dropped"]),
    reason=optional_texts,
)
groups = st.builds(
    CandidateGroup,
    question=questions,
    model=texts,
    seed=counts,
    max_new_tokens=counts,
    candidates=st.lists(candidates, max_size=4).map(
        lambda found: tuple(c.model_copy(update={"index": i}) for i, c in enumerate(found))
    ),
    temperature=st.floats(0, 10),
    top_p=st.floats(0, 1, exclude_min=True),
)
evaluations = st.builds(
    Evaluation,
    question_id=names,
    task=names,
    model=texts,
    greedy=st.none() | candidates,
    positive_scores=st.lists(st.floats(-50, 0), max_size=3).map(tuple),
    negative_scores=st.just(()),
    samples=st.lists(candidates, max_size=2).map(tuple),
)
references = st.builds(
    ReferenceScores, question_id=names, log_likelihoods=st.lists(st.none() | st.floats(-900, 0), max_size=4).map(tuple)
)


@pytest.mark.parametrize(
    ("model", "records"),
    [(Question, questions), (CandidateGroup, groups), (ReferenceScores, references), (Evaluation, evaluations)],
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trip_through_parquet_is_the_identity(model, records, data, tmp_path):
    written = data.draw(st.lists(records, max_size=5))
    write_parquet(tmp_path / "records.parquet", model, written)
    assert read_parquet(tmp_path / "records.parquet", model) == written


QUESTION = {"question_id": "q", "task": "t", "split": "train", "text": "?", "gold": "1", "reference": None}


@pytest.mark.parametrize(
    "change",
    [{"gold": 1}, {"split": "dev"}, {"extra": 1}, {"text": ""}, {"reference": 5}, {"text": "\ud800"}],
    ids=lambda change: str(next(iter(change))),
)
def test_a_question_that_does_not_fit_is_refused(change):
    with pytest.raises(ValidationError):
        Question(**(QUESTION | change))


def test_more_rows_than_are_read_at_once_come_in_order_file_by_file(tmp_path):
    written = [Question(**(QUESTION | {"question_id": str(number)})) for number in range(2 * ROWS_AT_ONCE + 1)]
    write_parquet(tmp_path / "1.parquet", Question, written[:-10])
    write_parquet(tmp_path / "2.parquet", Question, written[-10:])
    assert read_parquet(tmp_path, Question) == written


def test_records_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Question(**QUESTION).gold = "2"


def test_a_candidate_index_twice_is_refused():
    candidate = Candidate(
        index=0,
        text="",
        token_ids=(),
        finish_reason="stop",
        log_likelihood=0.0,
    )
    with pytest.raises(ValidationError, match="indices"):
        CandidateGroup(
            question=Question(**QUESTION),
            candidates=(candidate, candidate),
            model="m",
            seed=0,
            temperature=1.0,
            top_p=1.0,
            max_new_tokens=1,
        )


def test_another_version_and_another_record_are_refused_by_file_name(tmp_path):
    path = tmp_path / "questions.parquet"
    write_parquet(path, Question, [Question(**QUESTION)])
    with pytest.raises(ValueError, match=r"questions\.parquet.*not CandidateGroup"):
        read_parquet(path, CandidateGroup)
    newer = pq.read_table(path).replace_schema_metadata({"record": "Question", "version": "99"})
    pq.write_table(newer, path)
    with pytest.raises(ValueError, match="version 99"):
        read_parquet(path, Question)


def test_a_truncated_file_is_refused_by_name(tmp_path):
    path = tmp_path / "questions.parquet"
    write_parquet(path, Question, [Question(**QUESTION)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"questions\.parquet"):
        read_parquet(path, Question)


def test_arrow_schema_is_derived():
    candidate = arrow_schema(CandidateGroup).field("candidates").type.value_type
    assert candidate.field("token_ids").type == pa.list_(pa.int64())
    assert [field.name for field in candidate] == list(Candidate.model_fields)


def test_json_schema_is_exported():
    printed = subprocess.run([sys.executable, "-m", "schemas"], capture_output=True, text=True, check=True).stdout
    assert {"Question", "Candidate", "CandidateGroup", "ReferenceScores", "Evaluation", "StageManifest"} <= json.loads(printed)[
        "$defs"
    ].keys()
