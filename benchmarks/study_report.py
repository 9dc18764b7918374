"""Tables and pictures of docs/study.md, from the lines in benchmarks/results/study.jsonl."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from aft_ray.evaluation.statistics import over_seeds

ROOT = Path(__file__).parent.parent
PAGE, PICTURES = ROOT / "docs" / "study.md", ROOT / "docs" / "study"
Row = dict[str, Any]
# Legible on white and on black.
COLOURS = ("#3b82c4", "#d9822b", "#3f9b5b", "#b0569b", "#8a7a2a", "#c0473b", "#5b6b7b")
AFT = ("unconstrained", "dc", "bc")


class Results:
    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.vft = {row["seed"]: row for row in rows if row["loss"] == "vft"}

    def of(self, part: str, loss: str, **more: Any) -> list[Row]:
        """One row a seed, in the order of seeds."""
        found = [r for r in self.rows if (r["part"], r["loss"]) == (part, loss) and all(r[k] == v for k, v in more.items())]
        return sorted(found, key=lambda row: row["seed"])

    def vft_of(self, rows: Sequence[Row]) -> list[Row]:
        return [self.vft[row["seed"]] for row in rows]


def share(values: Sequence[float]) -> str:
    """Mean in percent with its interval over seeds; of two seeds, which give none worth the name, with their deviation."""
    found = over_seeds([100 * value for value in values])
    if len(values) == 2:
        return f"{found.mean:.1f} ± {found.deviation:.1f}"
    interval = f" [{found.interval[0]:.1f}, {found.interval[1]:.1f}]" if found.interval else ""
    return f"{found.mean:.1f}{interval}"


def gain(rows: Sequence[Row], others: Sequence[Row], measure: str) -> str:
    """Paired by seed, in points."""
    others_by_seed = {row["seed"]: row for row in others}
    pairs = [(row, others_by_seed[row["seed"]]) for row in rows if row["seed"] in others_by_seed]
    if not pairs:
        return ""
    found = over_seeds([100 * (row[measure] - other[measure]) for row, other in pairs])
    interval = f" [{found.interval[0]:+.1f}, {found.interval[1]:+.1f}]" if found.interval else ""
    return f"{found.mean:+.1f}{interval}"


def table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [heading, ["---"] * len(heading), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def mean_of(rows: Sequence[Row], measure: str, digits: int = 3) -> str:
    values = [row[measure] for row in rows if row.get(measure) is not None]
    return f"{over_seeds(values).mean:.{digits}f}" if values else ""


def measures_line(name: str, results: Results, rows: Sequence[Row]) -> list[str]:
    return [
        name,
        str(len(rows)),
        f"{rows[0]['rate']:g}" if rows[0]["rate"] else "",
        share([row["accuracy"] for row in rows]),
        gain(rows, results.vft_of(rows), "accuracy"),
        gain(rows, results.of("main", "rft"), "accuracy") if name != "rft" else "",
        share([row["assessment"] for row in rows]),
        share([row["majority"] for row in rows if "majority" in row]) if any("majority" in row for row in rows) else "",
        mean_of(rows, "positive_score"),
        mean_of(rows, "negative_score"),
        f"{100 * over_seeds([row['repeated'] for row in rows]).mean:.1f}",
        f"{100 * over_seeds([row['endless'] for row in rows]).mean:.1f}",
    ]


HEADING = (
    "loss", "seeds", "rate", "accuracy", "over VFT", "over RFT", "assessment", "maj@6", "s(right)", "s(wrong)",
    "repeated", "endless",
)  # fmt: skip


def main_table(results: Results) -> str:
    lines = []
    for loss, more in [("vft", {}), ("rft", {}), ("unconstrained", {}), ("dc", {})]:
        rows = results.of("main", loss, **more)
        if rows:
            lines.append(measures_line(loss, results, rows))
    for beta in sorted({row["beta"] for row in results.rows if (row["part"], row["loss"]) == ("main", "bc")}, key=str):
        lines.append(measures_line(f"bc, beta {beta}", results, results.of("main", "bc", beta=beta)))
    return table(HEADING, lines)


def losses_table(results: Results) -> str:
    names = dict.fromkeys(row["loss"] for row in results.rows if row["part"] == "losses")
    lines = [measures_line(name, results, results.of("losses", name)) for name in names]
    return table(HEADING, sorted(lines, key=lambda line: -float(line[3].split()[0])))


def part_table(results: Results, part: str, key: str, values: Sequence[Any], measure: str) -> str:
    """A loss a line, a value of `key` a column."""
    names = dict.fromkeys(row["loss"] for row in results.rows if row["part"] == part)
    lines = []
    for name in names:
        cells = [results.of(part, name, **{key: value}) or clean(results, name, key, value) for value in values]
        lines.append([name, *(share([row[measure] for row in rows]) if rows else "" for rows in cells)])
    return table(["loss", *(f"{value:g}" for value in values)], lines)


def clean(results: Results, loss: str, key: str, value: Any) -> list[Row]:
    """Without noise and with 6 candidates: the models of the main tables, of the same two seeds."""
    if (key, value) not in (("noise", 0.0), ("k", 6)):
        return []
    rows = results.of("main", loss, beta=0.2) or results.of("losses", loss)
    return [row for row in rows if row["seed"] in (0, 1)]


def rates_table(results: Results) -> str:
    names = dict.fromkeys(row["loss"] for row in results.rows if row["part"] == "search")
    rates = sorted({row["rate"] for row in results.rows if row["part"] == "search"})
    lines = []
    for name in names:
        found = {row["rate"]: row["accuracy"] for row in results.of("search", name)}
        best = max(found, key=lambda rate: (found[rate], rate))
        cells = [f"{100 * found[rate]:.1f}" if rate in found else "" for rate in rates]
        lines.append([name, *(f"**{c}**" if rate == best else c for rate, c in zip(rates, cells, strict=True))])
    return table(["loss", *(f"{rate:g}" for rate in rates)], lines)


# Pictures.


def draw(name: str, paint: Callable[[Any], None], width: float = 7.0) -> str:
    figure, axes = plt.subplots(figsize=(width, 3.6), layout="constrained")
    paint(axes)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / f"{name}.png", dpi=130, facecolor="white")
    plt.close(figure)
    return f"![{name}](study/{name}.png)"


def curve(axes: Any, xs: Sequence[float], values: Sequence[Sequence[float]], label: str, colour: str) -> None:
    found = [over_seeds([100 * value for value in of_x]) for of_x in values]
    errors = [f.deviation for f in found]
    axes.errorbar(xs, [f.mean for f in found], yerr=errors, label=label, color=colour, marker="o", capsize=3)


def paint_training(results: Results, axes: Any) -> None:
    """Mean score of negatives in the batch, step by step: what the constraint is about."""
    curves = [("rft", {}), ("unconstrained", {}), ("dc", {}), ("bc", {"beta": "auto"})]
    for colour, (loss, more) in zip(COLOURS, curves, strict=False):
        rows = [row for row in results.of("main", loss, **more) if row.get("history")]
        if rows:
            steps = [of_seeds for of_seeds in zip(*(row["history"]["negative_score"] for row in rows), strict=False)]
            means = [sum(v for v in step if v is not None) / max(1, sum(v is not None for v in step)) for step in steps]
            smooth = [sum(means[max(0, i - 4) : i + 1]) / len(means[max(0, i - 4) : i + 1]) for i in range(len(means))]
            axes.plot(smooth, label=loss if loss != "bc" else "bc, beta auto", color=colour)
    axes.set_xlabel("step")
    axes.set_ylabel("mean s of negatives, nats per token")
    axes.legend()


def paint_over(results: Results, part: str, key: str, label: str, axes: Any) -> None:
    for colour, name in zip(COLOURS, dict.fromkeys(r["loss"] for r in results.rows if r["part"] == part), strict=False):
        values = sorted({row[key] for row in results.of(part, name)} | {0.0 if key == "noise" else 6})
        points = [(value, results.of(part, name, **{key: value}) or clean(results, name, key, value)) for value in values]
        points = [(value, rows) for value, rows in points if rows]
        curve(axes, [value for value, _ in points], [[r["accuracy"] for r in rows] for _, rows in points], name, colour)
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy, % (bars: standard deviation over seeds)", fontsize="small")
    axes.legend()


def paint_betas(results: Results, axes: Any) -> None:
    betas = sorted({r["beta"] for r in results.rows if r["part"] == "main" and r["loss"] == "bc" and r["beta"] != "auto"})
    values = [[row["accuracy"] for row in results.of("main", "bc", beta=beta)] for beta in betas]
    curve(axes, betas, values, "bc", COLOURS[0])
    for colour, (name, more) in zip(COLOURS[1:], [("bc", {"beta": "auto"}), ("rft", {}), ("vft", {})], strict=False):
        rows = results.of("main", name, **more)
        if rows:
            found = over_seeds([100 * row["accuracy"] for row in rows])
            axes.axhline(found.mean, color=colour, linestyle="--", label="bc, beta auto" if name == "bc" else name)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(betas, [f"{beta:g}" for beta in betas])
    axes.set_xlabel("beta, nats per token")
    axes.set_ylabel("accuracy, % (bars: standard deviation over seeds)", fontsize="small")
    axes.legend()


def write(rows: Sequence[Row]) -> None:
    from study_text import page

    PAGE.write_text(page(Results(rows)), encoding="utf-8")
