"""Records that pass between stages. This package imports nothing of aft_ray."""

from schemas.arrow import arrow_schema, count_rows, from_table, iter_parquet, read_parquet, to_table, write_parquet
from schemas.manifest import StageManifest
from schemas.records import (
    Candidate,
    CandidateGroup,
    Evaluation,
    Failure,
    FinishReason,
    Label,
    Question,
    Record,
    ReferenceScores,
    Split,
    Verdict,
)

__all__ = [
    "Candidate",
    "CandidateGroup",
    "Evaluation",
    "Failure",
    "FinishReason",
    "Label",
    "Question",
    "Record",
    "ReferenceScores",
    "Split",
    "StageManifest",
    "Verdict",
    "arrow_schema",
    "count_rows",
    "from_table",
    "iter_parquet",
    "read_parquet",
    "to_table",
    "write_parquet",
]
