"""The candidate groups of a run, for those who read chains: an index that is filtered and put in order, groups read as needed.

Of 100,000 groups the index holds a short row each; whole groups are read from their Parquet files for the page that is shown.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aft_ray.places import Place, files_below
from aft_ray.report.found import FoundRun, NoRunError
from schemas import Candidate, CandidateGroup
from schemas.arrow import ROWS_AT_ONCE, from_table

OF_A_CANDIDATE = ("label", "log_likelihood", "token_ids")
COLUMNS = ["question.question_id", "question.task", "question.split", *(f"candidates.list.element.{c}" for c in OF_A_CANDIDATE)]


@dataclass(frozen=True, slots=True)
class Entry:
    """Of a group: where it is, and what it is looked for by."""

    file: int
    row: int
    question_id: str
    task: str
    split: str
    right: int
    wrong: int
    longest: int
    """Tokens of its longest chain."""
    lead_before: float | None
    """By how much its best wrong chain scores above its worst right one, under the model that sampled; None without a pair."""
    lead_after: float | None
    """The same under the last model, which scores held-out groups only."""

    @property
    def mended(self) -> bool:
        return self.lead_before is not None and self.lead_after is not None and self.lead_before > 0 >= self.lead_after

    @property
    def change(self) -> float:
        """Of the lead of its best wrong chain; where it is not known, more than any."""
        return math.inf if self.lead_before is None or self.lead_after is None else self.lead_after - self.lead_before

    @property
    def broken(self) -> bool:
        return self.lead_before is not None and self.lead_after is not None and self.lead_after > 0 >= self.lead_before


SHOWN: dict[str, Callable[[Entry], bool]] = {
    "all": lambda entry: True,
    "right and wrong chains": lambda entry: bool(entry.right and entry.wrong),
    "right chains alone": lambda entry: bool(entry.right and not entry.wrong),
    "wrong chains alone": lambda entry: bool(entry.wrong and not entry.right),
    "neither": lambda entry: not entry.wrong and not entry.right,
    "a wrong chain preferred before": lambda entry: entry.lead_before is not None and entry.lead_before > 0,
    "mended: wrong preferred before, right after": lambda entry: entry.mended,
    "broken: right preferred before, wrong after": lambda entry: entry.broken,
}
ORDERS: dict[str, Callable[[Entry], Any]] = {
    "mended first": lambda entry: (not entry.mended, entry.change),
    "wrong chains preferred most": lambda entry: -(entry.lead_before if entry.lead_before is not None else -1e9),
    "longest first": lambda entry: -entry.longest,
    "question": lambda entry: entry.question_id,
}


RANGES: dict[str, Callable[[Entry], float | None]] = {
    "right": lambda entry: entry.right,
    "tokens": lambda entry: entry.longest,
    "before": lambda entry: entry.lead_before,
    "after": lambda entry: entry.lead_after,
}


@dataclass(frozen=True)
class Chosen:
    """What a reader wants to see. The ends of a range as they were typed: what is no number bounds nothing."""

    shown: str = "all"
    order: str = "mended first"
    task: str = ""
    split: str = ""
    part_of_id: str = ""
    right_from: str = ""
    right_to: str = ""
    tokens_from: str = ""
    tokens_to: str = ""
    before_from: str = ""
    before_to: str = ""
    after_from: str = ""
    after_to: str = ""

    @cached_property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Of the ranges with an end."""
        ends = {name: [number(getattr(self, f"{name}_{end}")) for end in ("from", "to")] for name in RANGES}
        return {
            name: (-math.inf if low is None else low, math.inf if high is None else high)
            for name, (low, high) in ends.items()
            if low is not None or high is not None
        }

    def takes(self, entry: Entry) -> bool:
        of_kind = SHOWN.get(self.shown, SHOWN["all"])(entry)
        of_task = self.task in ("", entry.task) and self.split in ("", entry.split)
        return of_kind and of_task and self.part_of_id in entry.question_id and self.within(entry)

    def within(self, entry: Entry) -> bool:
        values = ((RANGES[name](entry), ends) for name, ends in self.bounds.items())
        return all(value is not None and low <= value <= high for value, (low, high) in values)


@dataclass(frozen=True)
class Scored:
    """A candidate with its score before and after, nats a token; None where it was not scored."""

    candidate: Candidate
    before: float | None
    after: float | None


class Candidates:
    """Of the first round of a run. Raises NoRunError where nothing was sampled yet."""

    def __init__(self, run: FoundRun) -> None:
        self.run = run
        found = (file for stage in run.sampling_stages for file in files_below(run.folder / stage / "groups"))
        self.files: list[Place] = sorted((file for file in found if file.suffix == ".parquet"), key=str)
        if not self.files:
            raise NoRunError(f"{run.folder}: no finished run (nothing in sample/groups)")

    @cached_property
    def after(self) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """By held-out question, the last model's scores of its right and of its wrong chains, each in the order of candidates."""
        if not self.run.evaluated or self.run.alone:
            return {}
        found = self.run.iter_evaluations(self.run.models[-1])
        return {evaluation.question_id: (evaluation.positive_scores, evaluation.negative_scores) for evaluation in found}

    @cached_property
    def entries(self) -> list[Entry]:
        return [entry for number in range(len(self.files)) for entry in self._entries_of(number)]

    def _entries_of(self, number: int) -> Iterator[Entry]:
        row = 0
        with self.files[number].open("rb") as stream, pq.ParquetFile(stream) as opened:
            for batch in opened.iter_batches(ROWS_AT_ONCE, columns=COLUMNS):
                for question, chains in zip(batch["question"].to_pylist(), chains_of(batch["candidates"]), strict=True):
                    yield self._entry(number, row, question, chains)
                    row += 1

    def _entry(self, number: int, row: int, question: dict[str, str], chains: list[tuple[str, float | None, int]]) -> Entry:
        scores = {
            label: [score / length for of, score, length in chains if of == label and score is not None]
            for label in ("positive", "negative")
        }
        after = self.after.get(question["question_id"])
        return Entry(
            file=number,
            row=row,
            question_id=question["question_id"],
            task=question["task"],
            split=question["split"],
            right=sum(label == "positive" for label, _, _ in chains),
            wrong=sum(label == "negative" for label, _, _ in chains),
            longest=max((length for _, _, length in chains), default=0),
            lead_before=lead(scores["positive"], scores["negative"]),
            lead_after=None if after is None else lead(*after),
        )

    def chosen(self, by: Chosen) -> list[Entry]:
        return sorted(filter(by.takes, self.entries), key=ORDERS.get(by.order, ORDERS["mended first"]))

    def groups(self, entries: Sequence[Entry]) -> list[CandidateGroup]:
        """Whole, in that order."""
        found: dict[tuple[int, int], CandidateGroup] = {}
        for number in {entry.file for entry in entries}:
            rows = sorted(entry.row for entry in entries if entry.file == number)
            with self.files[number].open("rb") as stream:
                table = pq.read_table(stream)
            found |= zip([(number, row) for row in rows], from_table(CandidateGroup, table.take(rows)), strict=True)
        return [found[entry.file, entry.row] for entry in entries]

    def scored(self, group: CandidateGroup) -> list[Scored]:
        """Its candidates, those first that the model preferred before."""
        after = self.after.get(group.question.question_id)
        of_label = dict(zip(("positive", "negative"), map(iter, after or ((), ())), strict=True))
        found = [
            Scored(candidate, candidate.score, next(of_label[candidate.label], None) if candidate.label in of_label else None)
            for candidate in group.candidates
        ]
        return sorted(found, key=lambda scored: -1e9 if scored.before is None else scored.before, reverse=True)


def chains_of(candidates: pa.ListArray) -> Iterator[list[tuple[str, float | None, int]]]:
    """Of each group, its candidates' label, log-likelihood and length. The token ids themselves never become Python's."""
    flat = pc.list_flatten(candidates)
    lengths = pc.list_value_length(pc.struct_field(flat, "token_ids")).to_pylist()
    columns = zip(*(pc.struct_field(flat, name).to_pylist() for name in OF_A_CANDIDATE[:2]), lengths, strict=True)
    for number in pc.list_value_length(candidates).to_pylist():
        yield list(islice(columns, number))


def number(typed: str) -> float | None:
    try:
        found = float(typed)
    except ValueError:
        return None
    return None if math.isnan(found) else found


def lead(right: Sequence[float], wrong: Sequence[float]) -> float | None:
    return max(wrong) - min(right) if right and wrong else None
