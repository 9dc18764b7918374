"""How questions and references become tokens: the same in training, sampling and scoring."""

from transformers import PreTrainedTokenizerBase

from aft_ray.tasks import TASKS
from schemas import Question


def prompt_ids(question: Question, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The prompt, with whatever the tokenizer puts before a text."""
    return tuple(tokenizer(TASKS[question.task].prompt(question))["input_ids"])


def reference_ids(question: Question, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The reference as the model should write it behind the prompt, end-of-sequence included."""
    assert question.reference is not None
    text = TASKS[question.task].chain(question.reference)
    return (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
