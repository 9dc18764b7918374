"""Which candidates become positives, negatives, or are dropped, and what is counted."""

import pytest

from aft_ray.config import LabellingConfig
from aft_ray.labelling import REWARDED, count_labels, label_group
from aft_ray.tasks import TASKS
from schemas import Candidate, CandidateGroup, Question

QUESTION = Question(question_id="q", task="arithmetic", split="train", text="?", gold="18", reference=None)
CHAINS = [
    (" 3 * 6 = 18. The answer is 18.", "stop"),
    (" 3 * 6 = 18. The answer is 18.", "stop"),
    (" 3 * 6 = 19. The answer is 19.", "stop"),
    (" I do not know.", "stop"),
    (" The answer is 18. The answer", "length"),
]


def labelled(chains=CHAINS, rewards=None, sampled=True, **settings):
    candidates = tuple(
        Candidate(
            index=i,
            text=text,
            token_ids=(1,),
            finish_reason=finish,
            log_likelihood=-1.0 if sampled else None,
            reward=None if rewards is None else rewards[i],
        )
        for i, (text, finish) in enumerate(chains)
    )
    group = CandidateGroup(
        question=QUESTION, candidates=candidates, model="m", seed=0, temperature=1.0, top_p=1.0, max_new_tokens=9
    )
    return label_group(group, TASKS["arithmetic"], LabellingConfig(**settings))


def test_labels_and_reasons():
    assert [(c.verdict, c.label, c.reason, c.rank) for c in labelled().candidates] == [
        ("right", "positive", "right answer", 1),
        ("right", "dropped", "duplicate", None),
        ("wrong", "negative", "wrong answer", 2),
        ("unknown", "negative", "no answer stated", 2),
        ("unknown", "dropped", "cut off", None),
    ]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The answer is 18.</s>", "positive"),
        ("The answer is 18.<|im_end|>\n<|endoftext|>", "positive"),
        ("<|im_start|>The answer is 18.<|im_end|>", "positive"),
        ("The answer is 18.</s>And another?", "dropped"),
        ("The answer is 18.\nQuestion: 3 + 4?</s>", "dropped"),
    ],
)
def test_tokens_that_end_a_turn_are_no_other_turn(text, label):
    (candidate,) = labelled([(text, "stop")]).candidates
    assert candidate.label == label


def test_what_becomes_of_unknown_is_a_setting():
    found = labelled(unknown_ended="dropped", unknown_cut_off="negative")
    assert [c.label for c in found.candidates[3:]] == ["dropped", "negative"]


FALSE = "3*6=<<3*6=19>>19, 19-1=<<19-1=18>>18. The answer is 18."


def test_a_false_equation_is_flagged_and_no_positive_on_request():
    (kept,) = labelled([(FALSE, "stop")]).candidates
    assert (kept.false_equation, kept.label) == ("<<3*6=19>>", "positive")
    (dropped,) = labelled([(FALSE, "stop")], false_equations="drop").candidates
    assert (dropped.label, dropped.reason) == ("dropped", "right answer, false equation")
    (wrong,) = labelled([(FALSE.replace("is 18", "is 19"), "stop")], false_equations="drop").candidates
    assert wrong.label == "negative"


def test_the_same_equations_in_other_words_are_duplicates_on_request():
    chains = [("So 3*6=<<3*6=18>>18. The answer is 18.", "stop"), ("Bags: 3 * 6 = <<3*6=18>>18.\n#### 18", "stop")]
    assert [c.label for c in labelled(chains).candidates] == ["positive", "positive"]
    assert [c.reason for c in labelled(chains, duplicates="equations").candidates] == ["right answer", "duplicate"]
    other = [chains[0], ("So 6*3=<<6*3=18>>18. The answer is 18.", "stop")]
    assert [c.label for c in labelled(other, duplicates="equations").candidates] == ["positive", "positive"]


def shorter_is_better(question, completion, gold):
    assert (question, gold) == ("?", "18")
    return float("nan") if "know" in completion else -len(completion)


def test_a_reward_function_ranks_and_what_it_cannot_rate_is_dropped():
    chains = [(f"{'so ' * number}The answer is {number}.", "stop") for number in (18, 2, 2, 1)] + [CHAINS[3]]
    found = labelled(chains, reward="tests.unit.test_labelling:shorter_is_better").candidates
    assert [(c.label, c.rank) for c in found] == [
        ("positive", 3),
        ("negative", 2),
        ("dropped", None),
        ("negative", 1),
        ("dropped", None),
    ]
    assert found[0].reward == -len(chains[0][0])
    assert found[4].reason == "reward failed: no finite number: nan"


def test_rewards_of_a_file_rank_and_those_of_an_earlier_function_do_not_stay():
    chains = [(f"{number}. The answer is {number}.", "stop") for number in (18, 2, 3)]
    assert [c.rank for c in labelled(chains, rewards=[-2.0, -1.0, -2.0], sampled=False).candidates] == [2, 1, 2]
    assert [(c.rank, c.reward) for c in labelled(chains, rewards=[-2.0, -1.0, -2.0]).candidates] == [
        (1, None),
        (2, None),
        (2, None),
    ]


@pytest.mark.parametrize(("setting", "label"), [("dropped", "dropped"), ("negative", "negative")])
def test_a_check_that_hangs_is_unknown_and_costs_its_own_candidate_only(setting, label):
    question = QUESTION.model_copy(update={"gold": "x^2"})
    texts = [r"\boxed{x \cdot x}", r"\boxed{9^{9^{9^{9^9}}}}", r"\boxed{x^3}"]
    candidates = tuple(
        Candidate(index=i, text=text, token_ids=(1,), finish_reason="stop", log_likelihood=-1.0) for i, text in enumerate(texts)
    )
    group = CandidateGroup(
        question=question, candidates=candidates, model="m", seed=0, temperature=1.0, top_p=1.0, max_new_tokens=9
    )
    found = label_group(group, TASKS["math"], LabellingConfig(check_seconds=1.0, unknown_check=setting)).candidates
    assert [c.label for c in found] == ["positive", label, "negative"]
    assert (found[1].verdict, found[1].reason) == ("unknown", "check failed: took longer than 1 s")


def test_counts_add_up_to_all_candidates():
    counts = count_labels([labelled(), labelled()])
    assert counts["groups"] == counts["groups with positives and negatives"] == 2
    assert counts["candidates"] == 10 == sum(count for name, count in counts.items() if ":" in name)
    assert counts["dropped: duplicate"] == 2
    assert REWARDED not in counts
    assert count_labels([labelled(CHAINS[:2], rewards=[1.0, 2.0], sampled=False)])[REWARDED] == 2
