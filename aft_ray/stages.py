"""A stage of a run: skipped when its result is there and still valid, else made, whole or not at all."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from aft_ray.heartbeat import Use
from aft_ray.places import Place, write_atomically
from aft_ray.storage import differences, fingerprint, finish_interrupted, read_manifest, remove_leftovers, stage_folder, versions
from schemas import StageManifest

EARLIER = "of an earlier start"
"""Of what a manifest counts, what an interrupted start had made: its seconds are the last start's alone."""


@dataclass(frozen=True)
class Stage:
    """What a stage depends on, and how it is made: `make(folder)` fills the folder and returns counts for the manifest."""

    name: str
    settings: dict[str, Any]
    inputs: tuple[str, ...]
    make: Callable[[Place], dict[str, int]]
    renew: Callable[[Place], dict[str, int]] | None = None
    """Makes it from its last result, which is enough where nothing but the settings named in `renewable` have changed."""
    renewable: tuple[str, ...] = ()

    def begun_as(self, inputs: dict[str, str]) -> str:
        """What an interrupted start is found by: whatever the settings were then by which a stage is only renewed."""
        return fingerprint({name: value for name, value in self.settings.items() if name not in self.renewable}, inputs)


def fingerprints(stages: Sequence[Stage]) -> dict[str, str]:
    """Of each by its name, as its manifest will have it: of all that it depends on."""
    found: dict[str, str] = {}
    for stage in stages:
        found[stage.name] = fingerprint(stage.settings, {name: found[name] for name in stage.inputs})
    return found


def all_done(folder: Place, wanted: Mapping[str, str]) -> bool:
    """Whether the results of all stages are there, and those that are wanted."""
    found = {name: read_manifest(folder / name) for name in wanted}
    return all(manifest is not None and manifest.fingerprint == wanted[name] for name, manifest in found.items())


def to_come(folder: Place, stages: Sequence[Stage]) -> list[str]:
    """Names of those whose results are not there yet."""
    return [name for name, wanted in fingerprints(stages).items() if not all_done(folder, {name: wanted})]


def leading_to(goals: Iterable[str], stages: Sequence[Stage]) -> list[Stage]:
    """Those stages and all that they depend on, in the order given."""
    needed = set(goals)
    for stage in reversed(stages):
        if stage.name in needed:
            needed.update(stage.inputs)
    return [stage for stage in stages if stage.name in needed]


def ensure(
    folder: Place, stage: Stage, manifests: dict[str, StageManifest], used: Mapping[str, Use], console: Console
) -> tuple[StageManifest, bool]:
    """The stage's manifest, and whether it was there already. `used`: what stages have used, once they are made."""
    inputs = {name: manifests[name].fingerprint for name in stage.inputs}
    wanted, begun_as = fingerprint(stage.settings, inputs), stage.begun_as(inputs)
    finish_interrupted(folder / stage.name, begun_as, wanted)
    found = read_manifest(folder / stage.name)
    if found is not None and found.fingerprint == wanted:
        remove_leftovers(folder / stage.name, begun_as)
        console.print(f"[green]✓[/] {stage.name:<13} done before")
        return found, True
    if found is not None:
        changes = differences(found.settings, stage.settings)
        changes += [f"{name} has changed" for name in inputs if found.inputs.get(name) != inputs[name]]
        console.print(f"[yellow]↻[/] {stage.name:<13} again, because {escape('; '.join(changes))}", highlight=False)
    make = stage.make
    if found is not None and stage.renew is not None and found.inputs == inputs:
        changed = {
            name for name in stage.settings.keys() | found.settings.keys() if found.settings.get(name) != stage.settings.get(name)
        }
        make = stage.renew if changed <= set(stage.renewable) else stage.make
    started = time.monotonic()
    with stage_folder(folder / stage.name, begun_as) as out:
        counts = make(out)
        manifest = StageManifest(
            stage=stage.name,
            fingerprint=wanted,
            settings=stage.settings,
            inputs=inputs,
            counts=counts,
            seconds=round(time.monotonic() - started, 3),
            use=used.get(stage.name, {}),
            versions=versions(),
        )
        write_atomically(out / "manifest.json", manifest.model_dump_json(indent=2) + "\n")
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    console.print(f"[green]✓[/] {stage.name:<13} {manifest.seconds:.0f} s  [dim]{escape(told)}[/]", highlight=False)
    return manifest, False
