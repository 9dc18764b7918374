"""How questions and references become tokens: once, for training, sampling and scoring alike.

The token ids stand in the Question record, so the three cannot differ.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from aft_ray.config import PromptConfig
from aft_ray.tasks.base import BadInputError, Task, body, chain, prompt
from schemas import Question

Ids = tuple[int, ...]


def tokenize_questions(
    questions: Sequence[Question], tasks: dict[str, Task], tokenizer: PreTrainedTokenizerBase, config: PromptConfig
) -> list[Question]:
    """The same questions with `prompt_ids` and `reference_ids`.

    With few-shot examples the first training questions of each task that have a reference become the examples of all its
    others, and are no questions any more. Raises BadInputError where a task has too few, or the model's tokenizer has no chat
    template, or no token that ends a text.
    """
    if config.chat and tokenizer.chat_template is None:
        raise BadInputError([f"{tokenizer.name_or_path}: no chat template, which prompt.chat needs"])
    if tokenizer.eos_token_id is None:
        raise BadInputError([f"{tokenizer.name_or_path}: no end-of-sequence token (eos_token), by which a chain of thought ends"])
    shots = choose_shots(questions, config.few_shot)
    asked = not_taken(questions, shots)
    texts = [prompt_text(question, tasks[question.task], shots[question.task], tokenizer, config.chat) for question in asked]
    behind = ["" if question.reference is None else continued(question.reference, config.chat) for question in asked]
    # A chat template writes the tokens that begin a text by itself.
    prompts = tokenize(texts, tokenizer, add_special_tokens=not config.chat)
    references = chain_ids(texts, behind, prompts, tokenizer, add_special_tokens=not config.chat)
    return [
        question.model_copy(update={"prompt_ids": ids, "reference_ids": () if question.reference is None else reference})
        for question, ids, reference in zip(asked, prompts, references, strict=True)
    ]


def tokenize(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, add_special_tokens: bool) -> list[Ids]:
    """Without an end-of-sequence, which some tokenizers put behind every text: a prompt goes on, and a chain's end is ours."""
    if not texts:
        return []
    found = tokenizer(list(texts), add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
    return [tuple(ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids) for ids in found]


def choose_shots(questions: Sequence[Question], number: int) -> dict[str, list[Question]]:
    """The examples of each task. Raises BadInputError where a task has too few references."""
    shots: dict[str, list[Question]] = {question.task: [] for question in questions}
    if number == 0:
        return shots
    for question in questions:
        if question.split == "train" and question.reference is not None and len(shots[question.task]) < number:
            shots[question.task].append(question)
    short = [task for task, examples in shots.items() if len(examples) < number]
    if short:
        raise BadInputError(
            [f"task {task}: fewer than prompt.few_shot = {number} training questions with reference" for task in short]
        )
    return shots


def not_taken(questions: Sequence[Question], shots: dict[str, list[Question]]) -> list[Question]:
    """Those that have not become examples of the others."""
    taken = {shot.question_id for examples in shots.values() for shot in examples}
    return [question for question in questions if question.question_id not in taken]


def prompt_text(question: Question, task: Task, shots: Sequence[Question], tokenizer: PreTrainedTokenizerBase, chat: bool) -> str:
    """All that the model reads before its chain of thought."""
    if not chat:
        return plain_prompt(question, task, shots)
    text: str = tokenizer.apply_chat_template(conversation(question, shots), tokenize=False, add_generation_prompt=True)
    return text


def plain_prompt(question: Question, task: Task, shots: Sequence[Question]) -> str:
    examples = "".join(f"{prompt(shot, task)}{chain(shot.reference or '')}\n\n" for shot in shots)
    return examples + prompt(question, task)


def conversation(question: Question, shots: Sequence[Question]) -> list[dict[str, str]]:
    """For a chat template."""
    messages = []
    for shot in shots:
        messages += [{"role": "user", "content": body(shot)}, {"role": "assistant", "content": shot.reference or ""}]
    return [*messages, {"role": "user", "content": body(question)}]


def continued(text: str, chat: bool) -> str:
    """A chain as it stands behind the prompt."""
    return text if chat else chain(text)


def chain_ids(
    texts: Sequence[str],
    behind: Sequence[str],
    prompts: Sequence[Ids],
    tokenizer: PreTrainedTokenizerBase,
    add_special_tokens: bool,
) -> list[Ids]:
    """The tokens of chains behind their prompts, end-of-sequence included.

    Cut out of the tokens of both together, as a model would go on writing: alone, some tokenizers put a space of their own
    before a text. Where the border falls inside a token, the chain is tokenized alone.
    """
    together = tokenize([text + chained for text, chained in zip(texts, behind, strict=True)], tokenizer, add_special_tokens)
    alone = tokenize(behind, tokenizer, add_special_tokens=False)
    return [
        (*(whole[len(ids) :] if whole[: len(ids)] == ids else chained), tokenizer.eos_token_id)
        for whole, ids, chained in zip(together, prompts, alone, strict=True)
    ]
