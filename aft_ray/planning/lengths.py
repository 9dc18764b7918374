"""How many questions a run has and how long they are: of its files, or as the user says where those are not here."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from transformers import AutoTokenizer

from aft_ray.config import RunConfig
from aft_ray.places import fetched
from aft_ray.planning.work import Lengths
from aft_ray.sampling.given import read_given
from aft_ray.tasks import make_tasks, read_questions
from aft_ray.tasks.tokens import tokenize_questions
from schemas import Question


def find_lengths(
    config: RunConfig, questions: int | None, held_out: int | None, prompt_tokens: float | None, chain_tokens: float | None
) -> Lengths:
    """What is told takes the place of what is found. Sampled chains are taken to be as long as the references.

    Raises ValueError where neither is there, BadInputError where the files are broken.
    """
    weights = config.task.weights
    if all(value is not None for value in (questions, held_out, prompt_tokens, chain_tokens)):
        of_all = statistics.fmean(weights.values())  # of how many questions each has nothing is known
        given = (questions or 0) if config.sampling.only_given else 0  # and as many chains of each as would be sampled
        of_them = (given, float(config.sampling.k), of_all, of_all)
        return Lengths(questions or 0, questions or 0, held_out or 0, prompt_tokens or 0.0, chain_tokens or 0.0, *of_them)
    files = [file for part in config.task.single for file in (part.train_file, part.test_file)]
    missing = [str(file) for file in files if not is_here(file)]
    model = fetched(config.model.path, weights=False)
    if not (model / "tokenizer.json").is_file():
        missing.append(f"{config.model.path}/tokenizer.json")
    if missing:
        options = "--questions, --held-out, --prompt-tokens and --chain-tokens"
        raise ValueError(f"{missing[0]} is not here: say with {options} what it would tell")
    tokenizer = AutoTokenizer.from_pretrained(model)
    found = read_questions(config.task, config.seed)
    found = found.only(tokenize_questions(found.questions, make_tasks(config.task), tokenizer, config.prompt))
    tokenized = found.questions
    train = [question for question in tokenized if question.split == "train"]
    with_reference = [question for question in train if question.reference is not None]
    references = [len(question.reference_ids) for question in with_reference]
    prompts = [len(question.prompt_ids) for question in tokenized]
    chains = config.sampling.candidates_file
    told = Console(quiet=True)
    own = read_given(chains, tokenized, tokenizer, config.prompt.chat, told, None, found.set_aside) if chains else []
    return Lengths(
        train=questions or len(train),
        references=min(questions or len(references), len(references)),
        held_out=held_out or len(tokenized) - len(train),
        prompt=prompt_tokens or statistics.fmean(prompts),
        chain=chain_tokens or (statistics.fmean(references) if references else config.sampling.max_new_tokens / 2),
        given=min(len(own), questions or len(train)),
        given_chains=statistics.fmean(len(group.candidates) for group in own) if own else 0.0,
        passes=mean_weight(weights, train),
        reference_passes=mean_weight(weights, with_reference),
    )


def mean_weight(weights: Mapping[str, float], questions: Sequence[Question]) -> float:
    return statistics.fmean(weights[question.task] for question in questions) if questions else 1.0


def is_here(file: Path | None) -> bool:
    """What is generated or comes from a hub needs no file."""
    return file is None or str(file).startswith("hf:") or file.exists()
