"""Tasks, one file each: how to read questions, ask them, and check answers."""

from aft_ray.config import TaskConfig
from aft_ray.tasks import arithmetic, gsm8k
from aft_ray.tasks.base import BadInputError, Task
from schemas import Question

TASKS = {
    "gsm8k": Task("gsm8k", gsm8k.read),
    "arithmetic": Task("arithmetic", arithmetic.read),
}


def read_questions(config: TaskConfig, seed: int) -> list[Question]:
    """All questions of a run, references kept for the first `config.references` training questions only.

    Raises BadInputError where the files have faults, or train and held-out questions overlap.
    """
    questions = TASKS[config.name].read(config, seed)
    held_out = {question.text for question in questions if question.split != "train"}
    leaks = [question for question in questions if question.split == "train" and question.text in held_out]
    if leaks:
        raise BadInputError([f"{leak.question_id}: the same question is held out, expected disjoint sets" for leak in leaks])
    if config.references is None:
        return questions
    kept = {question.question_id for question in questions[: config.references] if question.split == "train"}
    return [q if q.question_id in kept else q.model_copy(update={"reference": None}) for q in questions]


__all__ = ["TASKS", "BadInputError", "Task", "read_questions"]
