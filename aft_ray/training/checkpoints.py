"""Checkpoints of training: saved without stopping it, resumed from the newest whole one, at whatever number of workers.

Ray Train keeps the last two on the run's storage and says which there are. Each rank saves its part; a ZeRO checkpoint is bound
to the number of ranks that wrote it, so at another number it is converted first, by DeepSpeed's own tool, into its universal
format (https://www.deepspeed.ai/tutorials/universal-checkpointing/).
"""

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from aft_ray.training.job import TrainingJob
from aft_ray.training.ranks import from_rank_zero
from aft_ray.training.snapshot import ABOUT, About

KEPT = 2
SECONDS_BETWEEN_LOOKS = 5.0


@dataclass
class Progress:
    """How far a training is, all that its loop needs to go on beside the engine's own state."""

    step: int = 0
    step_seconds: list[float] = field(default_factory=list)
    history: list[dict[str, float | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Resumable:
    """A checkpoint in a local folder, ready to be loaded by this number of ranks."""

    folder: str
    tag: str
    universal: bool


class CheckpointClock:
    """When to save: after so many steps, after so many minutes, or once before a machine is taken away."""

    def __init__(self, job: TrainingJob) -> None:
        self.job, self.warned = job, False
        self.last = self.last_look = time.monotonic()
        self.uploading: Path | None = None
        """This rank's part of the last checkpoint, which is there until it has been copied to the run's storage."""

    def says_save(self, step: int) -> bool:
        """The same on all ranks, each of which must ask after each step."""
        training = self.job.training
        if self.job.resources.training_workers == 0:
            return False
        due = step % training.steps_per_checkpoint == 0
        if not due:
            due, look = from_rank_zero(self.by_the_clock)
            due = due or (look and self.machine_goes_away())
        if due:
            self.last = time.monotonic()
        return due

    def by_the_clock(self) -> tuple[bool, bool]:
        """Whether it is time to save, and to look for notices, which costs some milliseconds. Rank 0's clock is everybody's."""
        now = time.monotonic()
        look = now - self.last_look > SECONDS_BETWEEN_LOOKS
        if look:
            self.last_look = now
        free = self.uploading is None or not self.uploading.exists()
        return free and now - self.last > 60 * self.job.training.minutes_per_checkpoint, look

    def machine_goes_away(self) -> bool:
        """True once, when a notice has come that a machine of the training's will be taken away."""
        from ray import train

        if self.warned or train.get_preemption_info() is None:
            return False
        self.warned = True
        return True


@contextmanager
def newest_whole_checkpoint(job: TrainingJob) -> Iterator[Resumable | None]:
    """What to resume from; None at the beginning. Called by all ranks, which get the same.

    One with a broken file is passed over, with a warning; where all are, training begins anew. Orphans, which a killed worker
    left half-written or unreported, are removed.
    """
    if job.resources.training_workers == 0:
        yield None
        return
    from ray import train

    context = train.get_context()
    if context.get_local_rank() == 0:
        for leftover in Path(tempfile.gettempdir()).glob(f"{local_name(job)}*"):
            shutil.rmtree(leftover, ignore_errors=True)
    reported = [found.checkpoint for found in train.get_all_reported_checkpoints()]
    if context.get_world_rank() == 0:
        remove_orphans(reported)
    chosen = newest_whole(reported)
    if chosen is None:
        yield None
        return
    saved_by = about(chosen).world_size
    bound_to_ranks = job.resources.zero_stage > 0
    if not bound_to_ranks or saved_by == context.get_world_size():
        with own_part(chosen, job) if job.resources.zero_stage == 3 else whole(chosen, job) as folder:
            yield Resumable(folder, latest(folder), universal=False)
        return
    with whole(chosen, job) as folder, on_each_node(lambda own: convert(folder, own), job) as converted:
        yield Resumable(converted, latest(folder) + "_universal", universal=True)


@contextmanager
def whole(checkpoint: Any, job: TrainingJob) -> Iterator[str]:
    """A checkpoint on a disk that all see as it is, of a store one copy a node."""
    from pyarrow.fs import LocalFileSystem

    if isinstance(checkpoint.filesystem, LocalFileSystem):
        yield checkpoint.path
        return
    with on_each_node(checkpoint.to_directory, job) as folder:
        yield folder


@contextmanager
def own_part(checkpoint: Any, job: TrainingJob) -> Iterator[str]:
    """A checkpoint of ZeRO-3 as this rank needs it: on a disk that all see as it is, of a store only what this rank reads.

    By the names of the other ranks' files DeepSpeed tells how it was written, without reading them: they are there, and empty.
    """
    from pyarrow.fs import LocalFileSystem, copy_files

    if isinstance(checkpoint.filesystem, LocalFileSystem):
        yield checkpoint.path
        return
    with tempfile.TemporaryDirectory(prefix=local_name(job)) as folder:
        for entry in entries(checkpoint):
            file = Path(folder) / Path(entry.path).relative_to(checkpoint.path)
            file.parent.mkdir(parents=True, exist_ok=True)
            if entry.is_file and of_rank(file.name) in (None, torch.distributed.get_rank()):
                copy_files(entry.path, str(file), checkpoint.filesystem, LocalFileSystem())
            elif entry.is_file:
                file.touch()
        yield folder


def of_rank(name: str) -> int | None:
    """Whose part of a ZeRO checkpoint a file is; None where it is everybody's."""
    found = re.search(r"zero_pp_rank_(\d+)_", name)
    return None if found is None else int(found[1])


def local_name(job: TrainingJob) -> str:
    """How this training's own folders on a worker's disk begin."""
    return f"aft-checkpoint-{hashlib.sha256(str(job.out).encode()).hexdigest()[:12]}-"


def load(engine: Any, checkpoint: Resumable) -> Progress:
    # What is frozen is not in it.
    everything = all(parameter.requires_grad for parameter in engine.module.parameters())
    _, state = engine.load_checkpoint(checkpoint.folder, tag=checkpoint.tag, load_module_strict=everything)
    if checkpoint.universal:
        # DeepSpeed hands out one tensor, on the CPU, to all: a fused optimizer on a GPU wants one of each parameter's own there.
        for parameter, values in engine.optimizer.optimizer.state.items():
            if isinstance(values.get("step"), torch.Tensor):
                values["step"] = values["step"].clone().to(parameter.device)
    return Progress(**state["progress"])


def save(engine: Any, progress: Progress, job: TrainingJob, clock: CheckpointClock) -> None:
    """Every rank its part to its own disk; from there to the run's storage while training goes on.

    Never two at once: where copying takes longer than the steps between two checkpoints, training waits for it.
    """
    from ray import train
    from ray.train import CheckpointUploadMode

    while clock.uploading is not None and clock.uploading.exists():
        time.sleep(0.1)
    context = train.get_context()
    folder = Path(tempfile.mkdtemp(prefix=local_name(job)))
    engine.save_checkpoint(str(folder), client_state={"progress": asdict(progress)}, exclude_frozen_parameters=True)
    told = About(progress.step, context.get_world_size(), job.resources.zero_stage, job.resources.offload)
    if context.get_world_rank() == 0:
        (folder / ABOUT).write_text(json.dumps(asdict(told)))
    clock.uploading = folder
    train.report(
        asdict(told),
        checkpoint=train.Checkpoint.from_directory(folder),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )


def newest_whole(checkpoints: Sequence[Any]) -> Any | None:
    """Of those, which end with the newest; None where none is whole. Called by all ranks, which share the files out to read."""
    for checkpoint in reversed(checkpoints):
        broken = broken_file(checkpoint)
        if broken is None:
            return checkpoint
        logging.getLogger(__name__).warning("%s is broken: the checkpoint before it is taken", broken)
    return None


def broken_file(checkpoint: Any) -> str | None:
    """The first file that is not as it was written, or not there. What torch saves is a zip file, with sums of its parts."""
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    files = sorted(entry.path for entry in entries(checkpoint) if entry.path.endswith(".pt"))
    mine = next((file for file in files[rank::ranks] if not whole_zip(checkpoint.filesystem, file)), None)
    if rank == 0 and mine is None:
        mine = missing_file(checkpoint, files)
    found: list[str | None] = [None] * ranks
    torch.distributed.all_gather_object(found, mine)
    return next((file for file in found if file is not None), None)


def whole_zip(filesystem: Any, path: str) -> bool:
    try:
        with filesystem.open_input_file(path) as stream, zipfile.ZipFile(stream) as archive:
            return archive.testzip() is None
    except Exception:  # a flipped bit can look like encryption, or an unknown way to compress
        return False


def missing_file(checkpoint: Any, files: Sequence[str]) -> str | None:
    try:
        told = about(checkpoint)
        with checkpoint.filesystem.open_input_stream(f"{checkpoint.path}/latest"):
            pass
    except (OSError, ValueError, TypeError):
        return f"{checkpoint.path}/{ABOUT} or latest"
    optimizers = sum(file.endswith("optim_states.pt") for file in files)
    if not files or (told.zero_stage and optimizers != told.world_size):
        return f"{checkpoint.path}/*optim_states.pt"
    return None


def entries(checkpoint: Any) -> list[Any]:
    from pyarrow.fs import FileSelector

    found: list[Any] = checkpoint.filesystem.get_file_info(FileSelector(checkpoint.path, recursive=True, allow_not_found=True))
    return found


def about(checkpoint: Any) -> About:
    with checkpoint.filesystem.open_input_stream(f"{checkpoint.path}/{ABOUT}") as stream:
        return About(**json.loads(stream.read()))


def remove_orphans(reported: Sequence[Any]) -> None:
    """Of the checkpoint folders on the run's storage, those that were never reported."""
    from pyarrow.fs import FileSelector
    from ray import train

    storage = train.get_context().get_storage()
    known = {Path(checkpoint.path).name for checkpoint in reported}
    selector = FileSelector(storage.experiment_fs_path, allow_not_found=True)
    for entry in storage.storage_filesystem.get_file_info(selector):
        if entry.base_name.startswith("checkpoint_") and entry.base_name not in known and not entry.is_file:
            storage.storage_filesystem.delete_dir(entry.path)


def convert(folder: str, into: str) -> str:
    """To DeepSpeed's universal format; returns the new folder."""
    tag = latest(folder)
    # Each number of the optimizer's comes into a file of its own, and again, joined, into another.
    needed = 2 * sum(file.stat().st_size for file in Path(folder).rglob("*optim_states.pt"))
    if (free := shutil.disk_usage(into).free) < needed:
        raise RuntimeError(
            f"to convert the checkpoint for another number of workers {needed / 1e9:,.1f} GB are needed in {into}, "
            f"{free / 1e9:,.1f} are free there: name a larger disk in TMPDIR, or start as many workers as before"
        )
    output = Path(into) / f"{tag}_universal"
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(Path(folder) / tag), "--output_folder", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"DeepSpeed could not convert the checkpoint for another number of workers:\n{done.stderr[-2000:]}")
    return into


def latest(folder: str) -> str:
    return (Path(folder) / "latest").read_text().strip()


@contextmanager
def on_each_node(make: Callable[[str], str], job: TrainingJob) -> Iterator[str]:
    """A folder that the first rank of each node makes; every rank gets the path of its own node's.

    It goes when all are done with it, and at the training's next start where they are killed before that.
    """
    from ray import train

    context = train.get_context()
    first = context.get_local_rank() == 0
    with tempfile.TemporaryDirectory(prefix=local_name(job)) if first else nullcontext("") as own:
        mine = (context.get_node_rank(), make(own)) if first else None
        found: list[Any] = [None] * context.get_world_size()
        torch.distributed.all_gather_object(found, mine)
        yield dict(pair for pair in found if pair is not None)[context.get_node_rank()]
        torch.distributed.barrier()
