"""Where a benchmark's figures go: benchmarks/results/NAME.json, and its table in benchmarks/README.md between its two marks."""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aft_ray.storage import versions

HERE = Path(__file__).parent


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median [min, max]."""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [heading, ["---"] * len(heading), *lines])


def keep(name: str, figures: Any, told: str) -> None:
    """Write a benchmark's figures and its table, with the hardware, versions, commit and command that gave them."""
    command = f".venv/bin/python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip()
    record = {
        "command": re.sub(r"(?<= )/\S+", "DIRECTORY", command),
        "date": date.today().isoformat(),
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True
        ).stdout.strip(),
        "hardware": hardware(),
        "versions": versions() | ({"trl": version("trl")} if find_spec("trl") else {}),
        "figures": figures,
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    page = HERE / "README.md"
    text, marks = page.read_text(encoding="utf-8"), (f"<!-- {name} -->\n", f"<!-- /{name} -->")
    before, _, rest = text.partition(marks[0])
    after = rest.partition(marks[1])[2]
    page.write_text(f"{before}{marks[0]}\n{told}\n\n{marks[1]}{after}", encoding="utf-8")
    print(told)


def hardware() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0].partition(':')[2].strip() if names else platform.machine()}"
