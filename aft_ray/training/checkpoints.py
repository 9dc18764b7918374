"""Checkpoints of training: saved without stopping it, resumed from the newest whole one, at whatever number of workers.

Ray Train keeps the last two on the run's storage and says which there are. Each rank saves its part; a ZeRO checkpoint is bound
to the number of ranks that wrote it, so at another number it is converted first, by DeepSpeed's own tool, into its universal
format (https://www.deepspeed.ai/tutorials/universal-checkpointing/).
"""

import logging
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from aft_ray.training.job import TrainingJob
from aft_ray.training.ranks import from_rank_zero

KEPT = 2
SECONDS_BETWEEN_LOOKS = 5.0


@dataclass
class Progress:
    """How far a training is, all that its loop needs to go on beside the engine's own state."""

    step: int = 0
    seconds: float = 0.0
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
        return now - self.last > 60 * self.job.training.minutes_per_checkpoint, look

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

    reported = train.get_all_reported_checkpoints()
    if train.get_context().get_world_rank() == 0:
        remove_orphans([found.checkpoint for found in reported])
    chosen = from_rank_zero(lambda: newest_whole([found.checkpoint for found in reported]))
    if chosen is None:
        yield None
        return
    with reported[chosen].checkpoint.as_directory() as folder:
        saved_by = reported[chosen].metrics["world_size"]
        bound = job.resources.zero_stage > 0 and saved_by != train.get_context().get_world_size()
        if not bound:
            yield Resumable(folder, latest(folder), universal=False)
            return
        with tempfile.TemporaryDirectory() if train.get_context().get_local_rank() == 0 else nullcontext() as own:
            converted = on_each_node(lambda: convert(folder, own or ""))
            yield Resumable(converted, latest(folder) + "_universal", universal=True)
            torch.distributed.barrier()  # before the converted one is removed


def load(engine: Any, checkpoint: Resumable) -> Progress:
    _, state = engine.load_checkpoint(checkpoint.folder, tag=checkpoint.tag)
    return Progress(**state["progress"])


def save(engine: Any, progress: Progress) -> None:
    """Every rank its part to its own disk; from there to the run's storage while training goes on."""
    from ray import train
    from ray.train import CheckpointUploadMode

    folder = tempfile.mkdtemp(prefix="aft-checkpoint-")
    engine.save_checkpoint(folder, client_state={"progress": asdict(progress)})
    train.report(
        {"step": progress.step, "world_size": train.get_context().get_world_size()},
        checkpoint=train.Checkpoint.from_directory(folder),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )


def newest_whole(checkpoints: Sequence[Any]) -> int | None:
    """Its place in the list, which ends with the newest; None where none is whole."""
    for place in reversed(range(len(checkpoints))):
        with checkpoints[place].as_directory() as folder:
            broken = broken_file(Path(folder))
        if broken is None:
            return place
        logging.getLogger(__name__).warning("%s is broken: the checkpoint before it is taken", broken)
    return None


def broken_file(folder: Path) -> Path | None:
    """The first file of a checkpoint that is not as it was written. What torch saves is a zip file, with sums of its parts."""
    if not (folder / "latest").is_file():
        return folder / "latest"
    for file in sorted(folder.rglob("*.pt")):
        try:
            with zipfile.ZipFile(file) as archive:
                if archive.testzip() is not None:
                    return file
        except (zipfile.BadZipFile, OSError, EOFError):
            return file
    return None


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
    output = Path(into) / f"{tag}_universal"
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(Path(folder) / tag), "--output_folder", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"DeepSpeed could not convert the checkpoint for another number of workers:\n{done.stderr[-2000:]}")
    return into


def latest(folder: str) -> str:
    return (Path(folder) / "latest").read_text().strip()


def on_each_node(make: Any) -> str:
    """Make a folder once on each node, by its first rank; every rank gets the path of its own node's."""
    from ray import train

    context = train.get_context()
    mine = (context.get_node_rank(), make()) if context.get_local_rank() == 0 else None
    found: list[Any] = [None] * context.get_world_size()
    torch.distributed.all_gather_object(found, mine)
    folder: str = dict(pair for pair in found if pair is not None)[context.get_node_rank()]
    return folder
