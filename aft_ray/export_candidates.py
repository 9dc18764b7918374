"""`aft-ray export`: the candidates of a run as data sets that other trainers take.

preference           prompt, chosen, rejected: every pair of a right and a wrong chain of a question, for TRL's DPOTrainer
prompt-completion    prompt, completion: every right chain, for TRL's SFTTrainer
messages             messages: a question and a right chain as a conversation, as OpenAI's fine-tuning takes them

Formats: https://huggingface.co/docs/trl/dataset_formats and https://platform.openai.com/docs/guides/supervised-fine-tuning
"""

import tempfile
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, disable_progress_bars
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from aft_ray.config import RunConfig
from aft_ray.places import Place, fetched
from aft_ray.report.found import FoundRun
from aft_ray.tasks.base import body
from schemas import Candidate, CandidateGroup, Question, iter_parquet

Kind = Literal["preference", "prompt-completion", "messages"]
Row = dict[str, Any]


def export_candidates(run: Place, kind: Kind, split: str, out: Path) -> int:
    """Writes JSON lines, Parquet, or a directory that `datasets.load_from_disk` reads, by the ending of `out`; returns the rows.

    Raises NoRunError where there is no run, FileNotFoundError where it has sampled nothing, ValueError where there is nothing to
    write, or not known how.
    """
    if out.suffix not in ("", ".jsonl", ".parquet"):
        raise ValueError(f"{out}: expected a name that ends in .jsonl or .parquet, or a directory's")
    if out.suffix == "" and out.exists():
        raise ValueError(f"{out}: there already")
    found = FoundRun(run)
    tokenizer = AutoTokenizer.from_pretrained(fetched(model_of(found), weights=False))
    groups = (group for stage in found.sampling_stages for group in iter_parquet(run / stage / "groups", CandidateGroup))
    rows = [row for group in groups if group.question.split == split for row in ROWS[kind](group, tokenizer)]
    if not rows:
        raise ValueError(f"{run}: no {kind} of split {split}")
    disable_progress_bars()
    data = Dataset.from_list(rows)
    write: dict[str, Callable[[str], object]] = {".jsonl": data.to_json, ".parquet": data.to_parquet}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as aside:
        whole = Path(aside) / out.name
        write.get(out.suffix, data.save_to_disk)(str(whole))
        whole.replace(out)
    return len(rows)


def model_of(run: FoundRun) -> Place:
    """One whose tokenizer the run has; all of its models have the same. VFT's lies in the run, the base model may be gone.

    Where VFT may have been left out, what lies there may be of an earlier run, with another base model.
    """
    config, vft = RunConfig.model_validate(run.config), run.folder / "vft" / "model"
    made = config.sampling.sample_from == config.alignment.start_from == "vft"
    return vft if made and vft.is_dir() else config.model.path


def preferences(group: CandidateGroup, tokenizer: PreTrainedTokenizerBase) -> Iterator[Row]:
    for right in of_label(group, "positive"):
        for wrong in of_label(group, "negative"):
            chosen, rejected = said(right, tokenizer), said(wrong, tokenizer)
            yield {"prompt": prompt_of(group.question, tokenizer), "chosen": chosen, "rejected": rejected}


def completions(group: CandidateGroup, tokenizer: PreTrainedTokenizerBase) -> Iterator[Row]:
    for right in of_label(group, "positive"):
        yield {"prompt": prompt_of(group.question, tokenizer), "completion": said(right, tokenizer)}


def conversations(group: CandidateGroup, tokenizer: PreTrainedTokenizerBase) -> Iterator[Row]:
    for right in of_label(group, "positive"):
        answer = {"role": "assistant", "content": right.text.strip()}
        yield {"messages": [{"role": "user", "content": body(group.question)}, answer]}


ROWS: dict[str, Callable[[CandidateGroup, PreTrainedTokenizerBase], Iterator[Row]]] = {
    "preference": preferences,
    "prompt-completion": completions,
    "messages": conversations,
}


def of_label(group: CandidateGroup, label: str) -> list[Candidate]:
    return [candidate for candidate in group.candidates if candidate.label == label]


def said(candidate: Candidate, tokenizer: PreTrainedTokenizerBase) -> str:
    """As it stands behind the prompt: the text of one from a file says nothing of the white space between them."""
    if candidate.log_likelihood is not None:
        return candidate.text
    text: str = tokenizer.decode(candidate.token_ids, skip_special_tokens=True)
    return text


def prompt_of(question: Question, tokenizer: PreTrainedTokenizerBase) -> str:
    """As the model reads it, without what the tokenizer puts before every text, as trainers will have it do again."""
    pairs = zip(tokenizer("")["input_ids"], question.prompt_ids, strict=False)
    before = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    text: str = tokenizer.decode(question.prompt_ids[before:])
    return text
