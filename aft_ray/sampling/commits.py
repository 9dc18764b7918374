"""What a stream has written already, so that an interrupted one goes on where it stopped.

A file of rows is committed when it can be read: Parquet's footer is written last, and its pages carry sums. (Ray Data has
checkpoints of rows of its own, `ray.data.checkpoint`; they keep a second list of ids beside the rows, want the id as a column of
its own, and hold a CPU that the reader of a small machine needs. Here the rows themselves are the list.)
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aft_ray.places import Place, upload
from schemas import Record, count_rows

R = TypeVar("R", bound=Record)


def commit(table: pa.Table, folder: Place, stream: str) -> None:
    """A block's rows as a file of their own, of which there is at least one.

    Its name is the same where Ray makes the block again, and never that of another stream's, which may have outlived its driver.
    """
    first = hashlib.sha256(question_ids(table)[0].as_py().encode()).hexdigest()[:16]
    write_whole(table, folder / f"{stream}-{first}.parquet")


def write_whole(table: pa.Table, file: Place) -> None:
    """As Parquet with sums over its pages, whole at its place or not there."""
    with tempfile.NamedTemporaryFile() as made:
        pq.write_table(table, made.name, write_page_checksum=True)
        upload(Path(made.name), file)


def committed(folder: Place) -> pa.Array:
    """The ids (strings) of the questions whose rows stand in the Parquet files of `folder`, of which each then stands there once.

    What a killed writer left is removed, and what a disk has changed since. Of a question written twice, by a stream that
    outlived its driver, the first row stays.
    """
    for half in folder.glob(".*.partial"):
        half.unlink(missing_ok=True)
    found: set[str] = set()
    files: list[Place] = list(folder.glob("*.parquet"))
    for file in sorted(files, key=lambda file: file.stat().st_mtime):
        content = file.read_bytes()
        try:
            table = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
        except (pa.ArrowException, OSError):
            file.unlink()
            continue
        ids = question_ids(table).to_pylist()
        again = [question_id in found for question_id in ids]
        if any(again):
            write_whole(table.filter(pc.invert(pa.array(again))), file)
        found.update(ids)
    return pa.array(sorted(found), pa.string())


def check_whole(records: Place) -> None:
    """Raises ValueError with the name of a Parquet file that a disk has changed. Ray Data's reader looks at no sums, and what it
    reads gets new ones where it is written again."""
    files: list[Place] = sorted(records.glob("*.parquet")) if records.is_dir() else [records]
    for file in files:
        try:
            pq.ParquetFile(pa.BufferReader(file.read_bytes()), page_checksum_verification=True).read()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file}: {error}") from error


def forget_given_up(folder: Place) -> None:
    """Removes the records of questions that were given up after attempts, so that they are asked again."""
    files: list[Place] = list(folder.glob("*.parquet"))
    for file in files:
        table = pq.ParquetFile(pa.BufferReader(file.read_bytes())).read()
        answered = pc.equal(pc.fill_null(pc.struct_field(table["failure"], "attempts"), 0), 0)
        if not pc.any(answered).as_py():
            file.unlink()
        elif not pc.all(answered).as_py():
            write_whole(table.filter(answered), file)


def left_to_do(questions: Place, out: Place, but: frozenset[str]) -> tuple[int, pa.Array]:
    """How many questions of the file have no record in `out` and are not in `but`; the ids of the others, which are in either."""
    done = pc.unique(pa.concat_arrays([committed(out), pa.array(sorted(but), pa.string())]))
    return count_rows(questions) - len(done), done


def question_ids(table: pa.Table) -> pa.ChunkedArray:
    """Of the questions, candidate groups or evaluations in a table."""
    return table["question_id"] if "question_id" in table.column_names else pc.struct_field(table["question"], "question_id")


def without(table: pa.Table, ids: pa.Array) -> pa.Table:
    """The rows of other questions."""
    return table.filter(pc.invert(pc.is_in(question_ids(table), ids)))


def each_once(expected: Iterable[str], records: Iterable[R], id_of: Callable[[R], str]) -> Iterator[R]:
    """The records as they come. At their end raises RuntimeError where a stream lost questions or wrote one twice."""
    missing, extra = set(expected), 0
    for record in records:
        extra += id_of(record) not in missing
        missing.discard(id_of(record))
        yield record
    if missing or extra:
        raise RuntimeError(f"{len(missing)} questions are missing and {extra} came twice or unasked")
