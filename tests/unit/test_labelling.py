"""Which candidates become positives, negatives, or are dropped, and what is counted."""

from aft_ray.config import SamplingConfig
from aft_ray.labelling import count_labels, label_group
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


def labelled(**settings):
    candidates = tuple(
        Candidate(
            index=i,
            text=text,
            token_ids=(1,),
            finish_reason=finish,
            log_likelihood=-1.0,
            extracted=None,
            verdict=None,
            label=None,
            reason=None,
        )
        for i, (text, finish) in enumerate(CHAINS)
    )
    group = CandidateGroup(
        question=QUESTION, candidates=candidates, model="m", seed=0, temperature=1.0, top_p=1.0, max_new_tokens=9
    )
    return label_group(group, TASKS["arithmetic"], SamplingConfig(**settings))


def test_labels_and_reasons():
    assert [(c.verdict, c.label, c.reason) for c in labelled().candidates] == [
        ("right", "positive", "right answer"),
        ("right", "dropped", "duplicate"),
        ("wrong", "negative", "wrong answer"),
        ("unknown", "negative", "no answer stated"),
        ("unknown", "dropped", "cut off"),
    ]


def test_what_becomes_of_unknown_is_a_setting():
    found = labelled(unknown_ended="dropped", unknown_cut_off="negative")
    assert [c.label for c in found.candidates[3:]] == ["dropped", "negative"]


def test_counts_add_up_to_all_candidates():
    counts = count_labels([labelled(), labelled()])
    assert counts["groups"] == counts["groups with positives and negatives"] == 2
    assert counts["candidates"] == 10 == sum(count for name, count in counts.items() if ":" in name)
    assert counts["dropped: duplicate"] == 2
