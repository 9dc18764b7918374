"""Records to and from Arrow and Parquet. The Arrow schema is derived from the pydantic model, never written twice."""

import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel
from upath import UPath

from schemas.records import Record

R = TypeVar("R", bound=Record)

ROWS_AT_ONCE = 1024

SCALARS: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def arrow_schema(model: type[Record]) -> pa.Schema:
    """The Arrow schema of a record, with its name and version as metadata."""
    return pa.schema(_arrow_fields(model), metadata={"record": model.__name__, "version": str(model.VERSION)})


def to_table(model: type[R], records: Iterable[R]) -> pa.Table:
    return pa.Table.from_pylist([record.model_dump() for record in records], schema=arrow_schema(model))


def from_table(model: type[R], table: pa.Table) -> list[R]:
    """The records of an Arrow table.

    Raises ValueError where the table's schema is not the record's, pydantic.ValidationError where a row does not fit.
    """
    if not table.schema.equals(arrow_schema(model)):
        raise ValueError(f"not {model.__name__} version {model.VERSION}: the columns are\n{table.schema}")
    found = (table.schema.metadata or {}).get(b"version", str(model.VERSION).encode()).decode()
    if found != str(model.VERSION):
        raise ValueError(f"{model.__name__} version {found}; this software reads version {model.VERSION}")
    # The schema has just been compared, so strictness would only refuse lists for tuples and dicts for records.
    return [model.model_validate(row, strict=False) for row in table.to_pylist()]


def write_parquet(path: Path | UPath, model: type[R], records: Iterable[R]) -> None:
    with path.open("wb") as stream:
        pq.write_table(to_table(model, records), stream, write_page_checksum=True)


def read_parquet(path: Path | UPath, model: type[R]) -> list[R]:
    """All records of a Parquet file, or of a directory's Parquet files in the order of their names. Raises as iter_parquet."""
    return list(iter_parquet(path, model))


def iter_parquet(path: Path | UPath, model: type[R]) -> Iterator[R]:
    """As read_parquet, one after the other, with some rows in memory and not all.

    Raises FileNotFoundError where there is none, ValueError (with the file's name) where one does not hold `model`, or is broken.
    """
    for file in _files(path):
        try:
            with file.open("rb") as stream, pq.ParquetFile(stream, page_checksum_verification=True) as opened:
                from_table(model, opened.schema_arrow.empty_table())  # a file without rows must be of the right kind too
                for batch in opened.iter_batches(ROWS_AT_ONCE):
                    yield from from_table(model, pa.Table.from_batches([batch]))
        except (ValueError, OSError, pa.ArrowException) as error:
            raise ValueError(f"{file}: {error}") from error


def count_rows(path: Path | UPath) -> int:
    """Of a Parquet file or a directory's Parquet files, without reading them. Raises FileNotFoundError where there is none."""

    def rows(file: Path | UPath) -> int:
        with file.open("rb") as stream:
            return int(pq.read_metadata(stream).num_rows)

    return sum(map(rows, _files(path)))


def _files(path: Path | UPath) -> list[Path | UPath]:
    files: list[Path | UPath] = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"{path} holds no Parquet file")
    return files


def _arrow_fields(model: type[BaseModel]) -> list[pa.Field]:
    return [pa.field(name, _arrow_type(field.annotation)) for name, field in model.model_fields.items()]


def _arrow_type(annotation: Any) -> pa.DataType:
    if annotation in SCALARS:
        return SCALARS[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct(_arrow_fields(annotation))
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _arrow_type(arguments[0])
    if origin is Literal and all(isinstance(value, str) for value in arguments):
        return pa.string()
    if origin in (Union, types.UnionType) and len(arguments) == 2 and type(None) in arguments:
        return _arrow_type(next(argument for argument in arguments if argument is not type(None)))
    if origin is list or (origin is tuple and arguments[1:] == (Ellipsis,)):
        return pa.list_(_arrow_type(arguments[0]))
    raise TypeError(f"no Arrow type for {annotation}")
