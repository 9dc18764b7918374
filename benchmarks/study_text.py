"""The words of docs/study.md: what was asked, and the answer that the numbers give, whatever it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study import AFT, BETAS, FEWER_SEEDS, KS, NOISE, RATES, REFERENCES, SEEDS, TEST, TRAIN, VALIDATION, K
from study_report import (
    Results,
    Row,
    draw,
    gain,
    losses_table,
    main_table,
    mean_of,
    paint_betas,
    paint_over,
    paint_training,
    part_table,
    rates_table,
    share,
    table,
)

from aft_ray.evaluation.statistics import over_seeds

READING = Path(__file__).parent / "study_reading.md"
CONSTRAINED = {"rrhf": ("rrhf_dc", "rrhf_bc"), "pro": ("pro_dc", "pro_bc"), "unconstrained": ("dc", "bc")}


def verdict(rows: Sequence[Row], others: Sequence[Row], measure: str) -> str:
    """In a word: whether the first is higher, over seeds, with the paired difference."""
    by_seed = {row["seed"]: row for row in others}
    differences = [100 * (row[measure] - by_seed[row["seed"]][measure]) for row in rows if row["seed"] in by_seed]
    found = over_seeds(differences)
    low, high = found.interval or (float("-inf"), float("inf"))
    word = "yes" if low > 0 else "no, the other way round" if high < 0 else "not shown"
    return f"{word} ({found.mean:+.1f} points [{low:+.1f}, {high:+.1f}], {len(differences)} seeds)"


def best_of_grid(results: Results) -> float:
    means = {beta: over_seeds([r["accuracy"] for r in results.of("main", "bc", beta=beta)]).mean for beta in BETAS}
    return max(means, key=lambda beta: means[beta])


def answers(results: Results) -> str:
    vft, rft = results.of("main", "vft"), results.of("main", "rft")
    auto, best = results.of("main", "bc", beta="auto"), best_of_grid(results)
    lines = ["| | task accuracy | assessment accuracy |", "|---|---|---|"]
    for name, rows in [
        ("unconstrained", results.of("main", "unconstrained")),
        ("DC", results.of("main", "dc")),
        (f"BC, beta {best:g}, the best of the grid", results.of("main", "bc", beta=best)),
        ("BC, beta auto", auto),
    ]:
        for other, others in (("VFT", vft), ("RFT", rft)):
            told = [verdict(rows, others, measure) for measure in ("accuracy", "assessment")]
            lines.append(f"| {name} above {other}? | {told[0]} | {told[1]} |")
    lines.append(f"| RFT above VFT? | {verdict(rft, vft, 'accuracy')} | {verdict(rft, vft, 'assessment')} |")
    difference = gain(auto, results.of("main", "bc", beta=best), "accuracy")
    lines.append(f"| BC auto against the best beta of the grid ({best:g}) | {difference} | |")
    return "\n".join(lines)


def repair_table(results: Results) -> str:
    lines = []
    for free, forms in CONSTRAINED.items():
        part = "main" if free == "unconstrained" else "losses"
        for form in forms:
            rows = results.of(part, form, **({"beta": "auto"} if form == "bc" else {}))
            others = [row for row in results.of(part, free) if row["seed"] in {r["seed"] for r in rows}]
            if rows and others:
                told = [gain(rows, others, measure) for measure in ("accuracy", "assessment")]
                name = "bc, beta auto" if form == "bc" else form
                lines.append(
                    [name, free, *told, share([row["repeated"] for row in rows]), share([r["repeated"] for r in others])]
                )
    return table(["constrained", "free", "accuracy", "assessment", "repeated, constrained", "repeated, free"], lines)


def boundary_table(results: Results) -> str:
    lines = []
    rules = {"quantile": "5 % quantile of all samples", "question": "by question, shrunk", "noise": "mean less 2 deviations"}
    for rule, name in rules.items():
        part = "main" if rule == "quantile" else "boundary"
        rows = [row for row in results.of(part, "bc", beta="auto", rule=rule) if row["seed"] in FEWER_SEEDS]
        if rows:
            best = results.of("main", "bc", beta=best_of_grid(results))
            lines.append([name, str(len(rows)), share([r["accuracy"] for r in rows]), gain(rows, best, "accuracy")])
    return table(["rule", "seeds", "accuracy", "against the best of the grid"], lines)


def by_rate_table(results: Results) -> str:
    lines = []
    for loss in AFT:
        for rate in RATES:
            rows = by_rate(results, loss, rate)
            if rows:
                measures = [share([row[measure] for row in rows]) for measure in ("accuracy", "assessment")]
                scores = [mean_of(rows, measure) for measure in ("positive_score", "negative_score")]
                degenerate = [share([row[measure] for row in rows]) for measure in ("repeated", "endless")]
                lines.append([loss, f"{rate:g}", *measures, *scores, *degenerate])
    return table(["loss", "rate", "accuracy", "assessment", "s(right)", "s(wrong)", "repeated", "endless"], lines)


def by_rate(results: Results, loss: str, rate: float) -> list[Row]:
    rows = results.of("rates", loss, rate=rate) or results.of("main", loss, rate=rate, beta=0.2)
    return [row for row in rows if row["seed"] in FEWER_SEEDS]


def shown(results: Results) -> str:
    """Of the unconstrained loss at the highest rate, a chain a seed: the one that went furthest astray."""
    fence = "~" * 3
    rows = by_rate(results, "unconstrained", max(RATES))
    return "\n".join(f"Seed {row['seed']}:\n\n{fence}\n{row['worst_chains'][0].strip()[:400]}\n{fence}\n" for row in rows)


def reference_only_table(results: Results) -> str:
    lines = []
    for loss in ("unconstrained", "dc", "bc"):
        rows = results.of("reference_only", loss)
        if rows:
            both = results.of("main", loss, **({"beta": 0.2} if loss == "bc" else {}))
            lines.append([loss, share([r["accuracy"] for r in rows]), gain(rows, results.vft_of(rows), "accuracy")])
            lines[-1] += [gain(rows, results.vft_of(rows), "assessment"), gain(rows, both, "accuracy")]
    return table(["loss", "accuracy", "over VFT", "assessment over VFT", "against L_VFT over positives too"], lines)


def page(results: Results) -> str:
    noise, ks = (0.0, *sorted(NOISE)), sorted((*KS, K))
    ordered = dict.fromkeys(row["loss"] for row in results.rows if row["part"] == "ranking")
    ranking: list[list[Any]] = []
    for loss in ordered:
        rows = results.of("ranking", loss)
        measures = [share([row["accuracy"] for row in rows]), gain(rows, results.vft_of(rows), "accuracy")]
        ranking.append([loss, *measures, gain(rows, results.vft_of(rows), "assessment")])
    return f"""# Every loss on the same candidates

Written by `benchmarks/study.py` from `benchmarks/results/study.jsonl`, a line for each of {len(results.rows)} models. To repeat
or extend it:

    .venv/bin/python benchmarks/study.py

**What it is.** The task `arithmetic` (stories of two events) and the shipped base model of 1.9 M parameters. For each of
{len(SEEDS)} seeds: {TRAIN} training questions, {REFERENCES} of them with a reference; VFT on those; 6 chains of every question
sampled from the VFT model at temperature 1. Every loss then starts from that model on those same candidates: two epochs,
16 questions a step, weights 1 and 1, L_VFT over references and positives: RFT is the same without L_A. The learning rate
of each loss is the best of three, of up to five where the best lay at an end, on {VALIDATION} validation questions at seed 0.
Accuracy is greedy, on {TEST} test questions, the same for all; assessment on held-out questions, over the VFT model's own
chains. In brackets: 95 % intervals over seeds (Student's t), differences paired by seed. {len(FEWER_SEEDS)} seeds give wide ones.

**What it is not.** A model of 2 M parameters on generated questions: what holds here need not hold at 7 B on GSM8K, and the
other way round. The paper's figures are for LLaMA models and are not compared with these.

## What it says

{READING.read_text(encoding="utf-8")}
## The answers, from the tables

{answers(results)}

The best beta of the grid is chosen on these same test figures, so it is flattered, and what `auto` is compared with is too high
rather than too low.

{main_table(results)}

`rate`: learning rate; `s`: mean log-likelihood per token, under the model at hand, of the VFT model's held-out right and wrong
chains; `repeated`: 4-grams of greedy chains that repeat, in %; `endless`: greedy chains that never end, in %; `maj@6`: on 300
questions.

{draw("betas", lambda axes: paint_betas(results, axes))}

{draw("training", lambda axes: paint_training(results, axes))}

Each at its own rate, five seeds, smoothed over five steps.

## Does the unconstrained loss degrade the model, and how does it look?

Each AFT loss at each of the three rates, not only at its own best one, over {len(FEWER_SEEDS)} seeds, in % (BC with beta 0.2; VFT
has an accuracy of {share([row["accuracy"] for row in results.vft.values()])}):

{by_rate_table(results)}

The greedy chain that went furthest astray (cut off, else without an answer, else the longest wrong one) under the unconstrained
loss at the highest of these rates:

{shown(results)}

## Does the constraint repair RRHF and PRO?

{repair_table(results)}

## A boundary without a search

{boundary_table(results)}

## L_VFT over the references alone

As the paper writes its loss (which chains L_VFT covers in its experiments is not confirmed). BC with beta 0.2.

{reference_only_table(results)}

## The other losses

{losses_table(results)}

## Wrong labels

A share of the labels of the candidates is turned before alignment. Accuracy in %, two seeds, mean ± standard deviation:

{part_table(results, "noise", "noise", noise, "accuracy")}

{draw("noise", lambda axes: paint_over(results, "noise", "noise", "share of labels turned", axes))}

## More candidates

k chains a question. Accuracy in %, two seeds, mean ± standard deviation:

{part_table(results, "k", "k", ks, "accuracy")}

{draw("k", lambda axes: paint_over(results, "k", "k", "candidates a question", axes))}

## Ranks

Instead of samples, the reference and chains made from it: one result false, two, all, and the reference of another question,
ranked in that order; L_VFT over the reference.

{table(["loss", "accuracy", "over VFT", "assessment over VFT"], ranking)}

## Learning rates

Validation accuracy in %, seed 0; bold: the one that was taken. The `_ranking` forms take the rate of the form without ranks.

{rates_table(results)}
"""
