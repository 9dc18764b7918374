"""What a stream has written already, so that an interrupted one goes on where it stopped.

A file of rows is committed when it can be read: Parquet's footer is written last. (Ray Data has checkpoints of rows of its own,
`ray.data.checkpoint`; they keep a second list of ids beside the rows, want the id as a column of its own, and hold a CPU that the
reader of a small machine needs. Here the rows themselves are the list.)
"""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aft_ray.places import Place, upload


def committed(folder: Place) -> pa.Array:
    """The ids (strings) of the questions whose rows stand in the Parquet files of `folder`, of which each then stands there once.

    What a killed writer left is removed. Of a question written twice, by a stream that outlived its driver, the first row stays.
    """
    found: set[str] = set()
    files: list[Place] = list(folder.glob("*.parquet"))
    for file in sorted(files, key=lambda file: file.stat().st_mtime):
        try:
            with file.open("rb") as stream:
                table = pq.ParquetFile(stream).read()
        except (pa.ArrowException, OSError):
            file.unlink()
            continue
        ids = question_ids(table).to_pylist()
        again = [question_id in found for question_id in ids]
        if any(again):
            with tempfile.NamedTemporaryFile() as shorter:
                pq.write_table(table.filter(pc.invert(pa.array(again))), shorter.name)
                upload(Path(shorter.name), file)
        found.update(ids)
    return pa.array(sorted(found), pa.string())


def question_ids(table: pa.Table) -> pa.ChunkedArray:
    """Of the questions, candidate groups or evaluations in a table."""
    return table["question_id"] if "question_id" in table.column_names else pc.struct_field(table["question"], "question_id")


def without(table: pa.Table, ids: pa.Array) -> pa.Table:
    """The rows of other questions."""
    return table.filter(pc.invert(pc.is_in(question_ids(table), ids)))
