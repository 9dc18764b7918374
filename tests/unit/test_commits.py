"""What an interrupted stream left, and what is made of it."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aft_ray.sampling.attempts import NothingIsAnsweredError
from aft_ray.sampling.commits import commit, committed, each_once, forget_given_up, left_to_do, without
from aft_ray.sampling.dead_letters import answered
from aft_ray.sampling.relabelling import Leftovers
from schemas import CandidateGroup, Evaluation, Failure, Question, read_parquet, to_table, write_parquet


def question(name: str) -> Question:
    return Question(question_id=name, task="t", split="train", text="?", gold="1", reference=None)


def group(name: str, model: str = "m") -> CandidateGroup:
    return CandidateGroup(question=question(name), candidates=(), model=model, seed=0, temperature=1, top_p=1, max_new_tokens=1)


def evaluation(name: str) -> Evaluation:
    return Evaluation(question_id=name, task="t", model="m", greedy=None, positive_scores=(), negative_scores=())


@pytest.mark.parametrize(("record", "made"), [(CandidateGroup, group), (Evaluation, evaluation), (Question, question)])
def test_whole_files_count_and_the_rest_is_left_to_do(record, made, tmp_path):
    write_parquet(tmp_path / "1.parquet", record, [made("a"), made("b")])
    write_parquet(tmp_path / "2.parquet", record, [made("c")])
    done = committed(tmp_path)
    assert done.to_pylist() == ["a", "b", "c"]
    left = without(to_table(record, [made(name) for name in "abcde"]), done)
    assert left.schema == to_table(record, []).schema
    assert left.num_rows == 2


def test_a_question_that_is_done_and_left_out_counts_once(tmp_path):
    """So are those whose candidates a user gave: in the folder from this round, and not to be asked."""
    for folder in ("questions", "out"):
        (tmp_path / folder).mkdir()
    write_parquet(tmp_path / "questions" / "1.parquet", Question, [question(name) for name in "abcd"])
    write_parquet(tmp_path / "out" / "1.parquet", CandidateGroup, [group(name) for name in "ab"])
    left, done = left_to_do(tmp_path / "questions", tmp_path / "out", frozenset("bc"))
    assert (left, sorted(done.to_pylist())) == (1, ["a", "b", "c"])


def test_nothing_is_committed_where_nothing_is(tmp_path):
    assert committed(tmp_path) == committed(tmp_path / "not there") == pa.array([], pa.string())


@pytest.mark.parametrize("kept", [0, 4, 0.5, -8])
def test_a_file_that_was_being_written_is_removed(kept, tmp_path):
    write_parquet(tmp_path / "1.parquet", CandidateGroup, [group("a")])
    write_parquet(tmp_path / "2.parquet", CandidateGroup, [group("b"), group("c")])
    whole = (tmp_path / "2.parquet").read_bytes()
    (tmp_path / "2.parquet").write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    assert committed(tmp_path).to_pylist() == ["a"]
    assert [file.name for file in tmp_path.iterdir()] == ["1.parquet"]


def test_what_a_writer_killed_inside_a_commit_left_is_removed(tmp_path, monkeypatch):
    table = to_table(CandidateGroup, [group("a")])

    def killed(*_, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "unlink", killed)  # who is killed tidies nothing up
        with pytest.raises(KeyboardInterrupt):
            commit(table, tmp_path, "stream")
    (half,) = tmp_path.iterdir()
    assert half.suffix == ".partial"
    assert committed(tmp_path).to_pylist() == []
    assert not half.exists()
    commit(table, tmp_path, "stream")
    assert committed(tmp_path).to_pylist() == ["a"]


def test_a_file_with_a_flipped_bit_is_made_again_where_a_stage_goes_on_and_told_where_it_is_read(tmp_path):
    write_parquet(tmp_path / "1.parquet", CandidateGroup, [group("a")])
    write_parquet(tmp_path / "2.parquet", CandidateGroup, [group(f"question {i}") for i in range(100)])
    content = bytearray((tmp_path / "2.parquet").read_bytes())
    ids = pq.read_metadata(tmp_path / "2.parquet").row_group(0).column(0)
    content[ids.data_page_offset + ids.total_compressed_size // 2] ^= 1
    (tmp_path / "2.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"2\.parquet: .*checksum"):
        read_parquet(tmp_path, CandidateGroup)
    assert committed(tmp_path).to_pylist() == ["a"]
    assert [file.name for file in tmp_path.iterdir()] == ["1.parquet"]


def test_of_a_question_written_twice_the_first_row_stays(tmp_path):
    write_parquet(tmp_path / "2.parquet", CandidateGroup, [group("a", "first"), group("b", "first")])
    write_parquet(tmp_path / "1.parquet", CandidateGroup, [group("b", "second"), group("c", "second")])
    assert committed(tmp_path).to_pylist() == ["a", "b", "c"]
    found = sorted((group.question.question_id, group.model) for group in read_parquet(tmp_path, CandidateGroup))
    assert found == [("a", "first"), ("b", "first"), ("c", "second")]
    assert pq.read_schema(tmp_path / "1.parquet").metadata[b"record"] == b"CandidateGroup"


def test_records_that_are_missing_or_came_twice_are_told_at_the_end():
    assert list(each_once("ab", ["b", "a"], str)) == ["b", "a"]
    for found, told in [("a", "1 questions are missing and 0"), ("aab", "0 questions are missing and 1"), ("abc", "and 1 came")]:
        with pytest.raises(RuntimeError, match=told):
            list(each_once("ab", found, str))


def given_up(name: str) -> CandidateGroup:
    return group(name).model_copy(update={"failure": Failure(reason="the engine died", attempts=3)})


def test_questions_that_were_given_up_are_told_beside_the_others(tmp_path):
    (tmp_path / "groups").mkdir()
    write_parquet(tmp_path / "groups" / "1.parquet", CandidateGroup, [group("a"), given_up("b")])
    found = answered(tmp_path / "groups", CandidateGroup, "ab", lambda of: of.question.question_id)
    assert [of.question.question_id for of in found] == ["a", "b"]
    letter = json.loads((tmp_path / "dead_letters.jsonl").read_text())
    assert letter == {"question_id": "b", "task": "t", "reason": "the engine died", "attempts": 3}
    assert len(read_parquet(tmp_path / "groups", CandidateGroup)) == 2


def test_what_is_forgotten_are_those_given_up_after_attempts(tmp_path):
    too_long = group("c").model_copy(update={"failure": Failure(reason="a prompt of 900 tokens", attempts=0)})
    write_parquet(tmp_path / "1.parquet", CandidateGroup, [group("a"), given_up("b"), too_long])
    write_parquet(tmp_path / "2.parquet", CandidateGroup, [given_up("d")])
    forget_given_up(tmp_path)
    assert sorted(of.question.question_id for of in read_parquet(tmp_path, CandidateGroup)) == ["a", "c"]


def test_a_list_of_dead_letters_of_an_earlier_start_goes_with_the_last_of_them(tmp_path):
    (tmp_path / "groups").mkdir()
    write_parquet(tmp_path / "groups" / "1.parquet", CandidateGroup, [group("a")])
    (tmp_path / "dead_letters.jsonl").write_text("{}")
    assert len(list(answered(tmp_path / "groups", CandidateGroup, "a", lambda of: of.question.question_id))) == 1
    assert not (tmp_path / "dead_letters.jsonl").exists()


def test_what_was_set_aside_and_is_labelled_already_counts_once(tmp_path):
    """As where the labelling that was changed was interrupted."""
    for folder, names in (("groups", "ab"), ("groups-before", "bcd")):
        (tmp_path / folder).mkdir()
        write_parquet(tmp_path / folder / "1.parquet", CandidateGroup, [group(name) for name in names])
    left = Leftovers(tmp_path, {"label": "so"})
    assert (left.labelled, left.to_label) == (2, 2)


def test_where_all_were_given_up_the_stage_ends_and_asks_them_again(tmp_path):
    (tmp_path / "groups").mkdir()
    write_parquet(tmp_path / "groups" / "1.parquet", CandidateGroup, [given_up("a"), given_up("b")])
    with pytest.raises(NothingIsAnsweredError, match=r"all 2 questions were given up\. The last: the engine died"):
        list(answered(tmp_path / "groups", CandidateGroup, "ab", lambda of: of.question.question_id))
    assert committed(tmp_path / "groups").to_pylist() == []
