"""report.html: the page of a run, in one file that needs no network."""

import json
import shlex
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, Template
from rich.console import Console

from aft_ray.places import Place, write_atomically
from aft_ray.report import pictures
from aft_ray.report.found import FoundRun
from aft_ray.stages import EARLIER
from schemas import StageManifest

REPORT = "report.html"


@dataclass(frozen=True)
class Row:
    """Of the table of measures: a name, its value under each model, what changed."""

    name: str
    values: list[str]
    gain: str = ""


def write_report(folder: Place) -> Place:
    """Of the finished run in that directory; returns where it is. Raises NoRunError where there is none."""
    write_atomically(folder / REPORT, page(FoundRun(folder)))
    return folder / REPORT


def write_or_tell(folder: Place, console: Console) -> None:
    """A run has what it is for when its report is written: what stands in the way of a picture must not end it."""
    try:
        write_report(folder)
    except Exception as error:
        console.print(f"No report: {error!r}. aft-ray report {folder} tries again.", style="yellow", markup=False, soft_wrap=True)


def template(name: str) -> Template:
    """What is put into it is text, whatever it says."""
    loader = PackageLoader("aft_ray.report", ".")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)


def page(run: FoundRun) -> str:
    return template("page.html").render(
        run=run,
        headlines=[headline(run, task) for task in run.tasks],
        tables=[(task, caption(run, task), measures(run, task)) for task in run.tasks],
        confidence=f"{run.summary['confidence']:.0%}",
        sections=[
            ("Accuracy", pictures.accuracy(run)),
            ("Scores of right and wrong chains", pictures.score_distributions(run)),
            *((f"Training: {training.stage}", pictures.over_steps(training)) for training in run.trainings),
        ],
        stages=[stage_row(run, manifest) for manifest in run.manifests],
        config=json.dumps(run.config, indent=2),
        fingerprints={manifest.stage: manifest.fingerprint for manifest in run.manifests},
        command=command_of(run),
    )


def command_of(run: FoundRun) -> str:
    config = shlex.quote(str(run.folder / "config.json"))
    if run.alone:
        return f"aft-ray eval {config} --model {shlex.quote(run.config['model']['path'])}"
    return f"aft-ray run {config} --name {run.name}-again"


def headline(run: FoundRun, task: str) -> dict[str, Any]:
    """What a tile says of a task: accuracy before and after, and how sure that is; of a model alone, its accuracy."""
    before, after = run.model(run.models[0], task), run.model(run.models[-1], task)
    told = {
        "task": task,
        "trained_on": before["trained_on"],
        "n": before["n"],
        "before": share(before["accuracy"]),
        "after": share(after["accuracy"]),
        "interval": interval(after["accuracy_ci"]),
    }
    compared = run.comparison(task)
    if compared is None:
        return told
    return told | {
        "gain": points(compared["accuracy_gain"]),
        "p": p_value(compared["accuracy_p"]),
        "sure": compared["accuracy_p"] is not None and compared["accuracy_p"] < 0.05,
        "up": compared["accuracy_gain"] > 0,
    }


def caption(run: FoundRun, task: str) -> str:
    model = run.model(run.models[0], task)
    origin = "" if model["trained_on"] or run.alone else "never trained on; "
    pairs = f"{model['assessment_pairs']:,} pairs of {model['assessment_questions']:,} questions"
    return f"{origin}{model['n']:,} held-out questions, seed {run.summary['seed']}; assessment over {pairs}"


def measures(run: FoundRun, task: str) -> list[Row]:
    models = [run.model(name, task) for name in run.models]
    compared = run.comparison(task)

    def gain(name: str) -> str:
        if compared is None or compared[f"{name}_gain"] is None:
            return ""
        return f"{points(compared[f'{name}_gain'])}, {p_value(compared[f'{name}_p'])}"

    def shares(of: list[dict[str, Any]]) -> list[str]:
        return [with_interval(value["mean"], value["ci"]) for value in of]

    k = min(model["k"] for model in models)
    equal = k == max(model["k"] for model in models)
    sampled = []
    if k and equal:
        sampled.append(Row(f"majority of {k}", shares([model["majority"] for model in models]), gain("majority")))
    if k and all(str(k) in model["pass_at_k"] for model in models):
        sampled.append(Row(f"one of {k} right", shares([model["pass_at_k"][str(k)] for model in models]), gain("pass_at_k")))
    assessed = [with_interval(m["assessment_accuracy"], m["assessment_accuracy_ci"]) for m in models]
    return [
        Row("accuracy, greedy", [with_interval(m["accuracy"], m["accuracy_ci"]) for m in models], gain("accuracy")),
        *sampled,
        Row("assessment accuracy", assessed, gain("assessment_accuracy")),
        Row("mean score of right chains", [number(m["mean_positive_score"]) for m in models]),
        Row("mean score of wrong chains", [number(m["mean_negative_score"]) for m in models]),
        Row("repeated 4-grams", shares([m["repeated_4_grams"] for m in models])),
        Row("cut off", shares([m["endless"] for m in models])),
    ]


def stage_row(run: FoundRun, manifest: StageManifest) -> dict[str, Any]:
    """Time and throughput of a stage, what it counted, and what it left out."""
    training = next((training for training in run.trainings if training.stage == manifest.stage), None)
    rate = ""
    if training is not None:
        tokens = sum([step or 0.0 for step in training.values("tokens")], 0.0)
        rate = f"{tokens / sum(training.seconds):,.0f} tokens/s in steps"
    elif manifest.seconds:
        done = manifest.counts.get("groups", manifest.counts.get("questions", 0)) - manifest.counts.get(EARLIER, 0)
        rate = f"{done / manifest.seconds:,.1f} questions/s" if done else ""
    skipped = next(stage["skipped"] for stage in run.summary["stages"] if stage["name"] == manifest.stage)
    return {
        "name": manifest.stage,
        "seconds": f"{manifest.seconds:,.0f}",
        "rate": rate,
        "busy": busy(manifest.use),
        "counts": [f"{count:,} {name}" for name, count in manifest.counts.items()],
        "skipped": skipped,
    }


def busy(use: dict[str, float]) -> str:
    """Of an engine or a training worker, on the mean."""
    told = [f"GPU {use['gpu']:.0%}"] if "gpu" in use else []
    return ", ".join(told + ([f"{use['cores']:.2f} cores"] if "cores" in use else []))


def share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def interval(ends: list[float] | None) -> str:
    return "" if ends is None else f"{ends[0] * 100:.1f} to {ends[1] * 100:.1f}"


def with_interval(value: float | None, ends: list[float] | None) -> str:
    return share(value) + (f" ({interval(ends)})" if ends and value is not None else "")


def points(gain: float) -> str:
    return f"{gain * 100:+.1f} points"


def p_value(p: float | None) -> str:
    return "" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
