"""`aft-ray publish`: a run's model as a directory for a model hub: weights, tokenizer, model card, settings, and its adapter."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever client it uses
from safetensors.torch import load_file, save

from aft_ray.places import Place, fetched, remove
from aft_ray.report.card import SETTINGS, card, settings_of
from aft_ray.report.found import FoundRun, NoRunError


def publish(folder: Place, out: Path, licence: str | None, base_model: str | None) -> None:
    """Of the finished run in `folder`; `out` is there whole or not at all.

    Raises NoRunError where there is none, or no model, FileExistsError where `out` is there already.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already: remove it, or name another directory")
    run = FoundRun(folder)
    stages = [training.stage for training in run.trainings]
    model = folder / stages[-1] / "model" if stages else folder
    files: list[Place] = [file for file in model.iterdir() if file.is_file()] if model.is_dir() else []
    if not any(file.suffix == ".safetensors" for file in files):
        raise NoRunError(f"{folder}: no model in {model}")
    made = out.with_name(f".{out.name}.partial")
    remove(made)  # of one who was killed
    made.mkdir(parents=True)
    for file in files:
        take(file, made / file.name)
    adapters = adapters_of(run, stages)
    if adapters:
        join_adapters(adapters, made / "adapter", base_model or Path(run.config["model"]["path"]).name)
    card(run, licence, base_model, bool(adapters)).save(made / "README.md")
    (made / SETTINGS).write_text(settings_of(run))
    made.rename(out)


def push(folder: Path, repository: str, public: bool) -> str:
    """Upload it; returns where it is. A repository that is there already stays as public or private as it is.

    Raises OSError or ValueError where the hub is not reached, or says no.
    """
    hub = HfApi()
    try:
        hub.create_repo(repository, private=not public, exist_ok=True)
        return str(hub.upload_folder(repo_id=repository, folder_path=folder))
    except HTTPError as error:
        raise OSError(f"{repository}: {error}. What was to be uploaded is in {folder}") from error


def take(file: Place, to: Path) -> None:
    """Weights as a hard link where the disk allows it; the rest, which a user may edit, as a copy."""
    if not isinstance(file, Path):
        file.fs.get_file(file.path, str(to))
        return
    if file.suffix == ".safetensors":
        try:
            os.link(file, to)
            return
        except OSError:  # another disk
            pass
    shutil.copyfile(file, to)


def adapters_of(run: FoundRun, stages: Sequence[str]) -> list[Path]:
    """Those between the base model and the last one, in order; none where some stage between them trained all weights."""
    between = stages[-1:] if run.config["alignment"]["start_from"] == "base" else stages
    folders = [run.folder / stage / "adapter" for stage in between]
    there = all((folder / "adapter_config.json").is_file() for folder in folders)
    return [fetched(folder) for folder in folders] if there else []


def join_adapters(folders: Sequence[Path], out: Path, base: str) -> None:
    """One for adapters of which each was trained over the model before: W + s BA + s' B'A' is W + [sB, s'B'] [A; A']."""
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in folders]
    parts = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    joined: dict[str, torch.Tensor] = {}
    for name in {name: None for part in parts for name in part}:
        down = ".lora_A." in name
        like = next(part[name] for part in parts if name in part)
        pieces = []
        for part, config in zip(parts, configs, strict=True):
            rank, scale = config["r"], 1.0 if down else config["lora_alpha"] / config["r"]
            shape = (rank, like.shape[1]) if down else (like.shape[0], rank)
            pieces.append(part[name] * scale if name in part else like.new_zeros(shape))
        joined[name] = torch.cat(pieces, dim=0 if down else 1).contiguous()
    rank = sum(config["r"] for config in configs)
    targets = sorted({target for config in configs for target in config["target_modules"]})
    told = configs[-1] | {"r": rank, "lora_alpha": rank, "target_modules": targets, "base_model_name_or_path": base}
    out.mkdir()
    (out / "adapter_model.safetensors").write_bytes(save(joined, metadata={"format": "pt"}))
    (out / "adapter_config.json").write_text(json.dumps(told, indent=2) + "\n")
