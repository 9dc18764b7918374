"""Tasks, one file each: how to read questions, ask them, and check answers."""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aft_ray.config import LabellingConfig, TaskConfig
from aft_ray.isolated import shared
from aft_ray.tasks import aqua, arithmetic, competition_math, custom, ecqa, gsm8k, mmlu, svamp
from aft_ray.tasks.answers import Answer
from aft_ray.tasks.base import BadInputError, Task
from aft_ray.tasks.files import read_file, where
from schemas import Question, Split

TASKS = {task.TASK.name: task.TASK for task in (gsm8k, aqua, ecqa, competition_math, svamp, mmlu, arithmetic)}


@dataclass(frozen=True)
class QuestionSet:
    """All questions of a run, and what was left out or found on the way, by task."""

    questions: tuple[Question, ...]
    counts: dict[str, int]
    set_aside: tuple[Question, ...] = ()
    """In the files, and not used by this run: doubles, leaks, more than were wanted."""

    def only(self, questions: Sequence[Question]) -> "QuestionSet":
        """These of them; the others are set aside."""
        kept = {question.question_id for question in questions}
        aside = tuple(question for question in self.questions if question.question_id not in kept)
        return QuestionSet(tuple(questions), self.counts, self.set_aside + aside)

    @property
    def train(self) -> list[Question]:
        return [question for question in self.questions if question.split == "train"]

    @property
    def held_out(self) -> list[Question]:
        return [question for question in self.questions if question.split != "train"]


def make_tasks(config: TaskConfig) -> dict[str, Task]:
    """The tasks of a run by the name that its questions carry."""
    return {single.label: make_task(single) for single in config.single}


def make_task(config: TaskConfig) -> Task:
    task = custom.make_task(config) if config.name == "custom" else TASKS[config.name]
    return task if config.template is None else dataclasses.replace(task, template=config.template)


def own_checks(tasks: dict[str, Task]) -> list[str]:
    """Functions of the user's that check answers, `module:name`."""
    return [task.answer.isolated for task in tasks.values() if task.answer.name == "function" and task.answer.isolated]


def read_questions(config: TaskConfig, seed: int) -> QuestionSet:
    """The questions of all tasks. Raises BadInputError with every fault of all files, and where two rows contradict each other.

    A training question that is held out as well, or stands twice, is left out of train and counted. Held-out sets stay as
    they are published.
    """
    faults: list[str] = []
    counts: Counter[str] = Counter()
    read = [(single, read_task(single, seed, faults)) for single in config.single]
    faults += contradictions(read)
    if faults:
        raise BadInputError(faults)
    held_out = {_leak_key(question) for _, questions in read for question in questions if question.split != "train"}
    seen: set[tuple[str, ...]] = set()
    kept = [question for single, questions in read for question in _kept(single, questions, held_out, seen, counts)]
    return QuestionSet(tuple(question for _, questions in read for question in questions), dict(counts)).only(kept)


def read_task(config: TaskConfig, seed: int, faults: list[str]) -> list[Question]:
    """Training and held-out questions of one task, in the order of its files."""
    task = make_task(config)
    if task.generate is not None:
        return task.generate(config, seed)
    files: list[tuple[Path | None, Split]] = [(config.train_file, "train"), (config.test_file, config.held_out_split)]
    return [q for path, split in files if path is not None for q in read_file(path, split, task, config, faults)]


def contradictions(read: list[tuple[TaskConfig, list[Question]]]) -> list[str]:
    """Questions that stand twice with golds of which the check of their task does not take one for the other."""
    first: dict[tuple[str, ...], tuple[TaskConfig, Question]] = {}
    faults = []
    for config, questions in read:
        answer = make_task(config).answer
        for question in questions:
            config_before, before = first.setdefault(_key(question), (config, question))
            if before.gold != question.gold and (
                make_task(config_before).answer != answer or not _same_gold(before, question, answer)
            ):
                same = f"the same question as {where(before, config_before)}, gold {before.gold!r:.40}"
                faults.append(f"{where(question, config)}: gold {question.gold!r:.40}, {same}")
    return faults


def _same_gold(one: Question, other: Question, answer: Answer) -> bool:
    if answer.name == "function":  # it takes completions, and no gold for one
        return False
    verdict = answer.compare(other.gold, one.gold, other.choices)
    if verdict is None and answer.isolated is not None:
        return bool(shared(LabellingConfig().check_seconds).call(answer.isolated, other.gold, one.gold).value)
    return verdict == "right"


def _kept(
    config: TaskConfig,
    questions: list[Question],
    held_out: set[str],
    seen: set[tuple[str, ...]],
    counts: Counter[str],
) -> list[Question]:
    """A task's questions without leaks and doubles, as many as wanted, with as many references as wanted."""
    train: list[Question] = []
    for question in questions:
        if question.split != "train":
            continue
        if _leak_key(question) in held_out:
            counts[f"{config.label}: left out of train, held out as well"] += 1
        elif _key(question) in seen:
            counts[f"{config.label}: left out of train, twice"] += 1
        else:
            seen.add(_key(question))
            train.append(question)
    train = train[: config.train_questions]
    if config.references is not None:
        train = train[: config.references] + [q.model_copy(update={"reference": None}) for q in train[config.references :]]
    return train + [question for question in questions if question.split != "train"][: config.test_questions]


def _key(question: Question) -> tuple[str, ...]:
    """What makes two questions the same: text and options, whatever their case and white space."""
    return tuple(" ".join(part.split()).casefold() for part in (question.text, *question.choices))


def _leak_key(question: Question) -> str:
    """Also without punctuation and options: the same question with other wrong options gives its answer away all the same."""
    return re.sub(r"[^\w+*/=<>-]+|_", "", question.text).casefold()


__all__ = ["TASKS", "BadInputError", "QuestionSet", "Task", "make_task", "make_tasks", "read_questions"]
