"""Places: paths on this machine's disks, on shared ones, or in an object store (s3://bucket/runs, gs://...), written alike.

An object store has no rename, and no folder: what is written there is whole at once or not there, and what must come last is
written last. Reading and writing there is fsspec's (https://filesystem-spec.readthedocs.io); its driver (s3fs, gcsfs, adlfs) has
to be installed, and takes credentials from where its users have them.
"""

import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeAlias

import pyarrow.fs
from filelock import FileLock
from pydantic import PlainSerializer, PlainValidator, WithJsonSchema
from upath import UPath

Place: TypeAlias = Path | UPath
SECONDS_BETWEEN_TRIES = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0)


def place(given: str | Path | UPath) -> Place:
    """Raises ValueError where no filesystem is known by that name, or its driver is not installed."""
    made = UPath(given)
    if isinstance(made, Path):
        return Path(made)
    try:
        # What other processes have written must be seen: no listing is kept.
        fresh = UPath(made.path, protocol=made.protocol, **{**made.storage_options, "use_listings_cache": False})
        fresh.fs  # noqa: B018  imports its driver
        return fresh
    except ImportError as error:
        raise ValueError(f"{given}: {error}") from error


PlaceSetting = Annotated[
    Place, PlainValidator(place), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string", "format": "path"})
]
"""A place as a setting: a string in files and on the command line."""


def absolute(path: Place) -> Place:
    return path.absolute() if isinstance(path, Path) else path


def remove(path: Place) -> None:
    """A folder with all that is in it, if it is there."""
    if isinstance(path, Path):
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.fs.rm(path.path, recursive=True)


def make_folder(path: Place) -> Place:
    """Where it is already, an interrupted stage has left it, and goes on there."""
    if isinstance(path, Path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def files_below(path: Place) -> list[Place]:
    """All files of a folder and its folders."""
    found: list[Place] = list(path.rglob("*"))
    return [file for file in found if file.is_file()]


def move_into(folder: Place, files: Iterable[Place]) -> None:
    """In a store each is copied, then removed."""
    for file in list(files):
        to = folder / file.name
        if isinstance(file, Path):
            file.replace(str(to))
        else:
            file.fs.mv(file.path, to.path)  # type: ignore[union-attr]  # where the file is, there is the folder


def copy_within_store(file: Place, to: Place) -> None:
    assert not isinstance(file, Path)
    assert not isinstance(to, Path)
    file.fs.copy(file.path, to.path)


def upload(local: Path, to: Place) -> None:
    """A local file, which is whole at its place or not there."""
    if isinstance(to, Path):
        staging = to.with_name(f".{to.name}.{uuid.uuid4().hex}.partial")  # another may write the same at the same time
        try:
            shutil.copyfile(local, staging)
            staging.replace(to)
        finally:
            staging.unlink(missing_ok=True)
    else:
        patiently(lambda: to.fs.put_file(str(local), to.path))


def patiently(act: Callable[[], Any]) -> None:
    """With an object store, which over days has bad minutes: longer ones than its client tries again for."""
    for pause in SECONDS_BETWEEN_TRIES:
        try:
            act()
            return
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # botocore's are no OSErrors, and other stores have their own
            logging.getLogger(__name__).warning("an object store failed, in %g s again: %r", pause, error)
            time.sleep(pause)
    act()


@contextmanager
def atomic_file(path: Place) -> Iterator[TextIO]:
    """A text file that is at its place when the block has ended well, and not there, or as it was before, otherwise."""
    if not isinstance(path, Path):
        text = StringIO()
        yield text
        patiently(lambda: path.write_text(text.getvalue(), encoding="utf-8"))
        return
    staging = path.with_name(f".{path.name}.partial")
    try:
        with staging.open("w", encoding="utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def write_atomically(path: Place, text: str) -> None:
    """All of the text or none of it is there afterwards, whatever happens meanwhile."""
    with atomic_file(path) as stream:
        stream.write(text)


def for_ray_data(path: Place) -> tuple[str, Any]:
    """As Ray Data takes it: path and filesystem."""
    return (str(path), None) if isinstance(path, Path) else (path.path, path.fs)


def for_ray_train(path: Place) -> tuple[str, pyarrow.fs.FileSystem | None]:
    """As Ray Train takes it: path and filesystem."""
    if isinstance(path, Path):
        return str(path.absolute()), None
    return path.path, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(path.fs))


SMALL_FILES = (".json", ".jinja", ".model", ".txt")
"""Of a model: config, tokenizer, chat template."""
WEIGHTS = ".safetensors"


def fetched(path: Place, weights: bool = True) -> Path:
    """A model's folder on this machine's disk: where it is elsewhere, its files are copied here, by whoever comes first.

    Without `weights` for who needs but its config or tokenizer. The same weights in other formats, which lie in many a model's
    folder, are never used and stay where they are.
    """
    if isinstance(path, Path):
        return path
    wanted = (*SMALL_FILES, *([WEIGHTS] if weights else []))
    named = [file for file in path.iterdir() if file.suffix in wanted and not file.name.startswith("consolidated")]
    files = [file for file in named if file.is_file()]
    stats = "".join(sorted(f"{file} {file.stat().st_size} {file.stat().st_mtime}\n" for file in files))
    folder = cache() / hashlib.sha256(stats.encode()).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            staging = folder.with_suffix(".part")
            staging.mkdir(exist_ok=True)
            for file in files:
                copy = staging / file.name
                if not copy.exists() or copy.stat().st_size != file.stat().st_size:  # of one who was killed some may be whole
                    patiently(partial(file.fs.get_file, file.path, str(copy)))
            staging.rename(folder)
    return folder


def cache() -> Path:
    """Of models from elsewhere, on this machine: AFT_RAY_CACHE, or the user's cache folder."""
    return Path(os.environ.get("AFT_RAY_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aft-ray")
