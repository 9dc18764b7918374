"""What Ray Train wrote down of a training's checkpoints, looked at before it goes on from there, and mended.

Ray Train's list of them (checkpoint_manager_snapshot.json) is written over itself, so a kill may leave half of it, and it refuses
to start where it names a folder that is gone. The folders themselves say what they are, in about.json.
"""

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

import ray

from aft_ray.places import write_atomically
from aft_ray.tasks import BadInputError
from aft_ray.training.job import TrainingJob

ABOUT, SNAPSHOT = "about.json", "checkpoint_manager_snapshot.json"


@dataclass(frozen=True)
class About:
    """What a checkpoint says of itself."""

    step: int
    world_size: int
    zero_stage: int
    offload: str


def prepare_resuming(job: TrainingJob) -> None:
    """Raises BadInputError where there are checkpoints that the run's settings cannot load."""
    folder = job.out / "checkpoints"
    snapshot = folder / SNAPSHOT
    if not snapshot.exists():
        return
    read = {path.parent.name: about_in(path.read_bytes()) for path in folder.glob(f"checkpoint_*/{ABOUT}")}
    found = {name: about for name, about in read.items() if about is not None}
    for about in found.values():
        for setting in ("zero_stage", "offload"):
            then, now = getattr(about, setting), getattr(job.resources, setting)
            if then != now:
                told = f"was {then} when the checkpoint of step {about.step} was written, and is {now}"
                raise BadInputError([f"resources.{setting}: {told}. Set it back, or remove {folder} to begin anew"])
    names = names_in(snapshot.read_text())
    if names is not None and set(names) <= found.keys():
        return
    kept = sorted((name for name in found if names is None or name in names), key=lambda name: found[name].step)
    logging.getLogger(__name__).warning("%s is broken, or names what is gone: made anew with %d checkpoints", snapshot, len(kept))
    if kept:
        write_atomically(snapshot, json.dumps(listing({name: found[name] for name in kept})))
    else:
        snapshot.unlink()


def about_in(content: bytes) -> About | None:
    """None where a kill or a full disk left it broken: its checkpoint is then as good as gone."""
    try:
        return About(**json.loads(content))
    except (ValueError, TypeError):
        return None


def names_in(snapshot: str) -> list[str] | None:
    """The checkpoints' folders; None where it cannot be read."""
    try:
        return [result["checkpoint_dir_name"] for result in json.loads(snapshot)["checkpoint_results"]]
    except (ValueError, KeyError, TypeError):
        return None


def listing(checkpoints: dict[str, About]) -> dict[str, Any]:
    """As Ray Train writes it, the newest last."""
    results = [{"checkpoint_dir_name": name, "metrics": asdict(about)} for name, about in checkpoints.items()]
    indices = list(range(1, len(results) + 1))
    nothing: dict[str, list[str]] = {f"{state}_checkpoint_dir_names": [] for state in STATES}
    return nothing | {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": indices,
        "latest_checkpoint_result": results[-1],
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": indices[-1],
    }


STATES = ("validated", "timed_out_validation", "failed_validation")
