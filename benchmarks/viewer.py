"""What `aft-ray view` needs for many groups: its index, once, and then a page at a time.

Run as:  .venv/bin/python benchmarks/viewer.py [--groups 1000,10000,100000] [--pages 20]

Groups of k chains of 120 tokens in files of 64, as a run leaves them, the tenth part of them held out and evaluated. Seconds
until the server would answer; median seconds a page, in all orders and of all kinds in turn; what the process grew by, in MB;
beside it, what reading all groups as records takes, which is what the index is there to avoid.
"""

import argparse
import itertools
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from figures import keep, table

K, TOKENS, ROWS_PER_FILE, HELD_OUT = 6, 120, 64, 10


def group(number: int, rng: random.Random) -> Any:
    from schemas import Candidate, CandidateGroup, Question

    candidates = tuple(
        Candidate(
            index=index,
            text="She has 3 bags with 6 apples each, so 3 * 6 = <<3*6=18>>18. The answer is 18. " * 4,
            token_ids=tuple(range(TOKENS)),
            finish_reason="stop",
            log_likelihood=rng.uniform(-60, -10),
            verdict="right" if index % 2 else "wrong",
            label="positive" if index % 2 else "negative",
        )
        for index in range(K)
    )
    question = Question(
        question_id=f"gsm8k-{number:07}", task="gsm8k", split="train" if number % HELD_OUT else "test",
        text="How many apples has she?", gold="18", reference=None, prompt_ids=tuple(range(60)),
    )  # fmt: skip
    return CandidateGroup(
        question=question, candidates=candidates, model="m", seed=0, temperature=1.0, top_p=1.0, max_new_tokens=256
    )


def write_run(folder: Path, number: int) -> None:
    """What of a finished run the viewer reads."""
    from schemas import CandidateGroup, Evaluation, write_parquet

    rng = random.Random(0)
    (folder / "sample" / "groups").mkdir(parents=True)
    for first in range(0, number, ROWS_PER_FILE):
        rows = [group(n, rng) for n in range(first, min(number, first + ROWS_PER_FILE))]
        write_parquet(folder / "sample" / "groups" / f"{first:07}.parquet", CandidateGroup, rows)
    evaluations = [
        Evaluation(
            question_id=f"gsm8k-{n:07}", task="gsm8k", model="m", greedy=None,
            positive_scores=tuple(rng.uniform(-0.5, -0.1) for _ in range(K // 2)),
            negative_scores=tuple(rng.uniform(-0.5, -0.1) for _ in range(K // 2)),
        )
        for n in range(0, number, HELD_OUT)
    ]  # fmt: skip
    (folder / "evaluate-aft" / "evaluations").mkdir(parents=True)
    write_parquet(folder / "evaluate-aft" / "evaluations" / "1.parquet", Evaluation, evaluations)
    models = [{"name": name, "task": "gsm8k"} for name in ("vft", "aft")]
    (folder / "summary.json").write_text(json.dumps({"models": models, "comparisons": [], "stages": []}))
    (folder / "config.json").write_text(json.dumps({"name": "many"}))


def measure(number: int, pages: int) -> dict[str, float]:
    from starlette.testclient import TestClient

    from aft_ray.report.candidates import ORDERS, SHOWN
    from aft_ray.report.found import FoundRun
    from aft_ray.report.view import make_app
    from schemas import CandidateGroup, iter_parquet

    with tempfile.TemporaryDirectory() as name:
        write_run(Path(name), number)
        before = psutil.Process().memory_info().rss
        started = time.monotonic()
        client = TestClient(make_app(FoundRun(Path(name))), base_url="http://127.0.0.1")
        index = time.monotonic() - started
        seconds = []
        for page, (shown, order) in enumerate(itertools.islice(itertools.cycle(itertools.product(SHOWN, ORDERS)), pages)):
            started = time.monotonic()
            answer = client.get("/", params={"shown": shown, "order": order, "page": 1 + 7 * page})
            seconds.append(time.monotonic() - started)
            assert answer.status_code == 200
        grew = (psutil.Process().memory_info().rss - before) / 1e6
        started = time.monotonic()
        assert sum(1 for _ in iter_parquet(Path(name) / "sample" / "groups", CandidateGroup)) == number
        return {"groups": number, "index": index, "page": statistics.median(seconds), "slowest": max(seconds), "grew_mb": grew,
                "all_records": time.monotonic() - started}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", default="1000,10000,100000")
    parser.add_argument("--pages", type=int, default=32)
    given = parser.parse_args()
    measure(100, 2)  # warms up
    found = []
    for number in map(int, given.groups.split(",")):
        found.append(measure(number, given.pages))
        print(found[-1], flush=True)
    heading = ["groups", "index, s", "a page, s [slowest]", "grew by, MB", "all records read instead, s"]
    lines = [
        [f"{f['groups']:,}", f"{f['index']:.1f}", f"{f['page']:.2f} [{f['slowest']:.2f}]", f"{f['grew_mb']:.0f}",
         f"{f['all_records']:.1f}"]
        for f in found
    ]  # fmt: skip
    keep("viewer", {"runs": found}, table(heading, lines))


if __name__ == "__main__":
    main()
