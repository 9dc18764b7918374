"""Whose fault a death is, and when nobody's question is to blame: without Ray and without engines (with them: tests/faults)."""

import math

import pytest

from aft_ray.sampling.attempts import GIVEN_UP_ON_END, LIVES, SECONDS_OF_A_START, STARTS, Attempts
from aft_ray.sampling.engine import no_more_than_zero

ACTOR, OTHER = "actor", "other actor"


@pytest.fixture
def nodes() -> set[str]:
    return {"node 1", "node 2"}


@pytest.fixture
def attempts(nodes) -> Attempts:
    return Attempts(lambda: nodes, lambda: clock[0])


clock = [0.0]


def test_what_was_in_hand_when_an_engine_died_is_suspect_until_it_is_answered(attempts):
    assert attempts.begin(["a", "b"], "node 1", ACTOR) == [0, 0]
    attempts.end(["a"], 0, ACTOR)
    assert attempts.begin(["a", "b", "c"], "node 1", ACTOR) == [0, 1, 0]
    attempts.begin_again(["b"], "node 1", ACTOR)
    assert attempts.begin(["b"], "node 1", ACTOR) == [2]
    attempts.end(["b"], 0, ACTOR)
    assert attempts.begin(["b"], "node 1", ACTOR) == [0]


def test_a_node_that_is_gone_takes_its_deaths_along(attempts, nodes):
    attempts.begin(["a", "b"], "node 1", ACTOR)
    attempts.begin_again(["b"], "node 2", ACTOR)
    nodes.remove("node 1")
    assert attempts.begin(["a", "b"], "node 2", ACTOR) == [0, 1]


def test_an_engine_that_does_not_start_is_tried_so_many_times_and_tells_why(attempts):
    for _ in range(STARTS):
        assert attempts.start(ACTOR, "node 1") is None
        attempts.does_not_start(ACTOR, "the last time: no memory")
    assert attempts.start(ACTOR, "node 1").endswith(f"at each of {STARTS} starts; the last time: no memory")
    assert attempts.start(OTHER, "node 1") is None


def test_starts_on_nodes_that_are_gone_do_not_count(attempts, nodes):
    """A spot machine may be taken away while its engine loads, which takes half an hour."""
    for node in ("node 1", *["node 2"] * (STARTS - 1)):
        assert attempts.start(ACTOR, node) is None
    assert attempts.start(ACTOR, "node 2") is not None
    nodes.remove("node 2")
    assert attempts.start(ACTOR, "node 1") is None


def test_there_is_hope_while_some_engine_works_or_has_not_failed_too_often(attempts):
    assert not attempts.some_may_stand()
    for _ in range(STARTS + 1):
        attempts.start(ACTOR, "node 1")
    assert not attempts.some_may_stand()
    attempts.start(OTHER, "node 2")
    assert attempts.some_may_stand(), "it starts"
    attempts.stands(OTHER)
    assert attempts.some_may_stand(), "it works"
    for _ in range(STARTS):
        attempts.start(OTHER, "node 2")
    assert attempts.some_may_stand()
    attempts.start(OTHER, "node 2")
    assert not attempts.some_may_stand()


def test_others_work_while_they_have_questions_in_hand_or_start(attempts):
    """What a dead actor had in hand nobody else is given: when the others are through, all wait for it."""
    assert not attempts.others_work(ACTOR)
    for _ in range(STARTS + 1):
        attempts.start(ACTOR, "node 1")
    attempts.begin(["a"], "node 1", ACTOR)
    assert not attempts.others_work(ACTOR)
    attempts.start(OTHER, "node 2")
    assert attempts.others_work(ACTOR)
    clock[0] += SECONDS_OF_A_START
    assert not attempts.others_work(ACTOR), "the pool has let it go, perhaps"
    attempts.stands(OTHER)
    assert not attempts.others_work(ACTOR)
    attempts.begin(["b"], "node 2", OTHER)
    assert attempts.others_work(ACTOR)
    assert not attempts.others_work(OTHER)
    attempts.end(["b"], 0, OTHER)
    assert not attempts.others_work(ACTOR)
    assert attempts.some_may_stand()


def test_one_that_starts_and_dies_before_it_has_answered_anything_is_not_started_for_ever(attempts):
    for _ in range(LIVES):
        assert attempts.start(ACTOR, "node 1") is None
        attempts.stands(ACTOR)
    assert "died each time before it had answered" in attempts.start(ACTOR, "node 1")
    attempts.end(["a"], 0, ACTOR)
    assert attempts.start(ACTOR, "node 1") is None


def test_questions_given_up_are_counted_until_one_is_answered(attempts):
    for number in range(1, GIVEN_UP_ON_END + 1):
        assert attempts.end([f"question {number}"], 1, ACTOR) == number
    assert attempts.end(["a", "b"], 1, ACTOR) == 0
    assert attempts.end(["c"], 1, ACTOR) == 1
    assert attempts.end([], 0, ACTOR) == 1, "an empty block says nothing"


def test_a_log_likelihood_that_is_no_number_stays_none():
    assert (no_more_than_zero(1e-9), no_more_than_zero(-3.0)) == (0.0, -3.0)
    assert math.isnan(no_more_than_zero(math.nan))
