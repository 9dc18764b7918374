"""Prompts: plain, by the model's own chat template, with examples; and how they become tokens."""

import pytest
from transformers import AutoTokenizer

from aft_ray.config import PromptConfig
from aft_ray.tasks import TASKS, BadInputError
from aft_ray.tasks.tokens import tokenize_questions
from schemas import Question

CHAT = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


def question(number, reference="1+1=2. The answer is 2.", **fields):
    values = {"task": "gsm8k", "split": "train", "text": f"What is 1+{number}?", "gold": "2"} | fields
    return Question(question_id=str(number), reference=reference, **values)


def asked(tokenizer, questions, **settings):
    return tokenize_questions(questions, TASKS, tokenizer, PromptConfig(**settings))


def test_a_plain_prompt_begins_as_the_tokenizer_begins_and_a_chain_ends_with_end_of_sequence(tokenizer):
    (found,) = asked(tokenizer, [question(1)])
    assert tokenizer.decode(found.prompt_ids) == "<s>Question: What is 1+1?\nAnswer:"
    assert tokenizer.decode(found.reference_ids) == " 1+1=2. The answer is 2.</s>"
    together = tokenizer("Question: What is 1+1?\nAnswer: 1+1=2. The answer is 2.")["input_ids"]
    assert [*found.prompt_ids, *found.reference_ids] == [*together, tokenizer.eos_token_id]


def test_options_stand_in_the_prompt(tokenizer):
    (found,) = asked(tokenizer, [question(1, task="ecqa", gold="B", choices=("mess", "cake"))])
    assert tokenizer.decode(found.prompt_ids) == "<s>Question: What is 1+1?\nOptions:\n(A) mess\n(B) cake\nAnswer:"


def test_examples_come_from_train_and_are_no_questions_any_more(tokenizer):
    questions = [question(1), question(2, reference=None), question(3), question(4), question(5, split="test", reference=None)]
    found = asked(tokenizer, questions, few_shot=2)
    assert [q.question_id for q in found] == ["2", "4", "5"]
    shots = "".join(f"Question: What is 1+{n}?\nAnswer: 1+1=2. The answer is 2.\n\n" for n in (1, 3))
    for one in found:
        assert tokenizer.decode(one.prompt_ids) == f"<s>{shots}Question: {one.text}\nAnswer:"


def test_too_few_examples_are_refused(tokenizer):
    with pytest.raises(BadInputError, match=r"task gsm8k: fewer than prompt\.few_shot = 2"):
        asked(tokenizer, [question(1), question(2, reference=None)], few_shot=2)


def test_the_chat_template_is_the_models_own(tokenizer, tiny_llama):
    with pytest.raises(BadInputError, match="no chat template"):
        asked(tokenizer, [question(1)], chat=True)
    chatting = AutoTokenizer.from_pretrained(tiny_llama)
    chatting.chat_template = CHAT
    (found,) = asked(chatting, [question(1), question(2)], chat=True, few_shot=1)
    assert chatting.decode(found.prompt_ids) == (
        "<s>user\nWhat is 1+1?</s><s>assistant\n1+1=2. The answer is 2.</s><s>user\nWhat is 1+2?</s><s>assistant\n"
    )
    assert chatting.decode(found.reference_ids) == "1+1=2. The answer is 2.</s>"


class EndsEveryText:
    """A tokenizer that writes an end-of-sequence behind every text, as some do."""

    def __init__(self, tokenizer):
        self.tokenizer, self.eos_token_id, self.chat_template = tokenizer, tokenizer.eos_token_id, None

    def __call__(self, texts, **settings):
        found = self.tokenizer(texts, **settings)["input_ids"]
        return {"input_ids": [[*ids, self.eos_token_id] for ids in found]}


def test_a_prompt_never_ends_by_itself(tokenizer):
    questions = [question(1), question(2, reference=None)]
    assert asked(EndsEveryText(tokenizer), questions) == asked(tokenizer, questions)


def test_a_tokenizer_that_knows_no_end_of_a_text_is_refused(tiny_llama):
    endless = AutoTokenizer.from_pretrained(tiny_llama)
    endless.eos_token = None
    with pytest.raises(BadInputError, match="no end-of-sequence token"):
        asked(endless, [question(1)])
