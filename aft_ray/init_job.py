"""`aft-ray init`: from a file of questions to a job file that runs."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from aft_ray.config import FieldsConfig, TaskConfig
from aft_ray.places import write_atomically
from aft_ray.preflight import check_model
from aft_ray.tasks import BadInputError, make_task, read_questions
from aft_ray.tasks.base import Asked
from aft_ray.tasks.files import parse_row, rows

# What columns are called in files that people have, the likeliest first.
NAMES = {
    "question": ("question", "problem", "prompt", "input", "query", "instruction"),
    "gold": ("gold", "final_answer", "answer", "target", "label", "correct", "output", "solution"),
    "choices": ("choices", "options"),
    "reference": ("reference", "rationale", "solution", "chain_of_thought", "cot", "explanation", "reasoning"),
}
# `x + 1` and `y = 3`; a hyphen or a slash also stands between words.
OPERATOR = re.compile(r"[\w)\]}]\s*[+*^=<>\u00b1\u00d7\u00f7\u2264\u2265]\s*[\w(\[{-]")
# A number with its unit.
QUANTITY = re.compile(r"\s*[+-]?\d[\d.,/]*\s*[a-z]+\.?\s*")
# In `Apollo 11`; not the `ab` of `2ab`, nor the names of functions.
WORD = re.compile(r"\b(?!(?:sqrt|pi|sin|cos|tan|log|ln|exp|infty)(?![^\W\d_]))[^\W\d_]{2,}|^\W*[^\W\d_]\W*$")
# Of four words or more, as in `0 plus 2 makes 2.`; a solution that ends in `#### 2` or a box is one that a gold is read from.
SENTENCE = re.compile(r"(?:\S+\s+){3}\S+[.!?](?=\s|$)")
ANSWER_IN_SOLUTION = re.compile(r"####|oxed\s*\{")
HELD_OUT_EVERY = 5
BUILT_IN = ("gsm8k", "aqua", "ecqa", "svamp", "math")
TEMPLATE = '''"""Alignment fine-tuning on {file}.

Run as:  aft-ray run {job}     Any setting can follow, as in --alignment.beta 0.1.
"""

from pathlib import Path

from aft_ray.cli import run_job
from aft_ray.config import {imported}

HERE = Path(__file__).parent

JOB = RunConfig(
    name={name!r},
    runs_dir=HERE / "runs",
    model=ModelConfig(path={model}, precision={precision!r}),
    task=TaskConfig(
        name={task!r},
        train_file={train},
        test_file={test},{custom}
    ),{without_vft}
    resources=ResourcesConfig({resources}),
)

if __name__ == "__main__":
    run_job(JOB)
'''
IMPORTED = ["FieldsConfig", "ModelConfig", "ResourcesConfig", "RunConfig", "TaskConfig"]
WITHOUT_VFT = """
    # No training question has a reference, a chain of thought to learn from by VFT: the base model is sampled, and aligned.
    sampling=SamplingConfig(sample_from="base"),
    alignment=AlignmentConfig(start_from="base"),"""


class Written(NamedTuple):
    """What a job file says."""

    task: TaskConfig
    vft: bool
    """Whether the model first learns from references; where none are there it cannot."""


def init_job(file: Path, test: Path | None, model: Path, out: Path) -> Written:
    """Writes the job file, and where no held-out questions are given, the two parts of the file beside it.

    Every fifth question is then held out. Raises BadInputError where the questions cannot be read, or fit no task, and where
    the directory holds no model.
    """
    check_model(model)
    if test is None and on_hub(file):
        raise BadInputError([f"{file}: held-out questions of a dataset have to be named by --test, as in --test hf:NAME:test"])
    faults: list[str] = []
    found = [row for _, row in rows(file, faults)]
    if faults or not found:
        raise BadInputError(faults or [f"{file}: no rows"])
    if test is None and len(found) < HELD_OUT_EVERY:
        raise BadInputError([f"{file}: {len(found)} rows are too few to hold some out; give held-out ones by --test"])
    parts = [out.parent / f"{file.stem}.{part}.jsonl" for part in ("train", "test")]
    if test is None and (there := [str(part) for part in parts if part.exists()]):
        raise BadInputError([f"{', '.join(there)}: there already; give held-out questions by --test, or another folder by --out"])
    task = task_of(found, file, *((file, test) if test is not None else parts))
    look_at(file, test, task)
    train = found
    if test is None:
        train = [row for number, row in enumerate(found, start=1) if number % HELD_OUT_EVERY]
        write_rows(parts[0], train)
        write_rows(parts[1], found[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    written = Written(task, vft=any(asked.reference for asked in parse_rows(train, file, task, [])))
    write_atomically(out, job_text(file, out, model, written))
    return written


def look_at(file: Path, test: Path | None, task: TaskConfig) -> None:
    """As a run looks at its questions before it starts. Raises BadInputError."""
    found = read_questions(task.model_copy(update={"train_file": file, "test_file": test}), seed=0)
    if not found.train:
        told = f"{file}: all of its questions are held out in {test} as well, so that none is left to train on"
        raise BadInputError([f"{told}; without --test every fifth is held out"])


def write_rows(path: Path, found: Sequence[dict[str, Any]]) -> None:
    """Of columns that are not read, what JSON has no form for becomes a text, and a lone surrogate is escaped."""
    text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in found)
    write_atomically(path, text.encode(errors="backslashreplace").decode())


def task_of(found: Sequence[dict[str, Any]], file: Path, train: Path, test: Path) -> TaskConfig:
    """The first built-in task whose rows these are, else a custom one, by the names of columns and the look of the golds.

    Where some rows fit none, it is the likeliest.
    """
    for name in BUILT_IN:
        config = TaskConfig(name=name, train_file=train, test_file=test)
        if not faults_under(config, found, file):
            return config
    configs = custom_configs(found, file, train, test)
    for config in configs:
        if not faults_under(config, found, file):
            return config
    return configs[0]


def faults_under(config: TaskConfig, found: Sequence[dict[str, Any]], file: Path) -> list[str]:
    faults: list[str] = []
    parse_rows(found, file, config, faults)
    return faults


def parse_rows(found: Sequence[dict[str, Any]], file: Path, config: TaskConfig, faults: list[str]) -> list[Asked]:
    """The rows that are questions of the task; faults of the others are appended."""
    task = make_task(config)
    asked = [parse_row(row, f"{file}:{number}", task, config, faults) for number, row in enumerate(found, start=1)]
    return [one for one in asked if one is not None]


def custom_configs(found: Sequence[dict[str, Any]], file: Path, train: Path, test: Path) -> list[TaskConfig]:
    """Those that may be meant, the likeliest first."""
    columns = list(dict.fromkeys(column for row in found for column in row))
    named = {field: [name for name in of if name in columns] for field, of in NAMES.items()}
    for field in ("question", "gold"):
        if not named[field]:
            raise BadInputError([f"{file}: no column called {', '.join(NAMES[field])}; there are: {', '.join(columns)}"])
    chains = [name for name in named["gold"] if mostly(is_sentence, found, name)]
    golds = [name for name in named["gold"] if name not in chains] or named["gold"]
    if mostly(is_chain, found, golds[0]):
        told = f"{file}: {golds[0]} holds chains of sentences, as in {str(found[0].get(golds[0]))!r:.60}, expected answers alone"
        raise BadInputError([f"{told}: give them in a column of their own, called final_answer"])
    references = [name for name in (*named["reference"], *chains) if name != golds[0]]
    mapped = {"question": named["question"], "gold": golds, "choices": named["choices"], "reference": references}
    fields = FieldsConfig.model_validate({field: names[0] for field, names in mapped.items() if names})
    formal = mostly(is_formal, found, fields.gold)
    kinds = ["choice"] if fields.choices else ["number", "expression", "text"] if formal else ["number", "text"]
    return [TaskConfig(name="custom", train_file=train, test_file=test, fields=fields, answer=kind) for kind in kinds]


def is_formal(gold: str) -> bool:
    r"""Whether it is more of a formula than of a text: `\frac{1}{2}`, `x+1`, `5 cm`; not `Apollo 11`, nor `12 May 1990`.

    An expression's unit may be left out, in a chain too; a text is compared as a whole.
    """
    formula = "\\" in gold or OPERATOR.search(gold) or QUANTITY.fullmatch(gold) or not WORD.search(gold)
    return bool(formula) and not is_sentence(gold)


def is_sentence(gold: str) -> bool:
    r"""Whether an answer is said in it rather than given: `0 + 2 makes 2. The answer is 2.`; not `\boxed{2}` behind that."""
    return bool(WORD.search(gold) and SENTENCE.search(gold)) and ANSWER_IN_SOLUTION.search(gold) is None


def is_chain(gold: str) -> bool:
    first = SENTENCE.search(gold)
    return first is not None and is_sentence(gold) and gold[first.end() :].strip() != ""


def mostly(look: Callable[[str], bool], found: Sequence[dict[str, Any]], column: str) -> bool:
    """Whether more than half of the rows look so in that column."""
    return 2 * sum(look(str(row.get(column))) for row in found) > len(found)


def job_text(file: Path, out: Path, model: Path, written: Written) -> str:
    task = written.task
    assert task.train_file is not None
    assert task.test_file is not None
    custom = ""
    if task.name == "custom":
        changed = ", ".join(f"{name}={value!r}" for name, value in task.fields.model_dump(exclude_defaults=True).items())
        custom = f"\n        answer={task.answer!r},\n        fields=FieldsConfig({changed}),"
    gpus = torch.cuda.device_count()
    on_gpus = f"training_workers={gpus}, gpus_per_training_worker=1, gpus_per_sampling_actor=1, sampling_actors=(1, {gpus})"
    return TEMPLATE.format(
        file=file if on_hub(file) else file.name,
        job=out.name,
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", str(file).removeprefix("hf:") if on_hub(file) else file.stem).lstrip("._-")
        or "mine",
        model=from_here(model, out),
        precision="bf16" if gpus else "fp32",
        task=task.name,
        train=from_here(task.train_file, out),
        test=from_here(task.test_file, out),
        custom=custom,
        imported=", ".join(sorted(IMPORTED if written.vft else [*IMPORTED, "AlignmentConfig", "SamplingConfig"])),
        without_vft="" if written.vft else WITHOUT_VFT,
        resources=on_gpus if gpus else "",
    )


def run_name(file: Path) -> str:
    called = str(file).removeprefix("hf:") if on_hub(file) else file.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", called).lstrip("._-") or "mine"


def on_hub(path: Path) -> bool:
    """Whether it is hf:NAME:SPLIT, which is no path."""
    return str(path).startswith("hf:")


def from_here(path: Path, out: Path) -> str:
    """An expression for a path: of what lies in the job file's folder as seen from there, so that the folder can be moved."""
    if on_hub(path):
        return f"Path({str(path)!r})"
    folder, path = out.parent.absolute(), path.absolute()
    return f"HERE / {str(path.relative_to(folder))!r}" if path.is_relative_to(folder) else f"Path({str(path)!r})"
