"""The pictures of a report, drawn by matplotlib as SVG that takes its ink from the page: legible in light and dark."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aft_ray.report.found import FoundRun, Training, leads, scores

# Stand for the page's own colours, which it changes with the reader's light or dark.
INK, FAINT = "#010203", "#040506"
POSITIVE, NEGATIVE, BEFORE, AFTER = "#2f9e62", "#d1495b", "#7a8fb5", "#e08a1e"
MORE = ("#8e6bbf", "#3a9fbf", "#b59a2a")
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif", "font.size": 9.0, "text.color": INK,
    "axes.edgecolor": FAINT, "axes.labelcolor": INK, "axes.titlesize": 10.0, "axes.titlelocation": "left", "axes.grid": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": FAINT, "grid.alpha": 0.35,
    "grid.linewidth": 0.6, "xtick.color": INK, "ytick.color": INK, "legend.frameon": False, "legend.fontsize": 8.0,
}  # fmt: skip
BINS = 40


@dataclass(frozen=True)
class Picture:
    title: str
    says: str
    """What is to be seen, for those who do not see it either."""
    svg: Markup


@contextmanager
def drawn(title: str, says: str, into: list[Picture], width: float = 4.4, height: float = 2.9) -> Iterator[Axes]:
    """Axes to draw on; what is drawn is appended as a picture."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        yield axes
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "var(--ink)").replace(FAINT, "var(--faint)")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    into.append(Picture(title, says, Markup(text)))  # matplotlib's own, texts in it escaped


def colour_of(run: FoundRun, model: str) -> str:
    place = run.models.index(model)
    if place == 0:
        return BEFORE
    return AFTER if place == len(run.models) - 1 else MORE[place % len(MORE)]


def accuracy(run: FoundRun) -> list[Picture]:
    """Of each task: greedy, by majority, and pass@k over k, before and after."""
    made: list[Picture] = []
    percent = f"{run.summary['confidence']:.0%} intervals"
    with drawn("Accuracy by task", f"Share of held-out questions answered rightly, greedy, with {percent}.", made) as axes:
        for place, name in enumerate(run.models):
            found = [run.model(name, task) for task in run.tasks]
            at = [row + 0.8 * (place + 0.5) / len(run.models) - 0.4 for row in range(len(found))]
            values = [model["accuracy"] for model in found]
            errors = [[v - model["accuracy_ci"][0] for v, model in zip(values, found, strict=True)],
                      [model["accuracy_ci"][1] - v for v, model in zip(values, found, strict=True)]]  # fmt: skip
            width = 0.8 / len(run.models)
            axes.bar(at, values, width * 0.9, yerr=errors, color=colour_of(run, name), ecolor=INK, capsize=3, label=name)
        axes.set_xticks(range(len(run.tasks)), run.tasks)
        axes.grid(axis="x", visible=False)
        in_percent(axes, "right answers")
        axes.legend(ncols=len(run.models), loc="upper left", bbox_to_anchor=(0, 1.16))
    for task in run.tasks:
        of_task = [(name, model) for name in run.models if (model := run.model(name, task))["pass_at_k"]]
        if not of_task:
            continue
        ks = sorted({int(k) for _, model in of_task for k in model["pass_at_k"]})
        says = f"Of {task}: the chance that one of k samples is right, and the vote of all; bands are {percent}."
        with drawn(f"Samples, {task}", says, made) as axes:
            for name, model in of_task:
                at = [int(k) for k in model["pass_at_k"]]
                found = [model["pass_at_k"][str(k)] for k in at]
                colour = colour_of(run, name)
                axes.plot(at, [value["mean"] for value in found], "o-", color=colour, markersize=4, label=f"{name}, pass@k")
                low, high = ([(value["ci"] or [value["mean"]] * 2)[end] for value in found] for end in (0, 1))
                axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
                if model["majority"]["mean"] is not None:
                    axes.plot([model["k"]], [model["majority"]["mean"]], "D", color=colour, label=f"{name}, maj@{model['k']}")
            axes.set_xscale("log", base=2)
            axes.set_xticks(ks, [str(k) for k in ks])
            axes.set_xlabel("k, samples a question")
            in_percent(axes, "right")
            axes.legend()
    return made


def in_percent(axes: Axes, label: str) -> None:
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
    axes.set_ylabel(label)


def score_distributions(run: FoundRun) -> list[Picture]:
    """Of the same candidates under the first model and under the last."""
    made: list[Picture] = []
    models = dict.fromkeys((run.models[0], run.models[-1]))
    evaluations = {name: run.evaluations(name) for name in models}
    for name in models:
        positive, negative = scores(evaluations[name])
        if not positive or not negative:
            continue
        says = "s(c), the mean log-likelihood of a token, of right and of wrong chains of held-out questions that have both."
        with drawn(f"Scores under {name}", says, made) as axes:
            pooled = sorted(value for other in evaluations.values() for of_label in scores(other) for value in of_label)
            low = pooled[len(pooled) // 100]  # the tail of a hundredth would leave the rest a line
            for values, colour, label in ((positive, POSITIVE, "right"), (negative, NEGATIVE, "wrong")):
                shown = [max(value, low) for value in values]
                axes.hist(
                    shown,
                    bins=bins_for(pooled),
                    range=(low, pooled[-1]),
                    color=colour,
                    alpha=0.6,
                    label=f"{label}, {len(values):,}",
                )
            axes.set_xlabel("s(c), nats a token")
            axes.set_ylabel("chains")
            axes.legend(loc="upper left")
    if any(leads(of_model) for of_model in evaluations.values()):
        says = "How far each wrong chain scores above its question's worst right one: right of 0 the model prefers the wrong one."
        with drawn("Wrong chains against the worst right one", says, made) as axes:
            found = {name: leads(of_model) for name, of_model in evaluations.items()}
            pooled = sorted(value for values in found.values() for value in values)
            low, high = pooled[len(pooled) // 100], pooled[-1 - len(pooled) // 100]
            for name, values in found.items():
                shown = [min(max(value, low), high) for value in values]
                above = sum(value > 0 for value in values) / len(values)
                label = f"{name}, {above:.0%} above 0"
                axes.hist(shown, bins=bins_for(pooled), range=(low, high), color=colour_of(run, name), alpha=0.5, label=label)
            axes.axvline(0, color=INK, linewidth=0.8)
            if run.beta is not None:
                axes.axvline(-run.beta, color=INK, linewidth=0.8, linestyle="--", label=f"boundary, -{run.beta:g}")
            axes.set_xlabel("s(wrong) - min s(right), nats a token")
            axes.set_ylabel("wrong chains")
            axes.legend(loc="upper left")
    return made


def bins_for(values: Sequence[float]) -> int:
    """Of few values few, or a picture is a row of spikes."""
    return min(BINS, max(8, len(values) // 8))


def over_steps(training: Training) -> list[Picture]:
    """Of one training."""
    made: list[Picture] = []
    stage = training.stage
    steps = range(1, len(training.history) + 1)

    def lines(title: str, says: str, label: str, of: Mapping[str, tuple[Sequence[float | None], str]], log: bool = False) -> None:
        known = {name: (values, colour) for name, (values, colour) in of.items() if any(v is not None for v in values)}
        if not known:
            return
        with drawn(f"{title}, {stage}", says, made) as axes:
            for name, (values, colour) in known.items():
                shown: list[Any] = [float("nan") if value is None else value for value in values]
                axes.plot(steps, shown, color=colour, linewidth=1.3, label=name)
            if log:
                axes.set_yscale("log")
                for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                    set_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
            axes.set_xlabel("step")
            axes.set_ylabel(label)
            if len(known) > 1:
                axes.legend()

    def of(name: str) -> list[float | None]:
        return training.values(name)

    def perplexity(role: str) -> list[float | None]:
        return [None if score is None else 2.718281828459045**-score for score in of(f"{role}_score")]

    aligned = any(of("alignment_loss"))
    parts = {"fine-tuning": (of("vft_loss"), BEFORE), "alignment": (of("alignment_loss"), NEGATIVE)} if aligned else {}
    lines("Loss", "Of each step, on its own questions, before the step.", "loss", {"all": (of("loss"), AFTER)} | parts)
    lines(
        "Perplexity",
        "Of a token, by what its chain is; the exponential of minus the mean score.",
        "perplexity",
        {
            "references": (perplexity("reference"), BEFORE),
            "right": (perplexity("positive"), POSITIVE),
            "wrong": (perplexity("negative"), NEGATIVE),
        },
        log=True,
    )
    shares = {
        "assessment accuracy": (of("assessment_accuracy"), POSITIVE),
        "wrong under the boundary": (of("under_boundary"), MORE[0]),
    }
    if aligned:
        lines(
            "Assessment",
            "Share of pairs whose right chain scores higher; share of wrong ones under the boundary.",
            "share",
            shares,
        )
    lines("Gradient norm", "Before clipping.", "norm", {"norm": (of("gradient_norm"), MORE[1])})
    lines("Learning rate", "Of each step.", "rate", {"rate": (of("learning_rate"), MORE[2])})
    lines("Speed", "Tokens of prompts and chains, over all workers.", "tokens / s", {"": (training.tokens_per_second, MORE[0])})
    return made
