"""A look at the questions before anything is spent on them: by a run before it starts, and by `aft-ray check`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from aft_ray.config import LabellingConfig, PromptConfig, TaskConfig
from aft_ray.isolated import NotLoadableError, shared
from aft_ray.tasks import BadInputError, QuestionSet, Task, make_tasks, own_checks, read_questions
from aft_ray.tasks.answers import check_answer
from aft_ray.tasks.base import chain, prompt
from aft_ray.tasks.files import where
from aft_ray.tasks.tokens import tokenize_questions
from schemas import Question

EXAMPLES = 5
# A model learns from references how to state an answer; where most of them do not, none of its own will be readable.
LEAST_READABLE_REFERENCES = 0.9


@dataclass(frozen=True)
class Limits:
    """Tokens."""

    prompt: int
    prompt_and_reference: int


@dataclass
class TaskReport:
    """What the check found of one task. Lengths are in tokens, sorted."""

    task: str
    questions: list[Question]
    golds_accepted: int = 0
    references_right: int = 0
    prompt_lengths: list[int] = field(default_factory=list)
    chain_lengths: list[int] = field(default_factory=list)

    @property
    def train(self) -> list[Question]:
        return [question for question in self.questions if question.split == "train"]

    @property
    def references(self) -> list[Question]:
        return [question for question in self.questions if question.reference is not None]


def read_tokenizer(model: Path) -> PreTrainedTokenizerBase:
    """Raises BadInputError where the directory of a model holds none that can be loaded."""
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
        return found
    except Exception as error:  # of the tokenizers' own library, which has but one kind
        told = "no tokenizer that can be loaded, expected a Hugging Face model directory with tokenizer.json"
        raise BadInputError([f"{model}: {told} ({' '.join(str(error).split())[:200]})"]) from None


def check_questions(
    task: TaskConfig, seed: int, tokenizer: PreTrainedTokenizerBase | None, prompt: PromptConfig, labelling: LabellingConfig
) -> tuple[QuestionSet, list[TaskReport]]:
    """Read, tokenize and check all questions. Raises BadInputError where the files, the golds or the references are broken."""
    tasks = make_tasks(task)
    load_functions(tasks, labelling)
    found = read_questions(task, seed)
    if tokenizer is not None:
        found = found.only(tokenize_questions(found.questions, tasks, tokenizer, prompt))
    reports = []
    faults: list[str] = []
    for single in task.single:
        of_task = [question for question in found.questions if question.task == single.label]
        reports.append(report_task(single, of_task, tasks[single.label], labelling, faults))
    if faults:
        raise BadInputError(faults)
    return found, reports


def load_functions(tasks: dict[str, Task], labelling: LabellingConfig) -> None:
    """Raises BadInputError where a function of the user's cannot be imported, now and not after hours of sampling."""
    faults = []
    for function in [*own_checks(tasks), labelling.reward]:
        try:
            if function is not None:
                shared(labelling.check_seconds).load(function)
        except NotLoadableError as error:
            faults.append(f"{error}; it must be importable where the job runs")
    if faults:
        raise BadInputError(faults)


def report_task(
    config: TaskConfig, questions: list[Question], task: Task, labelling: LabellingConfig, faults: list[str]
) -> TaskReport:
    """Faults are appended: golds that the task's own check does not accept, references that do not state theirs."""
    report = TaskReport(config.label, questions)
    isolated = shared(labelling.check_seconds)
    unreadable = []
    for question in questions:
        statement = task.answer.statement.format(gold=question.gold)
        if (
            task.answer.name == "function"
            or check_answer(statement, question.gold, question.choices, task.answer, isolated).verdict == "right"
        ):
            report.golds_accepted += 1
        else:
            faults.append(f"{where(question, config)}: gold {question.gold!r:.60} is not accepted by the task's own check")
        if question.reference is not None:
            check = check_answer(question.reference, question.gold, question.choices, task.answer, isolated)
            if check.verdict == "right":
                report.references_right += 1
            else:
                said = f"states {check.extracted!r:.40}" if check.extracted is not None else check.reason
                unreadable.append(f"{where(question, config)}: reference {said}, gold is {question.gold!r:.40}")
    if report.references_right < LEAST_READABLE_REFERENCES * len(report.references):
        share = f"{len(unreadable)} of {len(report.references)} references of task {config.label} do not state the gold answer"
        faults.append(f"{share}, expected one as in {task.answer.statement.format(gold='GOLD')!r} at the end of nearly all")
        faults += unreadable
    report.prompt_lengths = sorted(len(question.prompt_ids) for question in questions)
    report.chain_lengths = sorted(len(question.reference_ids) for question in report.references)
    return report


def describe_report(report: TaskReport, limits: Limits, counts: dict[str, int]) -> list[str]:
    """The report in lines."""
    train, held_out = len(report.train), len(report.questions) - len(report.train)
    with_reference = sum(question.reference is not None for question in report.train)
    lines = [f"{report.task}: {train:,} training questions ({with_reference:,} with reference), {held_out:,} held out"]
    lines += [
        f"  {what.removeprefix(f'{report.task}: ')}: {count:,}"
        for what, count in counts.items()
        if what.startswith(f"{report.task}: ")
    ]
    total = len(report.questions)
    lines.append(f"  gold accepted by the task's own check: {report.golds_accepted:,} of {total:,}")
    if report.references:
        lines.append(f"  references that state the gold answer: {report.references_right:,} of {len(report.references):,}")
    if report.prompt_lengths and report.prompt_lengths[-1] > 0:
        cut = sum(length > limits.prompt for length in report.prompt_lengths)
        lines.append(f"  prompt tokens: {_lengths(report.prompt_lengths)}; over {limits.prompt}, not asked: {cut:,}")
    if report.chain_lengths and report.chain_lengths[-1] > 0:
        cut = sum(len(q.prompt_ids) + len(q.reference_ids) > limits.prompt_and_reference for q in report.references)
        over = f"over {limits.prompt_and_reference} with prompt, left out: {cut:,}"
        lines.append(f"  reference tokens: {_lengths(report.chain_lengths)}; {over}")
    return lines


def print_report(reports: Sequence[TaskReport], limits: Limits, counts: dict[str, int], console: Console) -> None:
    for report in reports:
        for line in describe_report(report, limits, counts):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_examples(report: TaskReport, task: Task, tokenizer: PreTrainedTokenizerBase | None, console: Console) -> None:
    """The first questions as the model will see them: the prompt, and in green the reference up to the end of sequence."""
    for question in report.questions[:EXAMPLES]:
        if tokenizer is None:
            asked, behind = prompt(question, task), chain(question.reference or "")
        else:
            asked, behind = tokenizer.decode(question.prompt_ids), tokenizer.decode(question.reference_ids)
        console.rule(question.question_id, align="left")
        console.print(f"{escape(asked)}[green]{escape(behind)}[/]", highlight=False, soft_wrap=True)
        console.print(f"gold {question.gold}", style="dim", markup=False, highlight=False)


def _lengths(ordered: list[int]) -> str:
    """Of sorted lengths."""
    p50, p99 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99))
    return f"p50 {p50:,}, p99 {p99:,}, max {ordered[-1]:,}"
