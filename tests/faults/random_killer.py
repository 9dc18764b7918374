"""Whole small runs under a seeded killer of actors, training workers, nodes and drivers; the table is in docs/reliability.md.

Run as:  .venv/bin/python -m tests.faults.random_killer [--times 20] [--first-seed 0]    (in `make chaos`; some hours on 2 cores)

Each run goes into benchmarks/results/chaos.json by its seed, and the table is of all that are there: twenty can be run in parts.

The cluster is Ray's own for tests, real processes on this machine: a head with the driver, two nodes beside it. A run is started,
and started again with the same command where its driver was killed, until it ends. Asserted of every run: each question is there
once, with its chains; VFT's model is bitwise that of the undisturbed run; so is the aligned one where the sampled chains are the
same, and vLLM samples the same where it batches the same, which a killed actor may change.
"""

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from schemas import CandidateGroup, read_parquet

ROOT = Path(__file__).parent.parent.parent
PAGE, RESULTS = ROOT / "docs" / "reliability.md", ROOT / "benchmarks" / "results" / "chaos.json"
TRAIN, HELD_OUT = 96, 32
COMMAND = f"""
    jobs/quickstart.py --name chaos --task.train_questions {TRAIN} --task.references 48 --task.test_questions {HELD_OUT}
    --vft.epochs 4 --alignment.epochs 3 --vft.steps_per_checkpoint 2 --alignment.steps_per_checkpoint 2 --sampling.k 4
    --resources.training_workers 2 --resources.sampling_actors [1,2] --resources.max_failures 20
""".split()
TITLES = {"actor": r"MapWorker\(MapBatches\((Sampling|Evaluation)Actor", "worker": r"RayTrainWorker"}
KINDS = ("actor", "worker", "node", "driver")
MEAN_SECONDS, GIVE_UP_SECONDS = 25.0, 1800.0


@dataclass
class Outcome:
    """Of one run."""

    seconds: float
    injected: list[str] = field(default_factory=list)
    until_progress: dict[str, list[float]] = field(default_factory=dict)
    lost: int = 0
    doubled: int = 0
    same_chains: bool = True


class Killer:
    """A cluster, a run on it, and at random moments a process of theirs less."""

    def __init__(self, folder: Path, seed: int | None) -> None:
        self.folder, self.random, self.calm = folder, random.Random(seed), seed is None
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.nodes = [self.cluster.add_node(num_cpus=2) for _ in range(2)]
        self.outcome = Outcome(0.0)
        self.waiting: list[tuple[str, float]] = []

    def run(self) -> Outcome:
        started, seen = time.monotonic(), set(self.progress())
        driver, next_kill = self.start(), started + self.pause()
        while driver.poll() is None or driver.returncode != 0:
            assert time.monotonic() - started < GIVE_UP_SECONDS, "no end of it"
            if driver.poll() is not None:
                assert driver.returncode == -9, f"the run ended by itself with {driver.returncode}; see {self.folder}"
                driver = self.start()
            found = set(self.progress())
            if found - seen:
                for kind, since in self.waiting:
                    self.outcome.until_progress.setdefault(kind, []).append(time.monotonic() - since)
                self.waiting = []
            seen |= found
            if not self.calm and time.monotonic() > next_kill and not self.waiting and self.kill(driver):
                next_kill = time.monotonic() + self.pause()
            time.sleep(0.2)
        self.outcome.seconds = time.monotonic() - started
        self.cluster.shutdown()
        return self.outcome

    def start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {"RAY_ADDRESS": self.cluster.address, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120"}
        with (self.folder / "driver.log").open("ab") as log:
            command = [sys.executable, *COMMAND, "--runs_dir", str(self.folder)]
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def pause(self) -> float:
        return self.random.expovariate(1 / MEAN_SECONDS)

    def progress(self) -> Iterator[str]:
        """What a run has committed: records, checkpoints, stages. By their names, which are unique."""
        for pattern in ("**/*.parquet", "**/checkpoint_*", "*/manifest.json"):
            with suppress(FileNotFoundError):  # a folder that goes while it is looked into is seen the next time, if it stays
                yield from (str(path) for path in (self.folder / "chaos").glob(pattern))

    def kill(self, driver: subprocess.Popen[bytes]) -> bool:
        kind = self.random.choice(KINDS)
        if kind == "node":
            self.cluster.remove_node(self.nodes.pop(self.random.randrange(len(self.nodes))), allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=2))
        elif kind == "driver":
            driver.kill()
            driver.wait()
        else:
            raylets = [node.all_processes["raylet"][0].process.pid for node in (self.cluster.head_node, *self.nodes)]
            found = [p for raylet in raylets for p in psutil.Process(raylet).children() if re.search(TITLES[kind], title(p))]
            if not found:
                return False
            with suppress(psutil.NoSuchProcess):
                self.random.choice(sorted(found, key=lambda process: process.pid)).kill()
        self.outcome.injected.append(kind)
        self.waiting.append((kind, time.monotonic()))
        return True


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def examine(folder: Path, outcome: Outcome, undisturbed: Path | None) -> None:
    run = folder / "chaos"
    groups = read_parquet(run / "sample" / "groups", CandidateGroup)
    ids = [group.question.question_id for group in groups]
    given_up = [group.question.question_id for group in groups if group.failure is not None]
    assert not given_up, f"no question is to blame for a kill: {given_up}"
    outcome.lost, outcome.doubled = TRAIN + HELD_OUT - len(set(ids)), len(ids) - len(set(ids))
    if undisturbed is None:
        return
    reference = {g.question.question_id: g for g in read_parquet(undisturbed / "chaos" / "sample" / "groups", CandidateGroup)}
    outcome.same_chains = all(chains(reference[group.question.question_id]) == chains(group) for group in groups)
    for stage in ("vft", *(["align"] if outcome.same_chains else [])):
        one, other = (load_file(place / "chaos" / stage / "model" / "model.safetensors") for place in (folder, undisturbed))
        assert all((one[name] == other[name]).all() for name in other), f"{stage}: other weights than undisturbed"


def chains(group: CandidateGroup) -> list[tuple[int, ...]]:
    return [candidate.token_ids for candidate in group.candidates]


def table(outcomes: list[Outcome], calm_seconds: list[float]) -> str:
    injected = sum(len(outcome.injected) for outcome in outcomes)
    again = sum(outcome.seconds - calm for outcome, calm in zip(outcomes, calm_seconds, strict=True)) / max(1, injected)
    lost, doubled, same = (sum(getattr(o, name) for o in outcomes) for name in ("lost", "doubled", "same_chains"))
    lines = [
        "| fault | times injected | lost | doubled | done again, start-up with it | seconds to progress, median [max] |",
        "|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        seconds = [value for outcome in outcomes for value in outcome.until_progress.get(kind, [])]
        told = f"{statistics.median(seconds):.0f} [{max(seconds):.0f}]" if seconds else ""
        times = sum(outcome.injected.count(kind) for outcome in outcomes)
        lines.append(f"| {kind} killed | {times} | | | | {told} |")
    lines += [
        f"| all | {injected} | {lost} | {doubled} | {again:.0f} s each | |",
        "",
        f"{len(outcomes)} runs of {TRAIN + HELD_OUT} questions; undisturbed, one takes {statistics.median(calm_seconds):.0f} s. "
        "VFT's model was bitwise that of the undisturbed run in all of them; "
        f"the aligned one in the {same} whose sampled chains were all the same.",
    ]
    return "\n".join(lines)


def keep(seed: int, outcome: Outcome, calm: Outcome) -> None:
    """Beside those of other seeds; the table anew."""
    runs = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else {}
    told = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    runs[str(seed)] = asdict(outcome) | {"calm_seconds": calm.seconds, "commit": told}
    RESULTS.write_text(json.dumps({"command": "python -m tests.faults.random_killer", "runs": runs}, indent=1) + "\n")
    outcomes = [Outcome(**{field.name: run[field.name] for field in fields(Outcome)}) for run in runs.values()]
    told = table(outcomes, [run["calm_seconds"] for run in runs.values()])
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- chaos -->\n")
    PAGE.write_text(f"{before}<!-- chaos -->\n\n{told}\n\n<!-- /chaos -->{rest.partition('<!-- /chaos -->')[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="killer-"))
    print(f"runs and their logs are in {place} until all have passed", flush=True)
    calm_folder = place / "calm"
    calm_folder.mkdir()
    calm = Killer(calm_folder, None).run()
    examine(calm_folder, calm, None)
    print("undisturbed", round(calm.seconds), "s", flush=True)
    for seed in range(given.first_seed, given.first_seed + given.times):
        folder = place / str(seed)
        folder.mkdir()
        outcome = Killer(folder, seed).run()
        examine(folder, outcome, calm_folder)
        assert (outcome.lost, outcome.doubled) == (0, 0), f"seed {seed}"
        keep(seed, outcome, calm)
        print(seed, round(outcome.seconds), "s", outcome.injected, "same chains" if outcome.same_chains else "", flush=True)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
