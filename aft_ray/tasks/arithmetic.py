"""arithmetic: generated word problems in several steps, with chains of thought. No file needed; licence: the project's own.

    question   Mia has 41 pears. She buys 3 bags with 6 pears each. She gives 9 pears to Tom. How many pears does Mia have now?
    reference  3*6=18. 41+18=59. 59-9=50. The answer is 50.
    gold       50

A question admits many right chains, and its reference is one of them, drawn at random: step by step in the order of the
story; gains and losses gathered first; or all at once in a single equation, which is right as well but hard to compute
without writing the steps down. So a model that imitates references learns all the styles, and its own samples show which
of them it gets right.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from aft_ray.config import TaskConfig
from aft_ray.tasks.answers import NUMBER
from aft_ray.tasks.base import Task
from schemas import Question, Split

NAMES = {
    "She": ("Mia", "Ann", "Lena", "Ruth", "Zoe", "Ida", "Eva", "Nora"),
    "He": ("Tom", "Ben", "Max", "Paul", "Leo", "Sam", "Jan", "Otto"),
}
ITEMS = ("apples", "pears", "plums", "books", "coins", "stamps", "cards", "shells", "beads", "eggs", "nuts", "pens")
BOXES = ("bags", "boxes", "baskets", "packs", "jars")
GAIN = (
    "{they} buys {n} more {items}",
    "{they} finds {n} {items}",
    "{they} gets {n} {items} from {other}",
    "{other} gives {they2} {n} {items}",
    "{n} {items} arrive by mail",
)
LOSE = (
    "{they} gives {n} {items} to {other}",
    "{they} loses {n} {items}",
    "{they} sells {n} of the {items}",
    "{other} takes {n} {items} away",
    "{n} {items} go missing",
)
GAIN_GROUPS = (
    "{they} buys {n} {boxes} with {m} {items} each",
    "{n} friends bring {they2} {m} {items} each",
    "{they} finds {m} {items} a day for {n} days",
)
LOSE_GROUPS = (
    "{they} gives {m} {items} to each of {n} friends",
    "{they} sells {n} {boxes} of {m} {items}",
    "{n} thieves take {m} {items} each",
)
STYLE_WEIGHTS = (6, 2, 2)
# The share of each split, by a hash of the question's text: no question can fall in two of them, whatever the seeds.
SPLIT_OF_BUCKET: tuple[Split, ...] = ("test", "test", "validation") + ("train",) * 7


@dataclass(frozen=True)
class Event:
    """`count` times `size` items gained (sign 1) or lost (sign -1); count 1 is a plain number of items."""

    sign: int
    count: int
    size: int

    @property
    def amount(self) -> int:
        return self.count * self.size


def read(config: TaskConfig, seed: int) -> list[Question]:
    """Training questions by the run's seed; held-out ones are the same for every seed, so that runs compare on them."""
    train = 2000 if config.train_questions is None else config.train_questions
    held_out = 500 if config.test_questions is None else config.test_questions
    questions = [
        *generate("train", train, seed, config.difficulty),
        *generate(config.held_out_split, held_out, 0, config.difficulty),
    ]
    return [question.model_copy(update={"task": config.label}) for question in questions]


def generate(split: Split, size: int, seed: int, difficulty: int) -> Iterator[Question]:
    """`size` distinct questions of `difficulty` + 1 events each; the same arguments give the same questions."""
    rng = random.Random(f"arithmetic/{split}/{seed}/{difficulty}")
    seen: set[str] = set()
    while len(seen) < size:
        start, events = draw_problem(rng, difficulty)
        text = tell(start, events, rng)
        if text in seen or split_of(text) != split:
            continue
        seen.add(text)
        total = start + sum(event.sign * event.amount for event in events)
        yield Question(
            question_id=f"arithmetic-{hashlib.sha256(text.encode()).hexdigest()[:16]}",
            task="arithmetic",
            split=split,
            text=text,
            gold=str(total),
            reference=solve(start, events, total, rng),
        )


def split_of(text: str) -> Split:
    return SPLIT_OF_BUCKET[int(hashlib.sha256(text.encode()).hexdigest(), 16) % len(SPLIT_OF_BUCKET)]


def draw_problem(rng: random.Random, difficulty: int) -> tuple[int, list[Event]]:
    """A start and events under which the running total never falls below 1."""
    while True:
        start = total = rng.randint(10, 99)
        events = []
        for _ in range(difficulty + 1):
            grouped = rng.random() < 0.4
            event = Event(
                sign=rng.choice((1, -1)),
                count=rng.randint(2, 6) if grouped else 1,
                size=rng.randint(2, 9) if grouped else rng.randint(3, 40),
            )
            events.append(event)
            total += event.sign * event.amount
            if total < 1:
                break
        else:
            return start, events


def tell(start: int, events: list[Event], rng: random.Random) -> str:
    """The whole question."""
    return " ".join(sentences(start, events, rng))


def sentences(start: int, events: list[Event], rng: random.Random) -> list[str]:
    """How it begins, what happens event by event, and the question."""
    they = rng.choice(("She", "He"))
    owner = rng.choice(NAMES[they])
    items = rng.choice(ITEMS)
    told = [f"{owner} has {start} {items}."]
    for event in events:
        if event.count > 1:
            template = rng.choice(GAIN_GROUPS if event.sign > 0 else LOSE_GROUPS)
        else:
            template = rng.choice(GAIN if event.sign > 0 else LOSE)
        sentence = template.format(
            they=they,
            they2="her" if they == "She" else "him",
            n=event.count if event.count > 1 else event.size,
            m=event.size,
            items=items,
            boxes=rng.choice(BOXES),
            other=rng.choice([name for names in NAMES.values() for name in names if name != owner]),
        )
        told.append(f"{sentence[0].upper()}{sentence[1:]}.")
    return [*told, f"How many {items} does {owner} have now?"]


def solve(start: int, events: list[Event], total: int, rng: random.Random) -> str:
    """A right chain of thought, in a style drawn at random."""
    (style,) = rng.choices((step_by_step, gathered, at_once), STYLE_WEIGHTS)
    return " ".join([*style(start, events, rng), f"The answer is {total}."])


def step_by_step(start: int, events: list[Event], rng: random.Random) -> list[str]:
    """In the order of the story, each product either first of all or where it is needed."""
    products = [f"{e.count}*{e.size}={e.amount}." for e in events if e.count > 1]
    products_first = rng.random() < 0.5
    steps = products if products_first else []
    total = start
    for event in events:
        if event.count > 1 and not products_first:
            steps.append(products.pop(0))
        steps.append(f"{total}{'+' if event.sign > 0 else '-'}{event.amount}={total + event.sign * event.amount}.")
        total += event.sign * event.amount
    return steps


def gathered(start: int, events: list[Event], rng: random.Random) -> list[str]:
    """All gains and all losses summed first, then applied."""
    steps = [f"{e.count}*{e.size}={e.amount}." for e in events if e.count > 1]
    total = start
    for sign in (1, -1):
        amounts = [e.amount for e in events if e.sign == sign]
        if not amounts:
            continue
        rng.shuffle(amounts)
        gathered_amount = amounts[0]
        for amount in amounts[1:]:
            steps.append(f"{gathered_amount}+{amount}={gathered_amount + amount}.")
            gathered_amount += amount
        steps.append(f"{total}{'+' if sign > 0 else '-'}{gathered_amount}={total + sign * gathered_amount}.")
        total += sign * gathered_amount
    return steps


def at_once(start: int, events: list[Event], rng: random.Random) -> list[str]:
    """A single equation."""
    terms = [f"{'+' if e.sign > 0 else '-'}{f'{e.count}*{e.size}' if e.count > 1 else e.size}" for e in events]
    total = start + sum(event.sign * event.amount for event in events)
    return [f"{start}{''.join(terms)}={total}."]


TASK = Task("arithmetic", NUMBER, source="generated here", licence="Apache-2.0", generate=read)
